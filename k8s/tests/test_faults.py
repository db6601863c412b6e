"""Real faults leave one artifact, no run that never ends and no incomplete registration.

`FAULT_ROUNDS` is the number of repetitions: one by default, three with `make k8s-test-faults`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from k8s.tests.system import (
    SEED,
    Cluster,
    Dagster,
    Registry,
    Volumes,
    events_text,
    metadata,
    retries,
    wait_until,
)

ROUNDS = range(int(os.environ.get("FAULT_ROUNDS", "1")))
pytestmark = pytest.mark.parametrize("round_", ROUNDS)


def _config(model: str, round_: int, *, epochs: int = 20) -> dict:
    """Return settings of a run for which no earlier run has artifacts."""
    return {
        "seed": SEED + round_,
        "model_name": f"{model}-{SEED}-{round_}-sample",
        "hyperparameters": {"epochs": epochs, "early_stopping_patience": 0},
    }


def _artifacts_of(volumes: Volumes, run_id: str) -> list[str]:
    """Return the folders of the run below all assets, published or not."""
    return volumes.sh(f"find /data/artifacts -name '*{run_id}*'").split()


def _steps_running(cluster: Cluster, run_id: str) -> list[str]:
    pods = [pod for pods in cluster.steps(run_id).values() for pod in pods]
    return [p["metadata"]["name"] for p in pods if p["status"]["phase"] in ("Running", "Pending")]


def test_deleted_step_pod_is_retried_and_leaves_one_artifact(
    cluster: Cluster, dagster: Dagster, volumes: Volumes, round_: int
):
    run_id = dagster.start(_config("fault-step", round_, epochs=400))
    pod = cluster.step_pod(run_id, "trained_model")
    # Dagster takes the late start event of a deleted pod for that of the retry, and waits for it without end.
    dagster.step_started(run_id, "trained_model")
    cluster.run("delete", "pod", pod, "--grace-period=0", "--force")
    run = dagster.finished(run_id)
    assert run["status"] == "SUCCESS", events_text(run)
    assert retries(run, "trained_model"), events_text(run)
    assert "its pod is missing" in events_text(run)
    models = [path for path in _artifacts_of(volumes, run_id) if "trained_model" in path]
    assert models == [f"/data/artifacts/jukebox/trained_model/{run_id}"]


def test_step_over_memory_limit_fails_with_reason_after_retries(
    dagster: Dagster, volumes: Volumes, round_: int
):
    limit = {"limits": {"memory": f"{96 + round_}Mi"}, "requests": {"memory": "96Mi"}}
    config = {"execution": {"config": {"resources": {"jukebox__dataset": limit}}}}
    run_id = dagster.start(config, assets=("dataset",))
    run = dagster.finished(run_id)
    assert run["status"] == "FAILURE"
    assert "OOMKilled" in events_text(run), events_text(run)
    assert f"limit {96 + round_}Mi" in events_text(run)
    assert len(retries(run, "dataset")) == 2
    assert _artifacts_of(volumes, run_id) == []


def test_deleted_run_pod_fails_run_and_starts_new_one(
    cluster: Cluster, dagster: Dagster, registry: Registry, round_: int
):
    config = _config("fault-run", round_, epochs=400)
    run_id = dagster.start(config)
    cluster.step_pod(run_id, "trained_model")
    (pod,) = cluster.pods(f"dagster/run-id={run_id},app.kubernetes.io/component=run_worker")
    cluster.run("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    # The run monitoring polls every minute.
    run = dagster.finished(run_id, 120)
    assert run["status"] == "FAILURE", events_text(run)
    wait_until(lambda: not _steps_running(cluster, run_id), 90, "the steps of the failed run to end")
    again = wait_until(lambda: dagster.runs("dagster/parent_run_id", run_id), 120, "the daemon's new run")
    run = dagster.finished(again[0]["runId"])
    assert run["status"] == "SUCCESS", events_text(run)
    assert [v["version"] for v in registry.versions(config["model_name"])] == ["1"]


def test_mlflow_down_at_registration_fails_with_nothing_registered(
    cluster: Cluster, dagster: Dagster, registry: Registry, volumes: Volumes, round_: int
):
    config = {"model_name": f"fault-mlflow-{SEED}-{round_}-sample"}
    name, job = config["model_name"], "jukebox_evaluate_and_register"
    run_id = dagster.start(config, job=job)
    cluster.step_pod(run_id, "registered_model", ("Pending", "Running"))
    cluster.run("scale", "deployment/jukebox-mlflow", "--replicas=0")
    cluster.run("delete", "pods", "-l", "app.kubernetes.io/name=mlflow", "--grace-period=0", "--force")
    try:
        run = dagster.finished(run_id)
    finally:
        cluster.run("scale", "deployment/jukebox-mlflow", "--replicas=1")
        cluster.run("rollout", "status", "deployment/jukebox-mlflow", "--timeout=280s")
    assert run["status"] == "FAILURE"
    assert len(retries(run, "registered_model")) == 2, events_text(run)
    assert "jukebox-mlflow" in retries(run, "registered_model")[0]
    assert registry.versions(name) == []
    assert volumes.sh(f"ls -A /data/models/{name} 2>/dev/null || true") == ""
    # The next run registers the model once.
    run = dagster.finished(dagster.start(config, job=job))
    assert run["status"] == "SUCCESS", events_text(run)
    assert [v["version"] for v in registry.versions(name)] == ["1"]
    assert registry.aliases(name)["champion"] == "1"


@contextmanager
def _full(cluster: Cluster, volume: str) -> Iterator[None]:
    """Give steps a volume of 64 KiB instead of a claim: writing to it fails with ENOSPC, as with a full volume."""
    executor = yaml.safe_load(cluster.get("configmap", "jukebox-run-config")["data"]["executor.yaml"])
    volumes = executor["step_k8s_config"]["pod_spec_config"]["volumes"]
    (claim,) = [v for v in volumes if v["name"] == volume]
    del claim["persistentVolumeClaim"]
    claim["emptyDir"] = {"medium": "Memory", "sizeLimit": "64Ki"}
    with cluster.config_map("jukebox-run-config", {"executor.yaml": yaml.safe_dump(executor)}):
        yield


def test_full_artifact_volume_fails_run_and_leaves_nothing(
    cluster: Cluster, dagster: Dagster, volumes: Volumes, round_: int
):
    with _full(cluster, "artifacts"):
        run_id = dagster.start({"seed": SEED + 10 + round_}, job="jukebox_data")
        run = dagster.finished(run_id)
    assert run["status"] == "FAILURE"
    assert "No space left on device" in events_text(run), events_text(run)
    assert len(retries(run, "dataset")) == 2
    assert _artifacts_of(volumes, run_id) == []


def test_full_model_volume_sets_no_alias_until_next_run(
    cluster: Cluster, dagster: Dagster, registry: Registry, volumes: Volumes, round_: int
):
    config = {"model_name": f"fault-full-{SEED}-{round_}-sample"}
    name, job = config["model_name"], "jukebox_evaluate_and_register"
    with _full(cluster, "models"):
        run = dagster.finished(dagster.start(config, job=job))
    assert run["status"] == "FAILURE"
    assert "No space left on device" in events_text(run), events_text(run)
    assert len(retries(run, "registered_model")) == 2
    assert registry.aliases(name) == {}
    assert len(registry.versions(name)) <= 1
    run = dagster.finished(dagster.start(config, job=job))
    assert run["status"] == "SUCCESS", events_text(run)
    assert [v["version"] for v in registry.versions(name)] == ["1"]
    assert set(registry.aliases(name).values()) == {"1"}
    assert "model.onnx" in volumes.sh(f"ls /data/models/{name}/1").split()


def test_run_finishes_or_fails_cleanly_after_postgresql_restart(
    cluster: Cluster, dagster: Dagster, registry: Registry, round_: int
):
    config = _config("fault-postgresql", round_, epochs=200)
    run_id = dagster.start(config)
    cluster.step_pod(run_id, "trained_model")
    cluster.run("delete", "pod", "jukebox-postgresql-0")
    cluster.rolled_out()
    run = dagster.finished(run_id)
    aliases = registry.aliases(config["model_name"])
    if run["status"] == "SUCCESS":
        assert metadata(run, "registered_model")["onnx_sha256"]
        assert aliases["champion"] == "1"
    else:
        assert run["status"] == "FAILURE", events_text(run)
        assert "champion" not in aliases
        dagster.end_retries(run_id)
    # The event log is complete: every successful step has a start and an end.
    for step in run["stepStats"]:
        if step["status"] == "SUCCESS":
            assert step["startTime"] <= step["endTime"], step
    # The system still works.
    run = dagster.finished(dagster.start({"seed": SEED}, job="jukebox_data"))
    assert run["status"] == "SUCCESS", events_text(run)
