"""Splits the time of a run on KFP: driver, pod start, import and compute of each task, and the run's wall time.

All in whole seconds, as Kubernetes has them. Tasks run in parallel, so the total of a phase is not a part of the wall
time.
"""

import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jukebox_orch_tests.bridge.kfp.site import Site, expect
from kfp_bridge.pipeline_spec import read_pipeline_spec

# Argo's annotation: <workflow>.root.<task>-driver, <workflow>.root-driver; (0) after it where the node has retries.
# Argo's agent, which runs the drivers of newer back ends, has the run's label, but not this annotation.
NODE = "workflows.argoproj.io/node-name"
Span = tuple[float, float]


@dataclass(frozen=True)
class TaskTime:
    """Seconds of one task.

    `driver`: its driver's pod, from its creation until its last container ended; None if drivers have no pods.
    `pod_start`: from the creation of the task's pod to the start of container main, with pulls and init containers.
    `imports`: to the start of Dagster's step; before Python, KFP's launcher fetches the inputs.
    `compute`: to the end of main, with the launcher's upload of the outputs.
    """

    driver: float | None
    pod_start: float
    imports: float
    compute: float


def time_split(site: Site, path: Path, name: str, values: Mapping[str, Any]) -> str:
    """Return the table of a run that an earlier check started under this name."""
    run, spec = site.succeeded(path, name, values), read_pipeline_spec(path)
    assets = {task: spec.pod(task)["podMetadata"]["annotations"]["dagster/assets"] for task in spec.tasks}
    return table(site, run, assets)


def table(site: Site, run: Any, assets: Mapping[str, str]) -> str:
    """Return a line for each task, then the medians and totals of each phase.

    Raises:
        AssertionError: a pod or its log was already collected, so that its times are unknown.
    """
    pods = site.pods_of_run(run.run_id)
    drivers = driver_spans(pods)
    times = {task: task_time(site, run.run_id, task, asset, drivers) for task, asset in assets.items()}
    started, finished = seconds(run.created_at), seconds(run.finished_at)
    own = [lifetime(pod) for pod in pods if NODE in (pod.metadata.annotations or {})]
    idle = finished - started - covered((max(a, started), min(b, finished)) for a, b in own)
    phases = list(zip(*(astuple(time) for time in times.values()), strict=True))
    rows = [
        ("s", "driver", "pod start", "import", "compute"),
        *((task, *map(shown, astuple(time))) for task, time in times.items()),
        ("median", *(shown(None if None in phase else statistics.median(phase)) for phase in phases)),
        ("total", *(shown(None if None in phase else sum(phase)) for phase in phases)),
    ]
    wall, root = finished - started, shown(length(drivers["root"]) if "root" in drivers else None)
    return "\n".join(
        [
            f"{run.run_id}, wall {wall:.0f} s, {idle:.0f} s of it without a pod; driver of the run {root} s",
            *(f"  {row[0]:<30}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows),
            *(
                []
                if drivers
                else ["  no driver pods: the drivers ran in Argo's agent, or their pods were collected"]
            ),
            "  tasks run in parallel: a total is not a part of the wall time",
        ]
    )


def task_time(site: Site, run_id: str, task: str, asset: str, drivers: Mapping[str, Span]) -> TaskTime:
    """Return the times of the task's only pod and of its driver's."""
    pods = site.pods_of(run_id, asset)
    expect(len(pods) == 1, f"{task}: {len(pods)} pods of run {run_id} are left, not 1: collected or cached")
    expect(
        not drivers or task in drivers, f"{task}: the pod of its driver in run {run_id} was already collected"
    )
    (pod,) = pods
    main = ended(pod, "main")
    started, began = seconds(main.started_at), seconds(step_start(site, pod))
    return TaskTime(
        driver=length(drivers[task]) if drivers else None,
        pod_start=started - seconds(pod.metadata.creation_timestamp),
        imports=began - started,
        compute=seconds(main.finished_at) - began,
    )


def driver_spans(pods: Iterable[Any]) -> dict[str, Span]:
    """Return the span from the first driver pod's creation to the last one's end, by task; "root": the run's driver."""
    found: dict[str, Span] = {}
    for pod in pods:
        node = (pod.metadata.annotations or {}).get(NODE, "")
        if match := re.search(r"([^.]+)-driver(\(\d+\))?$", node):
            first, last = lifetime(pod)
            before = found.get(match[1], (first, last))
            found[match[1]] = (min(first, before[0]), max(last, before[1]))
    return found


def step_start(site: Site, pod: Any) -> datetime:
    """Return when Dagster's first step started, from the log of the pod."""
    from kubernetes.client import ApiException

    name = pod.metadata.name
    try:
        log = site.pods.read_namespaced_pod_log(name, site.namespace, container="main", timestamps=True)
    except ApiException as error:
        raise AssertionError(f"pod {name}: its log is missing, already collected: {error.reason}") from error
    line = next((line for line in log.splitlines() if " STEP_START " in line), None)
    if line is None:
        raise AssertionError(f"pod {name}: its log has no STEP_START of Dagster")
    return datetime.fromisoformat(line.split()[0])


def ended(pod: Any, container: str) -> Any:
    """Return the terminated state of a container of an ended pod."""
    states = {status.name: status.state.terminated for status in pod.status.container_statuses or []}
    if (found := states.get(container)) is None:
        raise AssertionError(f"pod {pod.metadata.name}: container {container} has no end time")
    return found


def lifetime(pod: Any) -> Span:
    """Return the time from the pod's creation to its last container's end: Argo waits for its sidecar too."""
    ends = [seconds(ended(pod, status.name).finished_at) for status in pod.status.container_statuses or []]
    expect(bool(ends), f"pod {pod.metadata.name}: has no end time")
    return seconds(pod.metadata.creation_timestamp), max(ends)


def covered(spans: Iterable[Span]) -> float:
    """Return the length of the union of the spans."""
    total, reached = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total


def length(span: Span) -> float:
    """Return the seconds from the span's start to its end."""
    return span[1] - span[0]


def seconds(moment: datetime) -> float:
    """Return whole seconds since 1970, so that fractions of one source never make a phase negative."""
    return float(int(moment.timestamp()))


def shown(value: float | None) -> str:
    """Return a cell of the table."""
    return "-" if value is None else f"{value:g}"
