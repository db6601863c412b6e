"""What is wrong in a deployment or a run says so in words within a minute, hangs nothing and registers nothing."""

import json
from typing import Any

import pytest

from k8s.tests.system import NAMESPACE, SEED, Cluster, Dagster, Registry, said, wait_until

# Name -> (deployment whose pod it is, what is wrong with it, words of status, event or log).
_WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no-secret": ("daemon", {"secret": "no-such-secret"}, 'secret "no-such-secret" not found'),
    "no-image": ("code-location", {"image": "localhost/nobody-built-it:dev"}, "nobody-built-it:dev"),
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
    """One pod of each kind of mistake, all at once."""
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
        "stringData": {"postgresql-password": "not the password at all"},
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
    """The pod of a deployment with one thing wrong, and small."""
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
def test_a_pod_with_a_wrong_setting_says_so_within_a_minute(cluster: Cluster, wrong_pods, name: str):
    words, pod = _WRONG[name][2], f"wrong-{name}"

    def told() -> bool:
        status = json.dumps(cluster.get("pod", pod)["status"])
        log = (
            cluster.run("logs", pod, check=False).stdout
            + cluster.run("logs", pod, "--previous", check=False).stdout
        )
        return words in status.replace('\\"', '"') or words in log

    wait_until(told, 60, f"pod {pod} to say {words!r}")


# Kind of run in `hopeless_runs` -> words that its events must hold.
_SAID = {
    "no-image": ("cannot start: ", "jukebox-step-that-nobody-built:dev"),
    "no-secret": ("cannot start: CreateContainerConfigError", "no-such-secret", "not found"),
    "no-claim": ("found no node in", "no-such-claim", "not found"),
    "no-mlflow": ("no-such-mlflow",),
    "no-node": ("taking longer than 600 seconds to start", "Insufficient cpu"),
}


@pytest.mark.parametrize("kind", _SAID)
def test_a_run_that_cannot_go_on_ends_with_words_and_registers_nothing(
    cluster: Cluster, dagster: Dagster, registry: Registry, hopeless_runs: dict[str, str], kind: str
):
    run_id = hopeless_runs[kind]
    run = dagster.finished(run_id, 720)
    assert run["status"] == "FAILURE", said(run)
    for words in _SAID[kind]:
        assert words in said(run), said(run)
    assert registry.versions(f"hopeless-{SEED}") == []
    dagster.end_retries(run_id)
    if kind == "no-node":
        cluster.run("delete", "jobs", "-l", f"dagster/run-id={run_id}")
