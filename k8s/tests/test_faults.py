"""Real faults, and what must hold: one artifact, no run that runs for ever, nothing half-registered.

`FAULT_ROUNDS` says how often each is done; three in the gate's long form, one by default.
"""

import json
import os
from typing import Any

import httpx
import pytest

from k8s.tests.conftest import Cluster, Dagster, metadata, said, wait_until

ROUNDS = range(int(os.environ.get("FAULT_ROUNDS", "1")))
LONG = {"hyperparameters": {"epochs": 400, "early_stopping_patience": 0}}


def _versions(cluster: Cluster, model: str) -> list[dict[str, Any]]:
    with cluster.forwarded("service/jukebox-mlflow", 5000) as url:
        api = f"{url}/api/2.0/mlflow/model-versions/search"
        answer = httpx.get(api, params={"filter": f"name = '{model}'"}, timeout=60)
    return answer.json().get("model_versions", [])


def _running_step(cluster: Cluster, run_id: str, noun: str) -> str:
    """Name of the step's pod once its container runs."""

    def found() -> str | None:
        for pod in cluster.steps(run_id).get(noun, []):
            if pod["status"]["phase"] == "Running":
                return pod["metadata"]["name"]
        return None

    return wait_until(found, 240, f"step {noun} to run", every=1)


def _step_retried(run: dict[str, Any], noun: str) -> bool:
    return any(
        e["__typename"] == "ExecutionStepUpForRetryEvent" and e["stepKey"].endswith(f"__{noun}")
        for e in run["eventConnection"]["events"]
    )


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_step_whose_pod_is_deleted_is_tried_again_and_leaves_one_artifact(
    cluster: Cluster, dagster: Dagster, round_: int
):
    run_id = dagster.start({"seed": 100 + round_, "model_name": "fault-step", **LONG})
    pod = _running_step(cluster, run_id, "trained_model")
    cluster.run("delete", "pod", pod, "--grace-period=1")
    run = dagster.finished(run_id)
    assert run["status"] == "SUCCESS", said(run)
    assert _step_retried(run, "trained_model"), said(run)
    listing = ["ls", "/data/artifacts/jukebox/trained_model", "/data/artifacts/.incoming"]
    names = cluster.in_pod("jukebox-code-location", *listing).split()
    assert [n for n in names if n.startswith(run_id)] == [run_id]


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_step_over_its_memory_limit_says_so_and_fails_after_its_retries(
    cluster: Cluster, dagster: Dagster, round_: int
):
    selector = {
        "resources": {"jukebox__dataset": {"limits": {"memory": "96Mi"}, "requests": {"memory": "96Mi"}}}
    }
    run_id = dagster.start({"execution": {"config": selector}}, job="__ASSET_JOB")
    run = dagster.finished(run_id)
    assert run["status"] == "FAILURE"
    assert "OOMKilled" in said(run), said(run)
    assert "limit 96Mi" in said(run)
    retries = [
        e for e in run["eventConnection"]["events"] if e["__typename"] == "ExecutionStepUpForRetryEvent"
    ]
    assert len(retries) == 2
    del cluster, round_


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_run_whose_pod_is_deleted_fails_soon_and_leaves_no_pod_behind(
    cluster: Cluster, dagster: Dagster, round_: int
):
    run_id = dagster.start({"seed": 200 + round_, "model_name": "fault-run", **LONG})
    _running_step(cluster, run_id, "trained_model")
    (pod,) = cluster.pods(f"dagster/run-id={run_id},app.kubernetes.io/component=run_worker")
    cluster.run("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    run = dagster.finished(run_id, 150)
    assert run["status"] == "FAILURE", said(run)
    wait_until(
        lambda: (
            not [
                p
                for pods in cluster.steps(run_id).values()
                for p in pods
                if p["status"]["phase"] == "Running"
            ]
        ),
        90,
        "the steps of the dead run to end",
    )
    _end_retries(dagster, run_id)


@pytest.mark.parametrize("round_", ROUNDS)
def test_mlflow_down_at_registration_is_retried_then_fails_with_nothing_registered(
    cluster: Cluster, dagster: Dagster, round_: int
):
    model = f"fault-mlflow-{round_}"
    before = len(_versions(cluster, model))
    run_id = dagster.start({"seed": 300 + round_, "model_name": model, "hyperparameters": {"epochs": 20}})
    _running_step(cluster, run_id, "features")
    cluster.run("scale", "deployment/jukebox-mlflow", "--replicas=0")
    try:
        run = dagster.finished(run_id, 900)
    finally:
        cluster.run("scale", "deployment/jukebox-mlflow", "--replicas=1")
        cluster.run("rollout", "status", "deployment/jukebox-mlflow", "--timeout=300s")
    assert run["status"] == "FAILURE"
    assert len(_versions(cluster, model)) == before
    listed = cluster.run(
        "exec", "deployment/jukebox-code-location", "--", "ls", "/data/artifacts", check=False
    )
    assert listed.returncode == 0


@pytest.mark.parametrize("round_", ROUNDS)
def test_postgresql_restarted_during_a_run_lets_it_finish_or_fail_cleanly(
    cluster: Cluster, dagster: Dagster, round_: int
):
    run_id = dagster.start(
        {"seed": 400 + round_, "model_name": "fault-postgres", "hyperparameters": {"epochs": 20}}
    )
    _running_step(cluster, run_id, "trained_model")
    cluster.run("delete", "pod", "jukebox-postgresql-0")
    cluster.run("rollout", "status", "statefulset/jukebox-postgresql", "--timeout=180s")
    cluster.rolled_out()
    run = dagster.finished(run_id, 600)
    assert run["status"] in ("SUCCESS", "FAILURE"), said(run)
    if run["status"] == "SUCCESS":
        assert metadata(run, "registered_model")["onnx_sha256"]
    else:
        _end_retries(dagster, run_id)
    # The event log works on.
    assert dagster.run(run_id)["eventConnection"]["events"]


@pytest.mark.parametrize("round_", ROUNDS)
def test_a_daemon_that_is_deleted_starts_a_queued_run_exactly_once(
    cluster: Cluster, dagster: Dagster, round_: int
):
    (daemon,) = cluster.pods("app.kubernetes.io/name=daemon")
    run_id = dagster.start(
        {"model_name": "fault-daemon"}, job="jukebox_data", tags={"fault": f"daemon-{round_}"}
    )
    cluster.run("delete", "pod", daemon["metadata"]["name"], "--grace-period=0", "--force")
    run = dagster.finished(run_id)
    assert run["status"] == "SUCCESS", said(run)
    assert len(dagster.runs("fault", f"daemon-{round_}")) == 1
    assert len(cluster.pods(f"dagster/run-id={run_id},app.kubernetes.io/component=run_worker")) == 1


def test_a_step_whose_image_cannot_be_pulled_fails_with_words(cluster: Cluster, dagster: Dagster):
    settings = cluster.get("configmap", "jukebox-run-settings")["data"]
    wrong = settings["JUKEBOX_ORCH_STEP_IMAGE"] + "-that-nobody-built"
    patch = [{"op": "replace", "path": "/data/JUKEBOX_ORCH_STEP_IMAGE", "value": wrong}]
    cluster.run("patch", "configmap", "jukebox-run-settings", "--type=json", "-p", json.dumps(patch))
    try:
        run = dagster.finished(dagster.start(job="jukebox_data"), 600)
    finally:
        patch[0]["value"] = settings["JUKEBOX_ORCH_STEP_IMAGE"]
        cluster.run("patch", "configmap", "jukebox-run-settings", "--type=json", "-p", json.dumps(patch))
    assert run["status"] == "FAILURE"
    assert "cannot start: " in said(run)
    assert "that-nobody-built" in said(run)


def _end_retries(dagster: Dagster, run_id: str) -> None:
    """Cancel the run that the daemon starts in place of a lost one: the test has seen what it wanted."""
    for again in dagster.runs("dagster/parent_run_id", run_id):
        dagster.ask("mutation($id: String!) { terminateRun(runId: $id) { __typename } }", id=again["runId"])
