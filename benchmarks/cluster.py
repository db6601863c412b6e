"""The sample job in pods beside the same job in one process; where the time of a step in a pod goes.

Needs the system in the cluster of `KUBECONFIG` (`make k8s-up`). Pod times are whole seconds: Kubernetes has no finer.
"""

import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import PYTHON, repeat, run
from k8s.tests.system import Cluster, Dagster, said, wait_until

# dataset; validated_data and features; trained_model; evaluation and onnx_model; registered_model.
LEVELS = 5
# No two runs alike: nothing is reused.
_SEEDS = iter(range(int(time.time()) % 2**30, 2**31))


def main() -> None:
    """Print every figure."""
    cluster = Cluster()
    dagster = Dagster(cluster)
    try:
        wait_until(dagster.loaded, 120, "the webserver to load the code location")
        one = repeat("sample job, one process", _in_process)
        pods = repeat("sample job, a pod per step", lambda: _in_pods(cluster, dagster))
    finally:
        cluster.close()
    more = pods["wall"] - one["wall"]
    print(
        f"pods - one process: {more:.1f} s, {more / LEVELS:.1f} s for each of {LEVELS} steps one after the other"
    )


def _in_process() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "dagster.yaml").write_text(Path("dagster.yaml").read_text())
        (home / "run.yaml").write_text(yaml.safe_dump({"seed": next(_SEEDS)}))
        job = ["-m", "jukebox_orch.definitions", "-j", "jukebox_training", "-c", str(home / "run.yaml")]
        return {"wall": run([PYTHON, "-m", "dagster", "job", "execute", *job], {"DAGSTER_HOME": folder}).wall}


def _in_pods(cluster: Cluster, dagster: Dagster) -> dict[str, float]:
    asked = time.time()
    run_id = dagster.start({"seed": next(_SEEDS)})
    found = dagster.finished(run_id)
    if found["status"] != "SUCCESS":
        raise RuntimeError(said(found))
    steps = _steps(found["eventConnection"]["events"])
    for name, (pod, *_) in cluster.steps(run_id).items():
        (container,) = pod["status"]["containerStatuses"]
        began = datetime.fromisoformat(container["state"]["terminated"]["startedAt"]).timestamp()
        steps[name]["container"] = began
    registration = steps["registered_model"]
    return {
        "wall": found["endTime"] - asked,
        "run_worker": min(s["asked"] for s in steps.values()) - asked,
        "pod_start": statistics.median(s["container"] - s["asked"] for s in steps.values()),
        "python_and_dagster": statistics.median(s["worker"] - s["container"] for s in steps.values()),
        "definitions_and_libraries": statistics.median(s["began"] - s["worker"] for s in steps.values()),
        "compute": sum(s["ended"] - s["began"] for n, s in steps.items() if n != "registered_model"),
        "registration": registration["ended"] - registration["began"],
    }


def _steps(events: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """When each step was asked for, had its worker, began and ended (s since 1970), by asset name."""
    moments = {
        "StepWorkerStartingEvent": "asked",
        "StepWorkerStartedEvent": "worker",
        "ExecutionStepStartEvent": "began",
        "ExecutionStepSuccessEvent": "ended",
    }
    steps: dict[str, dict[str, float]] = {}
    for event in events:
        if event["__typename"] in moments:
            name = event["stepKey"].rpartition("__")[2]
            steps.setdefault(name, {})[moments[event["__typename"]]] = float(event["timestamp"]) / 1000
    return steps
