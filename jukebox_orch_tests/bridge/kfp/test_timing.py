"""The time split of a KFP run, from synthetic pods."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from jukebox_orch_tests.bridge.kfp.emulation import Cluster
from jukebox_orch_tests.bridge.kfp.site import Site
from jukebox_orch_tests.bridge.kfp.timing import NODE, table

ASSETS = {"data": "jukebox/data", "left": "jukebox/left", "right": "jukebox/right"}


def at(second: float) -> datetime:
    return datetime(2026, 11, 23, 22, 0, 0, tzinfo=UTC) + timedelta(seconds=second)


def add(cluster: Cluster, node: str, *times: int, asset: str | None = None, wait: int = 0) -> Any:
    """Add a pod with the times of its creation, the start and the end of main; its sidecar ends `wait` s later."""
    created, started, finished = times
    statuses = [
        SimpleNamespace(
            name=name,
            state=SimpleNamespace(terminated=SimpleNamespace(started_at=at(started), finished_at=at(end))),
        )
        for name, end in (("main", finished), ("wait", finished + wait))
    ]
    metadata = SimpleNamespace(
        name=node,
        labels={"pipeline/runid": "run-1"},
        annotations={NODE: f"jukebox-x7k2p.root.{node}", **({"dagster/assets": asset} if asset else {})},
        creation_timestamp=at(created),
    )
    pod = SimpleNamespace(metadata=metadata, status=SimpleNamespace(container_statuses=statuses))
    cluster.pods.append(pod)
    return pod


def add_task(cluster: Cluster, task: str, *times: int, began: float) -> None:
    add(cluster, f"{task}.executor(0)", *times, asset=ASSETS[task])
    cluster.logs[f"{task}.executor(0)"] = [
        (at(times[1]), "I1123 launcher\n"),
        (at(began), f"dagster - DEBUG - jukebox - {task} - STEP_START - Started execution of step.\n"),
        (at(times[2]), f"dagster - DEBUG - jukebox - {task} - STEP_SUCCESS - Finished.\n"),
    ]


@pytest.fixture
def cluster() -> Cluster:
    """One task, then two in parallel: 100 s of wall time, with pods from 2 to 30 and from 40 to 90."""
    cluster = Cluster()
    root = add(cluster, "root-driver", 2, 4, 5)
    root.metadata.annotations[NODE] = "jukebox-x7k2p.root-driver"
    add(cluster, "data-driver(0)", 5, 6, 8, wait=1)
    add_task(cluster, "data", 9, 13, 30, began=20.9)
    for task, began in (("left", 60.0), ("right", 64.25)):
        add(cluster, f"{task}-driver", 40, 42, 45)
        add_task(cluster, task, 45, 51, 90, began=began)
    # Argo's agent also has the label of the run, and exists as long as the run.
    agent = add(cluster, "agent", 0, 1, 100)
    agent.metadata.annotations = None
    return cluster


def split(cluster: Cluster) -> list[list[str]]:
    site = Site(None, cluster, None, "kubeflow", "", "image:1")  # type: ignore[arg-type]
    run = SimpleNamespace(run_id="run-1", created_at=at(0), finished_at=at(100))
    return [line.split() for line in table(site, run, ASSETS).splitlines()]


def test_table_has_phases_of_tasks_and_wall_time(cluster: Cluster):
    first, heads, *rows, _ = split(cluster)
    assert " ".join(first) == "run-1, wall 100 s, 22 s of it without a pod; driver of the run 3 s"
    assert heads == ["s", "driver", "pod", "start", "import", "compute"]
    assert rows == [
        ["data", "4", "4", "7", "10"],
        ["left", "5", "6", "9", "30"],
        ["right", "5", "6", "13", "26"],
        ["median", "5", "6", "9", "26"],
        ["total", "14", "16", "29", "66"],
    ]


def test_table_notes_missing_driver_pods(cluster: Cluster):
    cluster.pods = [pod for pod in cluster.pods if "-driver" not in pod.metadata.name]
    first, _, data, *_, total, note, _ = split(cluster)
    assert first[-2:] == ["-", "s"]
    assert (data[1], total[1]) == ("-", "-")
    assert " ".join(note).startswith("no driver pods: the drivers ran")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("left.executor(0)", "left: 0 pods of run run-1 are left, not 1"),
        ("left-driver", "left: the pod of its driver in run run-1 was already collected"),
    ],
)
def test_garbage_collected_pod_is_reported(cluster: Cluster, lost: str, message: str):
    cluster.pods = [pod for pod in cluster.pods if pod.metadata.name != lost]
    with pytest.raises(AssertionError, match=message):
        split(cluster)


def test_missing_log_or_step_start_is_reported(cluster: Cluster):
    log = cluster.logs.pop("left.executor(0)")
    with pytest.raises(
        AssertionError, match=r"left.executor\(0\): its log is missing, already collected: Not Found"
    ):
        split(cluster)
    cluster.logs["left.executor(0)"] = log[:1]
    with pytest.raises(AssertionError, match=r"left.executor\(0\): its log has no STEP_START of Dagster"):
        split(cluster)


def test_pod_without_end_time_is_reported(cluster: Cluster):
    pod = next(pod for pod in cluster.pods if pod.metadata.name == "right.executor(0)")
    pod.status.container_statuses[0].state.terminated = None
    with pytest.raises(AssertionError, match="container main has no end time"):
        split(cluster)
