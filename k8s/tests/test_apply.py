"""Apply twice changes nothing; delete leaves the volumes; apply again finds the history. Last: it takes all down."""

import json
import subprocess

import httpx
import pytest
import yaml

from k8s.tests.conftest import NAMESPACE, OVERLAY, ROOT, Cluster, Dagster


def test_applying_again_changes_nothing(cluster: Cluster):
    before = {(o["kind"], o["metadata"]["name"]): o["metadata"]["resourceVersion"] for o in _ours(cluster)}
    lines = cluster.run("apply", "-k", OVERLAY).stdout.splitlines()
    # kubectl always sends a budget's selector; the server changes nothing, as the versions show.
    changed = [line for line in lines if not line.endswith(" unchanged")]
    assert [line for line in changed if not line.startswith("poddisruptionbudget")] == []
    assert {
        (o["kind"], o["metadata"]["name"]): o["metadata"]["resourceVersion"] for o in _ours(cluster)
    } == before


def test_the_launcher_starts_one_run_for_one_key(cluster: Cluster, dagster: Dagster):
    """The container of the Knative Service, as a Deployment: Knative itself is not in this cluster."""
    built = cluster.run("kustomize", "k8s/knative").stdout
    template = yaml.safe_load(built)["spec"]["template"]
    spec = {k: v for k, v in template["spec"].items() if k not in ("containerConcurrency", "timeoutSeconds")}
    (container,) = spec["containers"]
    container["image"] = cluster.get("deployment", "jukebox-daemon")["spec"]["template"]["spec"][
        "containers"
    ][0]["image"]
    container["env"].append({"name": "PORT", "value": "8080"})
    container["readinessProbe"]["httpGet"]["port"] = container["livenessProbe"]["httpGet"]["port"] = 8080
    labels = {"app.kubernetes.io/name": "launcher"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "jukebox-launcher", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
    cluster.run("apply", "-f", "-", stdin=json.dumps(deployment))
    try:
        cluster.run("rollout", "status", "deployment/jukebox-launcher", "--timeout=180s")
        token = cluster.in_pod("jukebox-launcher", "cat", "/secrets/launcher/token").strip()
        body = {"job": "jukebox_training", "parameters": {"epochs": 2, "model_name": "launched"}}
        with cluster.forwarded("deployment/jukebox-launcher", 8080) as url:
            headers = {"Idempotency-Key": "cluster-1", "Authorization": f"Bearer {token}"}
            first = httpx.post(f"{url}/runs", json=body, headers=headers, timeout=90)
            again = httpx.post(f"{url}/runs", json=body, headers=headers, timeout=90)
            wrong = httpx.post(
                f"{url}/runs", json=body, headers=headers | {"Authorization": "Bearer x"}, timeout=90
            )
        assert first.status_code in (200, 202), first.text
        assert (again.status_code, again.json()["run_id"]) == (200, first.json()["run_id"])
        assert wrong.status_code == 401
        assert len(dagster.runs("jukebox/idempotency_key", "cluster-1")) == 1
    finally:
        cluster.run("delete", "deployment", "jukebox-launcher")


def test_delete_leaves_the_volumes_and_apply_finds_the_history(cluster: Cluster, dagster: Dagster, trained):
    subprocess.run([str(ROOT / "k8s/delete"), OVERLAY], check=True)
    left = {o["kind"] for o in _ours(cluster)}
    assert left == {"PersistentVolumeClaim"}
    assert cluster.get("namespace", NAMESPACE)["status"]["phase"] == "Active"
    cluster.run("apply", "-k", OVERLAY)
    cluster.rolled_out()
    run = dagster.run(trained[0])
    assert run["status"] == "SUCCESS"
    with cluster.forwarded("service/jukebox-mlflow", 5000) as url:
        api = f"{url}/api/2.0/mlflow/registered-models/get"
        model = httpx.get(api, params={"name": "jukebox"}, timeout=60).json()["registered_model"]
    assert "champion" in {a["alias"] for a in model["aliases"]}


def _ours(cluster: Cluster) -> list[dict]:
    kinds = (
        "deployments,statefulsets,services,configmaps,persistentvolumeclaims,serviceaccounts,roles,rolebindings,"
        "networkpolicies,poddisruptionbudgets,podtemplates"
    )
    return cluster.get(kinds, "-l", "app.kubernetes.io/part-of=jukebox-orchestrator")["items"]


pytestmark = pytest.mark.timeout(900)
