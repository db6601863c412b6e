"""A wrong setting of a deployment or run is reported with its reason, blocks nothing and registers nothing."""

import json
from typing import Any

import pytest

from k8s.tests.system import NAMESPACE, SEED, Cluster, Dagster, Registry, events_text, wait_until

# Name -> (deployment of the pod, its wrong setting, text in its status or log).
_WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no-secret": ("daemon", {"secret": "no-such-secret"}, 'secret "no-such-secret" not found'),
    "no-image": ("code-location", {"image": "localhost/no-such-image:dev"}, "no-such-image:dev"),
    "no-claim": (
        "code-location",
        {"claim": "no-such-claim"},
        'persistentvolumeclaim "no-such-claim" not found',
    ),
    "unbound-claim": ("code-location", {"claim": "unbound-test"}, "unbound immediate PersistentVolumeClaims"),
    "no-database": ("daemon", {"env": {"JUKEBOX_POSTGRES_HOST": "no-such-host"}}, '"no-such-host"'),
    "no-database-of-mlflow": ("mlflow", {"env": {"JUKEBOX_POSTGRES_HOST": "no-such-host"}}, '"no-such-host"'),
    "wrong-password": ("daemon", {"secret": "wrong-test"}, "password authentication failed"),
}


@pytest.fixture(scope="module")
def wrong_pods(cluster: Cluster):
    """One pod with each wrong setting, started together."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "unbound-test", "namespace": NAMESPACE},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "no-such-class",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "wrong-test", "namespace": NAMESPACE},
        "stringData": {"postgresql-password": "wrong password"},
    }
    pods = [
        _pod(cluster, f"wrong-{name}", deployment, **wrong) for name, (deployment, wrong, _) in _WRONG.items()
    ]
    cluster.delete("pods", "-l", "jukebox/test=wrong")
    cluster.apply(claim, secret, *pods)
    yield
    cluster.delete("pods", "-l", "jukebox/test=wrong")
    cluster.delete("pvc,secret", "unbound-test", "wrong-test")


def _pod(
    cluster: Cluster,
    name: str,
    deployment: str,
    *,
    secret: str = "",
    image: str = "",
    claim: str = "",
    env: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return the pod of a deployment with one wrong setting and small requests."""
    spec = cluster.get("deployment", f"jukebox-{deployment}")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        container.pop(probe, None)
    container["resources"]["requests"] = {"cpu": "10m", "memory": "64Mi"}
    container["env"] += [{"name": key, "value": value} for key, value in (env or {}).items()]
    if secret:
        (reference,) = [v["valueFrom"]["secretKeyRef"] for v in container["env"] if "valueFrom" in v]
        reference["name"] = secret
    if image:
        container["image"] = image
    if claim:
        next(v for v in spec["volumes"] if "persistentVolumeClaim" in v)["persistentVolumeClaim"][
            "claimName"
        ] = claim
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"jukebox/test": "wrong"}},
        "spec": spec,
    }


@pytest.mark.parametrize("name", _WRONG)
def test_pod_with_wrong_setting_reports_reason_within_minute(cluster: Cluster, wrong_pods, name: str):
    reason, pod = _WRONG[name][2], f"wrong-{name}"

    def reported() -> bool:
        status = json.dumps(cluster.get("pod", pod)["status"])
        log = (
            cluster.run("logs", pod, check=False).stdout
            + cluster.run("logs", pod, "--previous", check=False).stdout
        )
        return reason in status.replace('\\"', '"') or reason in log

    wait_until(reported, 60, f"pod {pod} to report {reason!r}")


# Kind of run in `failing_runs` -> texts that its events must contain.
_REASONS = {
    "no-image": ("cannot start: ", "no-such-image:dev"),
    "no-secret": ("cannot start: CreateContainerConfigError", "no-such-secret", "not found"),
    "no-claim": ("found no node in", "no-such-claim", "not found"),
    "no-mlflow": ("no-such-mlflow",),
    "no-node": ("taking longer than 600 seconds to start", "Insufficient cpu"),
}


@pytest.mark.parametrize("kind", _REASONS)
def test_failing_run_reports_reason_and_registers_nothing(
    cluster: Cluster, dagster: Dagster, registry: Registry, failing_runs: dict[str, str], kind: str
):
    run_id = failing_runs[kind]
    run = dagster.finished(run_id, 720)
    assert run["status"] == "FAILURE", events_text(run)
    for reason in _REASONS[kind]:
        assert reason in events_text(run), events_text(run)
    assert registry.versions(f"failing-{SEED}") == []
    dagster.end_retries(run_id)
    if kind == "no-node":
        cluster.run("delete", "jobs", "-l", f"dagster/run-id={run_id}")
