"""Compares the sample job in pods with the same job in one process, and splits the time of a step in a pod.

Needs the system in the cluster of `KUBECONFIG` (`make k8s-up`). Pod times are whole seconds, as Kubernetes has them.
"""

import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import PYTHON, repeat, run
from k8s.tests.system import Cluster, Dagster, events_text, wait_until

# dataset; validated_data and features; trained_model; evaluation and onnx_model; registered_model.
LEVELS = 5
# Every run has another seed, so that nothing is reused.
_SEEDS = iter(range(int(time.time()) % 2**30, 2**31))


def main() -> None:
    """Print all figures."""
    cluster = Cluster()
    dagster = Dagster(cluster)
    try:
        wait_until(dagster.loaded, 120, "the webserver to load the code location")
        one = repeat("sample job, one process", _in_process)
        pods = repeat("sample job, a pod per step", lambda: _in_pods(cluster, dagster))
    finally:
        cluster.close()
    overhead = pods["wall"] - one["wall"]
    print(
        f"pods - one process: {overhead:.1f} s, {overhead / LEVELS:.1f} s for each of {LEVELS} sequential steps"
    )


def _in_process() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "dagster.yaml").write_text(Path("dagster.yaml").read_text())
        (home / "run.yaml").write_text(yaml.safe_dump({"seed": next(_SEEDS)}))
        job = ["-m", "jukebox_orch.definitions", "-j", "jukebox_training", "-c", str(home / "run.yaml")]
        return {"wall": run([PYTHON, "-m", "dagster", "job", "execute", *job], {"DAGSTER_HOME": folder}).wall}


def _in_pods(cluster: Cluster, dagster: Dagster) -> dict[str, float]:
    requested = time.time()
    run_id = dagster.start({"seed": next(_SEEDS)})
    finished = dagster.finished(run_id)
    if finished["status"] != "SUCCESS":
        raise RuntimeError(events_text(finished))
    steps = _steps(finished["eventConnection"]["events"])
    for name, (pod, *_) in cluster.steps(run_id).items():
        (container,) = pod["status"]["containerStatuses"]
        started = datetime.fromisoformat(container["state"]["terminated"]["startedAt"]).timestamp()
        steps[name]["container"] = started
    registration = steps["registered_model"]
    return {
        "wall": finished["endTime"] - requested,
        "run_worker": min(s["requested"] for s in steps.values()) - requested,
        "pod_start": statistics.median(s["container"] - s["requested"] for s in steps.values()),
        "python_and_dagster": statistics.median(s["worker"] - s["container"] for s in steps.values()),
        "definitions_and_libraries": statistics.median(s["started"] - s["worker"] for s in steps.values()),
        "compute": sum(s["ended"] - s["started"] for n, s in steps.items() if n != "registered_model"),
        "registration": registration["ended"] - registration["started"],
    }


def _steps(events: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return when each step was requested, had its worker, started and ended (s since 1970), by asset name."""
    names = {
        "StepWorkerStartingEvent": "requested",
        "StepWorkerStartedEvent": "worker",
        "ExecutionStepStartEvent": "started",
        "ExecutionStepSuccessEvent": "ended",
    }
    steps: dict[str, dict[str, float]] = {}
    for event in events:
        if event["__typename"] in names:
            name = event["stepKey"].rpartition("__")[2]
            steps.setdefault(name, {})[names[event["__typename"]]] = float(event["timestamp"]) / 1000
    return steps
