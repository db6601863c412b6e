"""Real faults, and what must hold: one artifact, no run that runs for ever, nothing half-registered.

`FAULT_ROUNDS` says how often each is done: once by default, three times by `make k8s-test-faults`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from k8s.tests.system import SEED, Cluster, Dagster, Registry, Volumes, metadata, retries, said, wait_until

ROUNDS = range(int(os.environ.get("FAULT_ROUNDS", "1")))
pytestmark = pytest.mark.parametrize("round_", ROUNDS)


def _config(model: str, round_: int, *, epochs: int = 20) -> dict:
    """Settings of a run that nothing computed before."""
    return {
        "seed": SEED + round_,
        "model_name": f"{model}-{SEED}-{round_}",
        "hyperparameters": {"epochs": epochs, "early_stopping_patience": 0},
    }


def _artifacts_of(volumes: Volumes, run_id: str) -> list[str]:
    """Folders of the run, published or not, below all assets."""
    return volumes.sh(f"find /data/artifacts -name '*{run_id}*'").split()


def _steps_running(cluster: Cluster, run_id: str) -> list[str]:
    pods = [pod for pods in cluster.steps(run_id).values() for pod in pods]
    return [p["metadata"]["name"] for p in pods if p["status"]["phase"] in ("Running", "Pending")]


def test_a_step_whose_pod_is_deleted_is_tried_again_and_leaves_one_artifact(
    cluster: Cluster, dagster: Dagster, volumes: Volumes, round_: int
):
    run_id = dagster.start(_config("fault-step", round_, epochs=400))
    pod = cluster.step_pod(run_id, "trained_model")
    cluster.run("delete", "pod", pod, "--grace-period=0", "--force")
    run = dagster.finished(run_id)
    assert run["status"] == "SUCCESS", said(run)
    assert retries(run, "trained_model"), said(run)
    assert "its pod is gone" in said(run)
    models = [path for path in _artifacts_of(volumes, run_id) if "trained_model" in path]
    assert models == [f"/data/artifacts/jukebox/trained_model/{run_id}"]


def test_a_step_over_its_memory_limit_says_so_and_fails_after_its_retries(
    dagster: Dagster, volumes: Volumes, round_: int
):
    limit = {"limits": {"memory": f"{96 + round_}Mi"}, "requests": {"memory": "96Mi"}}
    config = {"execution": {"config": {"resources": {"jukebox__dataset": limit}}}}
    run_id = dagster.start(config, assets=("dataset",))
    run = dagster.finished(run_id)
    assert run["status"] == "FAILURE"
    assert "OOMKilled" in said(run), said(run)
    assert f"limit {96 + round_}Mi" in said(run)
    assert len(retries(run, "dataset")) == 2
    assert _artifacts_of(volumes, run_id) == []


def test_a_run_whose_pod_is_deleted_fails_soon_leaves_no_pod_and_is_started_again(
    cluster: Cluster, dagster: Dagster, registry: Registry, round_: int
):
    config = _config("fault-run", round_, epochs=400)
    run_id = dagster.start(config)
    cluster.step_pod(run_id, "trained_model")
    (pod,) = cluster.pods(f"dagster/run-id={run_id},app.kubernetes.io/component=run_worker")
    cluster.run("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    # The monitoring looks every minute.
    run = dagster.finished(run_id, 120)
    assert run["status"] == "FAILURE", said(run)
    wait_until(lambda: not _steps_running(cluster, run_id), 90, "the steps of the dead run to end")
    again = wait_until(lambda: dagster.runs("dagster/parent_run_id", run_id), 120, "the daemon's new run")
    run = dagster.finished(again[0]["runId"])
    assert run["status"] == "SUCCESS", said(run)
    assert [v["version"] for v in registry.versions(config["model_name"])] == ["1"]


def test_mlflow_down_at_registration_is_retried_then_fails_with_nothing_registered(
    cluster: Cluster, dagster: Dagster, registry: Registry, volumes: Volumes, round_: int
):
    config = {"model_name": f"fault-mlflow-{SEED}-{round_}"}
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
    assert len(retries(run, "registered_model")) == 2, said(run)
    assert "jukebox-mlflow" in retries(run, "registered_model")[0]
    assert registry.versions(name) == []
    assert volumes.sh(f"ls -A /data/models/{name} 2>/dev/null || true") == ""
    # And afterwards it is registered, once.
    run = dagster.finished(dagster.start(config, job=job))
    assert run["status"] == "SUCCESS", said(run)
    assert [v["version"] for v in registry.versions(name)] == ["1"]
    assert registry.aliases(name)["champion"] == "1"


@contextmanager
def _full(cluster: Cluster, volume: str) -> Iterator[None]:
    """In place of a claim, give steps a volume with room for 64 KiB: writing to it gives ENOSPC, as a full one does."""
    executor = yaml.safe_load(cluster.get("configmap", "jukebox-run-config")["data"]["executor.yaml"])
    volumes = executor["step_k8s_config"]["pod_spec_config"]["volumes"]
    (claim,) = [v for v in volumes if v["name"] == volume]
    del claim["persistentVolumeClaim"]
    claim["emptyDir"] = {"medium": "Memory", "sizeLimit": "64Ki"}
    with cluster.config_map("jukebox-run-config", {"executor.yaml": yaml.safe_dump(executor)}):
        yield


def test_a_full_artifact_volume_fails_the_run_with_words_and_leaves_nothing(
    cluster: Cluster, dagster: Dagster, volumes: Volumes, round_: int
):
    with _full(cluster, "artifacts"):
        run_id = dagster.start({"seed": SEED + 10 + round_}, job="jukebox_data")
        run = dagster.finished(run_id)
    assert run["status"] == "FAILURE"
    assert "No space left on device" in said(run), said(run)
    assert len(retries(run, "dataset")) == 2
    assert _artifacts_of(volumes, run_id) == []


def test_a_full_model_volume_leaves_no_alias_and_the_next_run_adopts_what_is_there(
    cluster: Cluster, dagster: Dagster, registry: Registry, volumes: Volumes, round_: int
):
    config = {"model_name": f"fault-full-{SEED}-{round_}"}
    name, job = config["model_name"], "jukebox_evaluate_and_register"
    with _full(cluster, "models"):
        run = dagster.finished(dagster.start(config, job=job))
    assert run["status"] == "FAILURE"
    assert "No space left on device" in said(run), said(run)
    assert len(retries(run, "registered_model")) == 2
    assert registry.aliases(name) == {}
    assert len(registry.versions(name)) <= 1
    run = dagster.finished(dagster.start(config, job=job))
    assert run["status"] == "SUCCESS", said(run)
    assert [v["version"] for v in registry.versions(name)] == ["1"]
    assert set(registry.aliases(name).values()) == {"1"}
    assert "model.onnx" in volumes.sh(f"ls /data/models/{name}/1").split()


def test_postgresql_restarted_during_a_run_lets_it_finish_or_fail_cleanly(
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
        assert run["status"] == "FAILURE", said(run)
        assert "champion" not in aliases
        dagster.end_retries(run_id)
    # The log of events has every step from its start to its end.
    for step in run["stepStats"]:
        if step["status"] == "SUCCESS":
            assert step["startTime"] <= step["endTime"], step
    # And everything works as before.
    run = dagster.finished(dagster.start({"seed": SEED}, job="jukebox_data"))
    assert run["status"] == "SUCCESS", said(run)
