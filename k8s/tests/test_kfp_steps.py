"""Runs each exported step as a real pod, with the executor input that a KFP launcher would give it.

A folder of the artifacts' claim replaces the object store: it is mounted at the path of the artifacts in the executor
input.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jukebox_orch_tests.bridge.kfp.acceptance import dagster_job
from jukebox_orch_tests.support.dagster_runs import materializations
from k8s.tests.system import Cluster, Volumes, wait_until
from kfp_bridge.pipeline_spec import PipelineSpec, read_pipeline_spec
from kfp_bridge.records import TaskRecord, parse_record
from kfp_bridge.running.local import executor_input, pipeline_values, task_command, task_order

FOLDER = "kfp-steps"
IMAGE = "localhost/jukebox-step:dev"
TEST_IMAGE = "localhost/jukebox-step-test:dev"  # with the graphs of the tests
LABEL = {"jukebox/test": "kfp-steps"}
SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
QUICK = {"epochs": 3, "metric_floor": 0.1}


@dataclass(frozen=True)
class Steps:
    """Pods of exported steps. `root` is the same path here and in the pods."""

    cluster: Cluster
    volumes: Volumes
    root: Path

    def run(self, spec: PipelineSpec, task: str, values: dict[str, Any]) -> dict[str, Any]:
        """Run one task, copy what it wrote to `root` here, and return its pod."""
        given = json.dumps(executor_input(spec, task, pipeline_values(spec, values), self.root))
        container = spec.executor(task)["container"]
        amounts = container.get("resources", {})
        pod = self.cluster.pod_of_step_image(
            task,
            {
                "image": container["image"],
                "command": task_command(spec, task, given),
                "securityContext": SECURITY,
                "resources": {"requests": {"memory": amounts["resourceMemoryRequest"]} if amounts else {}},
                "volumeMounts": [{"name": "artifacts", "mountPath": str(self.root), "subPath": FOLDER}],
            },
            [{"name": "artifacts", "persistentVolumeClaim": {"claimName": "jukebox-artifacts"}}],
            restartPolicy="Never",
        )
        pod["metadata"]["labels"] = spec.pod(task).get("podMetadata", {}).get("labels", {}) | LABEL
        self.cluster.apply(pod)
        ended = wait_until(lambda: self.ended(task), 900, f"pod {task} to end")
        self.fetch()
        return ended

    def ended(self, name: str) -> dict[str, Any] | None:
        pod = self.cluster.get("pod", name)
        return pod if pod["status"]["phase"] in ("Succeeded", "Failed") else None

    def fetch(self) -> None:
        tar = ["tar", "-C", f"/data/artifacts/{FOLDER}", "-c", "."]
        command = ["kubectl", "-n", self.cluster.namespace, "exec", self.volumes.pod, "--", *tar]
        written = subprocess.run(command, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-C", str(self.root), "-x"], input=written, check=True)

    def record(self, task: str) -> TaskRecord:
        return parse_record((self.root / task / "dagster_record").read_text(), task)


@pytest.fixture
def steps(cluster: Cluster, volumes: Volumes, tmp_path: Path) -> Iterator[Steps]:
    """An empty folder of the claim, and no pods."""
    found = Steps(cluster, volumes, tmp_path / "root")
    found.root.mkdir()
    selector = ",".join(f"{key}={value}" for key, value in LABEL.items())
    cluster.delete("pods", "-l", selector)
    volumes.sh(f"rm -rf /data/artifacts/{FOLDER}; mkdir /data/artifacts/{FOLDER}")
    yield found
    cluster.delete("pods", "-l", selector)
    volumes.sh(f"rm -rf /data/artifacts/{FOLDER}")


def exported(folder: Path, *options: str, image: str = IMAGE) -> PipelineSpec:
    command = [sys.executable, "-m", "kfp_bridge.cli", "export", *options, "--image", image]
    subprocess.run([*command, "-o", str(folder / "pipeline.yaml")], check=True)
    return read_pipeline_spec(folder / "pipeline.yaml")


def exit_code(pod: dict[str, Any]) -> int:
    return pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]


def test_jukebox_steps_in_pods_reproduce_dagster_model(steps: Steps, tmp_path: Path):
    spec = exported(tmp_path, "-m", "jukebox_orch.definitions", "--job", "jukebox_training")
    for task in task_order(spec):
        pod = steps.run(spec, task, QUICK)
        assert exit_code(pod) == 0, steps.cluster.run("logs", task).stdout[-3000:]
        assert pod["metadata"]["labels"]["jukebox/project"] == "jukebox"
    settings = {"hyperparameters": {"epochs": 3}, "gates": {"metric_floor": 0.1}}
    assert dagster_job(tmp_path / "home", settings) == 0
    expected = materializations(tmp_path / "home")["jukebox/onnx_model"].metadata["sha256"].value
    found = steps.record("jukebox-onnx-model").of("jukebox/onnx_model")
    assert found is not None
    assert found.event.metadata["sha256"].value == expected


def test_failed_gate_message_is_last_line_of_pod_log(steps: Steps, tmp_path: Path):
    spec = exported(tmp_path, "-m", "jukebox_orch.definitions", "--job", "jukebox_training")
    assert exit_code(steps.run(spec, "jukebox-dataset", QUICK)) == 0
    assert exit_code(steps.run(spec, "jukebox-validated-data", {"max_invalid_share": 0.0})) == 3
    (*_, last) = steps.cluster.run("logs", "jukebox-validated-data").stdout.strip().splitlines()
    assert last.startswith("blocking asset check jukebox/validated_data:invalid_share failed: ")
    checks = {check.check_name: check.passed for check in steps.record("jukebox-validated-data").checks}
    assert not checks["invalid_share"]


def test_steps_of_foreign_graph_run_as_pods(steps: Steps, tmp_path: Path):
    spec = exported(tmp_path, "-m", "jukebox_orch_tests.bridge.graphs", "-a", "all_kinds", image=TEST_IMAGE)
    for task in task_order(spec):
        assert exit_code(steps.run(spec, task, {"factor": 5})) == 0, steps.cluster.run("logs", task).stdout
    assert json.loads((steps.root / "scaled" / "scaled").read_text()) == [10]
