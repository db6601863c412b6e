"""The cluster's run launcher and settings with a real daemon; the Kubernetes API does not answer."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.waiting import wait_until

BIN = Path(sys.executable).parent
SETTINGS = CHECKOUT / "k8s/base/dagster.yaml"
LOCATION = """
import dagster as dg

@dg.op
def nothing() -> None: ...

@dg.job
def plain() -> None:
    nothing()

defs = dg.Definitions(jobs=[plain])
"""
# Port 1 of this machine refuses connections at once.
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "none", "user": {}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "current-context": "none",
}


class Deployment:
    """An instance with the cluster's run launcher and run retries, and a running daemon."""

    def __init__(self, folder: Path) -> None:
        settings = yaml.safe_load(SETTINGS.read_text())
        launcher = settings["run_launcher"]
        launcher["config"] |= {"load_incluster_config": False, "kubeconfig_file": str(folder / "kubeconfig")}
        config = {"telemetry": {"enabled": False}, "run_launcher": launcher}
        (folder / "dagster.yaml").write_text(
            yaml.safe_dump(config | {"run_retries": settings["run_retries"]})
        )
        (folder / "kubeconfig").write_text(yaml.safe_dump(KUBECONFIG))
        (folder / "location.py").write_text(LOCATION)
        self.folder = folder
        self.environment = os.environ | {
            "DAGSTER_HOME": str(folder),
            "DAGSTER_CURRENT_IMAGE": "localhost/jukebox-orchestrator:dev",
            "JUKEBOX_ORCH_NAMESPACE": "jukebox",
        }
        self.instance = dg.DagsterInstance.from_config(str(folder))

    def launch(self, k8s_config: dict) -> str:
        """Queue a run with that `dagster-k8s/config` and return its id."""
        tags = json.dumps({"dagster-k8s/config": json.dumps(k8s_config)})
        before = {record.dagster_run.run_id for record in self.instance.get_run_records()}
        command = [BIN / "dagster", "job", "launch", "-f", "location.py", "-j", "plain", "--tags", tags]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True, capture_output=True)
        (new,) = {r.dagster_run.run_id for r in self.instance.get_run_records()} - before
        return new

    def wait(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        log = self.folder / "daemon.log"
        wait_until(condition, seconds, lambda: f"the daemon; its log:\n{log.read_text()[-6_000:]}", every=0.5)

    def attempts(self, run_id: str) -> list[dg.DagsterRun]:
        """Return the run and its retries, in order."""
        group = self.instance.get_run_group(run_id)
        assert group is not None
        return sorted(group[1], key=lambda run: int(run.tags.get("dagster/retry_number", "0")))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path_factory.mktemp("instance"))
    with (deployment.folder / "daemon.log").open("w") as log:
        daemon = subprocess.Popen(
            [BIN / "dagster-daemon", "run", "-f", "location.py"],
            cwd=deployment.folder,
            env=deployment.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield deployment
    finally:
        # Killed, because on SIGTERM it first waits for its requests to Kubernetes, which does not answer.
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def test_forbidden_run_fails_once_and_unlaunched_run_is_retried(deployment):
    refused = deployment.launch({"pod_spec_config": {"host_network": True}})
    allowed = deployment.launch({"container_config": {"resources": {"limits": {"memory": "2Gi"}}}})

    # The daemon handles the older failure first: if it retried that run, it would have done so by now.
    deployment.wait(lambda: len(deployment.attempts(allowed)) > 1)
    (run,) = deployment.attempts(refused)
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert run.tags["dagster/will_retry"] == "false"
    events = json.dumps(
        [str(event.dagster_event) for event in deployment.instance.all_logs(refused) if event.dagster_event]
    )
    assert "violated the allowed list: pod_spec_config.host_network" in events
