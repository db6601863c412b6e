"""One session uses one system: applied once, shared by every test, left running and complete at the end.

`KUBECONFIG` selects the cluster; its node must have the images (`make image k8s-test-images`, then load them as
docs/kubernetes.md describes).
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.parts import absent
from k8s.tests.system import (
    ASSETS,
    NAMESPACE,
    OVERLAY,
    SEED,
    Cluster,
    Dagster,
    Registry,
    Volumes,
    events_text,
    wait_until,
)

_HINT = (
    "export KUBECONFIG=... of kind, k3s or any other, load the images of "
    "`make image k8s-test-images` into its node, then `make k8s-test`; see docs/kubernetes.md"
)
# From basic functions to tests that delete the system. test_bad_input is late, so that the failing runs have timed out.
_ORDER = (
    "test_training",
    "test_rights",
    "test_triggers",
    "test_kfp_steps",
    "test_bad_input",
    "test_faults",
    "test_operations",
)


pytest_plugins = ["jukebox_orch_tests.support.parts"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _ORDER.index(item.path.stem))
    for item in items:
        item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> None:
    if not os.environ.get("KUBECONFIG"):
        absent("a Kubernetes cluster", _HINT)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The system, after apply and roll-out."""
    cluster = Cluster()
    subprocess.run([str(CHECKOUT / "k8s/create-secrets"), NAMESPACE], check=True)
    cluster.run("apply", "-k", OVERLAY)
    cluster.rolled_out()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def dagster(cluster: Cluster) -> Dagster:
    dagster = Dagster(cluster)
    wait_until(dagster.loaded, 120, "the webserver to load the code location")
    return dagster


@pytest.fixture(scope="session")
def registry(cluster: Cluster) -> Registry:
    return Registry(cluster)


@pytest.fixture(scope="session")
def volumes(cluster: Cluster) -> Iterator[Volumes]:
    """A pod that mounts every claim of the system except PostgreSQL's."""
    names = ("artifacts", "models", "logs", "landing", "mlflow")
    pod = cluster.pod_of_step_image(
        "volumes-test",
        {
            "command": ["sleep", "7200"],
            "volumeMounts": [{"name": n, "mountPath": f"/data/{n}"} for n in names],
        },
        [{"name": n, "persistentVolumeClaim": {"claimName": f"jukebox-{n}"}} for n in names],
    )
    cluster.delete("pod", "volumes-test")
    cluster.apply(pod)
    cluster.run("wait", "pod/volumes-test", "--for=condition=Ready", "--timeout=120s")
    yield Volumes(cluster, "volumes-test")
    cluster.delete("pod", "volumes-test")


@pytest.fixture(scope="session")
def failing_runs(cluster: Cluster, dagster: Dagster) -> dict[str, str]:
    """Runs with one mistake each, by kind; they time out during the other tests and request almost no resources."""
    executor = cluster.get("configmap", "jukebox-run-config")["data"]["executor.yaml"]
    small = {"container_config": {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}}}}

    def no_image(settings: dict[str, Any]) -> None:
        settings["job_image"] = "localhost/no-such-image:dev"

    def no_secret(settings: dict[str, Any]) -> None:
        settings["env_secrets"] = ["no-such-secret"]

    def no_claim(settings: dict[str, Any]) -> None:
        for volume in settings["step_k8s_config"]["pod_spec_config"]["volumes"]:
            volume["persistentVolumeClaim"]["claimName"] = "no-such-claim"

    def no_mlflow(settings: dict[str, Any]) -> None:
        settings["env_vars"] = ["MLFLOW_TRACKING_URI=http://no-such-mlflow:5000"]

    def start(job: str, change: Callable[[dict[str, Any]], None]) -> str:
        settings = yaml.safe_load(executor) | {
            "per_step_k8s_config": {f"jukebox__{n}": small for n in ASSETS}
        }
        change(settings)
        config: dict[str, Any] = {"seed": SEED + 20}
        if job == "jukebox_training":
            config |= {"model_name": f"failing-{SEED}-sample", "hyperparameters": {"epochs": 2}}
        with cluster.config_map("jukebox-run-config", {"executor.yaml": yaml.safe_dump(settings)}):
            run_id = dagster.start(config, job=job, tags={"dagster-k8s/config": json.dumps(small)})
            # A started run has read the settings.
            wait_until(lambda: dagster.status(run_id) == "STARTED", 180, f"run {run_id} to start")
        return run_id

    # More CPU than any node has; the run waits ten minutes for an autoscaler.
    large = {"container_config": {"resources": {"requests": {"cpu": "900"}}}}
    return {
        "no-node": dagster.start(job="jukebox_data", tags={"dagster-k8s/config": json.dumps(large)}),
        "no-image": start("jukebox_data", no_image),
        "no-secret": start("jukebox_data", no_secret),
        "no-claim": start("jukebox_data", no_claim),
        "no-mlflow": start("jukebox_training", no_mlflow),
    }


@pytest.fixture(scope="session")
def trained(dagster: Dagster, failing_runs: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """A finished run of the sample job: its id and the run. The runs that take long to fail are started before."""
    del failing_runs
    run_id = dagster.start({"seed": SEED})
    run = dagster.finished(run_id)
    assert run["status"] == "SUCCESS", events_text(run)
    return run_id, run
