"""Operation: status and logs of runs, the run API, upgrades, apply and delete. Last, as it deletes the system."""

import subprocess
from datetime import datetime

import pytest
import yaml

from jukebox_orch_tests import CHECKOUT
from k8s.tests.system import ASSETS, NAMESPACE, OVERLAY, SEED, Cluster, Dagster, Registry, wait_until


def test_kubernetes_job_has_success_and_duration_of_run(cluster: Cluster, trained):
    """kube-state-metrics makes its metrics from these fields; see docs/kubernetes.md."""
    run_id, run = trained
    (job,) = _worker_job(cluster, run_id)
    assert job["metadata"]["labels"]["dagster/job"] == "jukebox_training"
    assert _conditions(job) >= {"Complete"}
    began, ended = (datetime.fromisoformat(job["status"][k]) for k in ("startTime", "completionTime"))
    # The pod exists before the run starts and until after its end.
    assert 0 <= (ended - began).total_seconds() - (run["endTime"] - run["startTime"]) < 60


def test_kubernetes_job_of_failed_run_fails(cluster: Cluster, dagster: Dagster, failing_runs: dict[str, str]):
    run_id = failing_runs["no-image"]
    assert dagster.finished(run_id)["status"] == "FAILURE"

    def conditions() -> set[str]:
        (job,) = _worker_job(cluster, run_id)
        return _conditions(job)

    wait_until(lambda: "Failed" in conditions(), 60, "the run's job to fail")


def _worker_job(cluster: Cluster, run_id: str) -> list[dict]:
    return cluster.get("jobs", "-l", f"dagster/run-id={run_id},app.kubernetes.io/component=run_worker")[
        "items"
    ]


def _conditions(job: dict) -> set[str]:
    return {c["type"] for c in job["status"].get("conditions", []) if c["status"] == "True"}


def test_step_output_stays_in_dagster_after_pod_deletion(cluster: Cluster, dagster: Dagster, trained):
    run_id, _ = trained
    query = """query($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection(limit: 1000) { events {
        ... on LogsCapturedEvent { fileKey stepKeys } } } } } }"""
    events = dagster.query(query, id=run_id)["runOrError"]["eventConnection"]["events"]
    keys = {e["stepKeys"][0]: e["fileKey"] for e in events if e.get("stepKeys")}
    assert len(keys) == len(ASSETS)
    logs = """query($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }"""
    key = [run_id, "compute_logs", keys["jukebox__trained_model"]]
    before = dagster.query(logs, key=key)["capturedLogs"]
    assert (before["stdout"] or "") + (before["stderr"] or "")
    cluster.run("delete", "jobs", "-l", f"dagster/run-id={run_id}", "--wait=true")
    wait_until(lambda: not cluster.pods(f"dagster/run-id={run_id}"), 60, "the run's pods to be deleted")
    assert dagster.query(logs, key=key)["capturedLogs"] == before


def test_run_api_starts_one_run_per_key(cluster: Cluster, dagster: Dagster):
    """Runs the container of the Knative Service as a Deployment, because this cluster has no Knative."""
    template = yaml.safe_load(cluster.run("kustomize", "k8s/knative").stdout)["spec"]["template"]
    spec = {k: v for k, v in template["spec"].items() if k not in ("containerConcurrency", "timeoutSeconds")}
    (container,) = spec["containers"]
    daemon = cluster.get("deployment", "jukebox-daemon")["spec"]["template"]["spec"]["containers"][0]
    container["image"] = daemon["image"]
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
    cluster.apply(deployment)
    name, key = "deployment/jukebox-launcher", f"cluster-{SEED}"
    try:
        cluster.run("rollout", "status", name, "--timeout=180s")
        token = cluster.run("exec", name, "--", "cat", "/secrets/launcher/token").stdout.strip()
        body = {"job": "jukebox_data", "parameters": {"seed": SEED}}

        def post(token: str) -> tuple[int, dict]:
            headers = {"Idempotency-Key": key, "Authorization": f"Bearer {token}"}
            response = cluster.request("POST", name, 8080, "/runs", json=body, headers=headers, timeout=90)
            return response.status_code, response.json()

        assert post("wrong token")[0] == 401
        assert post(token)[0] == 403  # it may start jukebox_training only
        body |= {"job": "jukebox_training", "parameters": {"epochs": 2, "model_name": f"launched-{SEED}"}}
        status, first = post(token)
        assert (status, first["started"]) == (202, True), first
        status, again = post(token)
        assert (status, again["run_id"], again["started"]) == (200, first["run_id"], False)
        assert [run["runId"] for run in dagster.runs("jukebox/idempotency_key", key)] == [first["run_id"]]
    finally:
        cluster.delete("deployment", "jukebox-launcher")
    dagster.terminate(first["run_id"])


def test_upgrade_jobs_migrate_both_databases(cluster: Cluster, registry: Registry):
    selection = ["jobs", "-l", "app.kubernetes.io/part-of=jukebox-orchestrator,!dagster/run-id"]
    cluster.run("delete", *selection)
    cluster.run("apply", "-k", "k8s/upgrade")

    def ended() -> list[set[str]]:
        return [found for job in cluster.get(*selection)["items"] if (found := _conditions(job))]

    try:
        wait_until(lambda: len(ended()) == 2, 180, "both jobs to end")
        logs = {n: cluster.run("logs", f"job/jukebox-upgrade-{n}").stdout for n in ("dagster", "mlflow")}
        assert all("Complete" in found for found in ended()), logs
    finally:
        cluster.run("delete", *selection)
    assert registry.aliases("jukebox-sample")["champion"]


def test_server_accepts_production_overlay(cluster: Cluster):
    done = cluster.run("apply", "-k", "k8s/overlays/production", "--dry-run=server")
    assert "deployment.apps/jukebox-webserver" in done.stdout
    assert "violate" not in done.stderr, done.stderr


def test_applying_again_changes_nothing(cluster: Cluster):
    def versions() -> dict[tuple[str, str], str]:
        """Return the version of each object's content; its status may change at any time."""
        found = {(o["kind"], o["metadata"]["name"]): o["metadata"] for o in _ours(cluster)}
        return {name: str(m.get("generation", m["resourceVersion"])) for name, m in found.items()}

    before = versions()
    lines = cluster.run("apply", "-k", OVERLAY).stdout.splitlines()
    # kubectl always sends the selector of a budget; the versions show that the server changes nothing.
    changed = [line for line in lines if not line.endswith(" unchanged")]
    assert [line for line in changed if not line.startswith("poddisruptionbudget")] == []
    assert versions() == before


def test_delete_keeps_volumes_and_apply_restores_history(
    cluster: Cluster, dagster: Dagster, registry: Registry, trained
):
    aliases = registry.aliases("jukebox-sample")
    subprocess.run([str(CHECKOUT / "k8s/delete"), OVERLAY], check=True)
    assert {o["kind"] for o in _ours(cluster)} == {"PersistentVolumeClaim"}
    assert cluster.get("namespace", NAMESPACE)["status"]["phase"] == "Active"
    cluster.run("apply", "-k", OVERLAY)
    cluster.rolled_out()
    wait_until(dagster.loaded, 120, "the webserver to load the code location")
    assert dagster.status(trained[0]) == "SUCCESS"
    assert registry.aliases("jukebox-sample") == aliases


def _ours(cluster: Cluster) -> list[dict]:
    kinds = (
        "deployments,statefulsets,services,configmaps,persistentvolumeclaims,serviceaccounts,roles,rolebindings,"
        "networkpolicies,poddisruptionbudgets,podtemplates"
    )
    return cluster.get(kinds, "-l", "app.kubernetes.io/part-of=jukebox-orchestrator")["items"]


pytestmark = pytest.mark.timeout(900)
