"""Concurrent jukebox runs have separate files and versions."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from jukebox_orch_tests.support.deployment import Deployment

ONE: dict[str, Any] = {
    "seed": 1,
    "split": {"train_days": 1},
    "hyperparameters": {"epochs": 2},
    "gates": {"metric_floor": None, "champion_tolerance": 1.0},
}
OTHER: dict[str, Any] = {**ONE, "seed": 2, "split": {"train_days": 0}}


def start(deployment: Deployment, name: str, config: dict[str, Any]) -> subprocess.Popen[str]:
    (deployment.folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    command = ["-m", "dagster", "job", "execute", "-m", "jukebox_orch.definitions", "-j", "jukebox_training"]
    return subprocess.Popen(
        [sys.executable, *command, "-c", f"{name}.yaml"],
        cwd=deployment.folder,
        env=deployment.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Deployment]:
    """Run the jukebox twice at the same time in one deployment."""
    deployment = Deployment(tmp_path_factory.mktemp("shared"))
    shutil.copy(migrated, deployment.folder / "mlflow.db")
    for process in [start(deployment, "one", ONE), start(deployment, "other", OTHER)]:
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-3_000:]
    yield deployment
    deployment.instance.dispose()


def materializations(deployment: Deployment, run_id: str) -> dict[str, dg.AssetMaterialization]:
    """Return the materializations of a run by asset name."""
    events = deployment.events(dg.DagsterEventType.ASSET_MATERIALIZATION, run_id)
    found = [event.step_materialization_data.materialization for event in events]
    return {materialization.asset_key.path[-1]: materialization for materialization in found}


def runs_by_seed(deployment: Deployment) -> dict[int, dict[str, dg.AssetMaterialization]]:
    return {
        int(str(dict(run.run_config)["seed"])): materializations(deployment, run.run_id)
        for run in deployment.instance.get_runs()
    }


def test_concurrent_runs_use_their_own_files(shared: Deployment):
    for run in shared.instance.get_runs():
        made = materializations(shared, run.run_id)
        assert len(made) == 7
        assert all(run.run_id in str(each.metadata["path"].value) for each in made.values())
        version = shared.client().get_model_version(
            "jukebox-sample", str(made["registered_model"].metadata["version"].value)
        )
        assert version.tags["dagster_run_id"] == run.run_id
        assert version.tags["onnx_sha256"] == made["onnx_model"].metadata["onnx_sha256"].value
        for tag, asset in (("features_digest", "features"), ("model_digest", "trained_model")):
            assert version.tags[tag] == (made[asset].tags or {})["dagster/data_version"]
    one, other = runs_by_seed(shared).values()
    assert one["features"].metadata["sha256"] != other["features"].metadata["sha256"]
    assert one["onnx_model"].metadata["onnx_sha256"] != other["onnx_model"].metadata["onnx_sha256"]


def test_concurrent_runs_register_versions_and_last_has_aliases(shared: Deployment):
    assert shared.versions("jukebox-sample") == [1, 2]
    assert shared.aliases("jukebox-sample") == {"challenger": "2", "champion": "2", "staging": "2"}
