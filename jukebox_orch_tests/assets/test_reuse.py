"""Runs reuse stored artifacts: the right value, verified, and only if nothing that it depends on has changed."""

import importlib
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from jukebox_orch.storage.artifact_store import ArtifactStore
from jukebox_orch_tests.support.deployment import SMALL, Deployment, SteadyGraph, failures, made, tamper


def test_file_changed_between_steps_stops_run(again: Deployment):
    path = Path(again.metadata("blobs/features")["path"])
    tamper(path, "changed")
    result = again.run(only=["evaluation"])
    assert not result.success
    assert made(result) == []
    assert "the files were changed; refused" in failures(result)


@pytest.fixture
def read_paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of paths that steps read from the store, in order."""
    paths: list[str] = []
    original = ArtifactStore.read

    def spy(store: ArtifactStore, metadata: Any, asset_key: dg.AssetKey) -> Any:
        paths.append(str(metadata["path"].value))
        return original(store, metadata, asset_key)

    monkeypatch.setattr(ArtifactStore, "read", spy)
    return paths


def test_evaluation_alone_reads_latest_materializations(again: Deployment, read_paths: list[str]):
    before = again.metadata("blobs/evaluation")["path"]
    result = again.run(only=["evaluation"])
    assert result.success
    assert made(result) == ["evaluation"]
    assert again.metadata("blobs/evaluation")["path"] != before
    assert sorted(read_paths) == sorted(
        again.metadata(f"blobs/{asset}")["path"] for asset in ("features", "trained_model")
    )


def test_repeated_run_reuses_artifacts_and_new_version_only_converts(again: Deployment):
    assert again.run(**SMALL, version="1.0.0").success
    assert reused(again) == ["features", "trained_model", "onnx_model"]
    assert again.metadata("blobs/registered_model")["was registered before"]
    assert again.versions() == [1]
    assert again.run(**SMALL, version="1.0.1").success
    assert reused(again) == ["features", "trained_model"]
    assert again.versions() == [1, 2]


def reused(deployment: Deployment) -> list[str]:
    assets = ["features", "trained_model", "onnx_model"]
    return [asset for asset in assets if "reused_from_run" in deployment.metadata(f"blobs/{asset}")]


@pytest.mark.parametrize("change", [{"seed": 43}, {"split": {"test_share": 0.25}}], ids=["seed", "split"])
def test_changed_settings_recompute_features(change: dict, again: Deployment):
    assert again.run("data", **change).success
    assert "features" not in reused(again)
    assert again.run("data").success
    assert "features" in reused(again)


@pytest.mark.parametrize("change", [{"seed": 43}, {"hyperparameters": {"epochs": 1}}], ids=["seed", "epochs"])
def test_changed_settings_retrain_model(change: dict, again: Deployment):
    config = {"hyperparameters": {"epochs": 4}, "seed": 42}
    for settings, expected in ((config, True), ({**config, **change}, False)):
        again.run(only=["trained_model"], ops={"blobs__trained_model": {"config": settings}})
        assert ("trained_model" in reused(again)) is expected


def test_changed_code_or_data_recomputes_features(again: Deployment, monkeypatch: pytest.MonkeyPatch):
    from jukebox_orch_tests.support.projects import Blobs

    class MoreBlobs(Blobs):
        def generate(self) -> pd.DataFrame:
            return super().generate().assign(depth=lambda t: t["depth"] + 1e-3)

    assert again.run("data", project=MoreBlobs()).success
    assert "features" not in reused(again)
    assert again.run("data").success
    assert "features" in reused(again)
    monkeypatch.setattr(SteadyGraph, "code_version", "other")
    assert again.run("data").success
    assert "features" not in reused(again)


def test_damaged_artifact_is_recomputed_not_reused(again: Deployment):
    tamper(Path(again.metadata("blobs/features")["path"]), "changed")
    tamper(Path(again.metadata("blobs/trained_model")["path"]), "removed")
    old = again.version("blobs/trained_model")
    result = again.run(**SMALL, version="1.0.0")
    assert result.success
    for asset in ("features", "trained_model"):
        assert "reused_from_run" not in again.metadata(f"blobs/{asset}"), asset
    assert again.version("blobs/trained_model") == old


def test_reexecution_after_failure_uses_values_of_its_run(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, read_paths: list[str]
):
    """Run A fails at its gate, run B builds other features. A, when re-executed, must use A's features."""
    config = {**SMALL, "seed": 1}
    failed = deployment.run(**{**config, "gates": {"metric_floor": 2.0}})
    assert not failed.success
    own = deployment.metadata("blobs/features")["path"]
    assert deployment.run("data", seed=2).success
    assert deployment.metadata("blobs/features")["path"] != own
    for name, value in deployment.environment().items():
        monkeypatch.setenv(name, value)
    read_paths.clear()
    again = dg.ReexecutionOptions(failed.run_id, ["blobs__evaluation*"])
    location = importlib.reload(importlib.import_module("jukebox_orch_tests.support.code_location"))
    with dg.execute_job(
        dg.reconstructable(location.blobs_training),
        deployment.instance,
        run_config=config,
        reexecution_options=again,
    ) as result:
        assert result.success
    assert own in read_paths
    assert deployment.metadata("blobs/features")["path"] not in read_paths
