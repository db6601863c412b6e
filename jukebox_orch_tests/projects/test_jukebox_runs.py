"""Whole runs of the jukebox, at the same time and twice the same: own files, own versions, the same bytes."""

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


def start(place: Deployment, name: str, config: dict[str, Any]) -> subprocess.Popen[str]:
    (place.folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    command = ["-m", "dagster", "job", "execute", "-m", "jukebox_orch.definitions", "-j", "jukebox_training"]
    return subprocess.Popen(
        [sys.executable, *command, "-c", f"{name}.yaml"],
        cwd=place.folder,
        env=place.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[tuple[Deployment, Deployment]]:
    """Two runs at the same time in one deployment; then the first of them again in another."""
    shared, apart = (Deployment(tmp_path_factory.mktemp(name)) for name in ("shared", "apart"))
    for place in (shared, apart):
        shutil.copy(migrated, place.folder / "mlflow.db")
    for runs in (
        [start(shared, "one", ONE), start(shared, "other", OTHER)],
        [start(apart, "one", ONE)],
    ):
        for process in runs:
            _, errors = process.communicate(timeout=900)
            assert process.returncode == 0, errors[-3_000:]
    yield shared, apart
    for place in (shared, apart):
        place.instance.dispose()


def found(place: Deployment, run_id: str) -> dict[str, dg.AssetMaterialization]:
    """Return what a run made, by asset."""
    events = place.events(dg.DagsterEventType.ASSET_MATERIALIZATION, run_id)
    made = [event.step_materialization_data.materialization for event in events]
    return {each.asset_key.path[-1]: each for each in made}


def runs_by_seed(place: Deployment) -> dict[int, dict[str, dg.AssetMaterialization]]:
    return {
        int(str(dict(run.run_config)["seed"])): found(place, run.run_id) for run in place.instance.get_runs()
    }


def test_runs_at_the_same_time_use_their_own_files_all_the_way(places: tuple[Deployment, Deployment]):
    shared, _ = places
    for run in shared.instance.get_runs():
        made = found(shared, run.run_id)
        assert len(made) == 7
        assert all(run.run_id in str(each.metadata["path"].value) for each in made.values())
        version = shared.client().get_model_version(
            "jukebox", str(made["registered_model"].metadata["model"].value).split()[-1]
        )
        assert version.tags["dagster_run_id"] == run.run_id
        assert version.tags["onnx_sha256"] == made["onnx_model"].metadata["onnx_sha256"].value
        for tag, asset in (("features_digest", "features"), ("model_digest", "trained_model")):
            assert version.tags[tag] == (made[asset].tags or {})["dagster/data_version"]
    one, other = runs_by_seed(shared).values()
    assert one["features"].metadata["sha256"] != other["features"].metadata["sha256"]


def test_runs_at_the_same_time_register_one_version_each_and_the_later_one_has_the_aliases(
    places: tuple[Deployment, Deployment],
):
    shared, _ = places
    assert shared.versions("jukebox") == [1, 2]
    assert shared.aliases("jukebox") == {"challenger": "2", "champion": "2", "staging": "2"}


def test_the_same_seed_data_and_code_give_the_same_file_in_another_process(
    places: tuple[Deployment, Deployment],
):
    shared, apart = places
    here, other, there = runs_by_seed(shared)[1], runs_by_seed(shared)[2], runs_by_seed(apart)[1]
    for name in ("onnx_sha256", "max_abs_difference"):
        assert here["onnx_model"].metadata[name] == there["onnx_model"].metadata[name]
    assert here["onnx_model"].metadata["onnx_sha256"] != other["onnx_model"].metadata["onnx_sha256"]
    for asset in ("dataset", "validated_data", "features", "trained_model"):
        assert (here[asset].tags or {})["dagster/data_version"] == (there[asset].tags or {})[
            "dagster/data_version"
        ], asset
