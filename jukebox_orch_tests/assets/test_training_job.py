"""The training job: the quickstart's command, and what a failed check stops in this run and in later ones."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import keras
import numpy as np
import pandas as pd
import pytest

from jukebox_orch.assets import NODES
from jukebox_orch.contract import Features, Hyperparameters
from jukebox_orch_tests.support.deployment import SMALL, Deployment, checks, failures, made
from jukebox_orch_tests.support.projects import Blobs

ASSETS = [node.name for node in NODES]


def materialized(deployment: Deployment, run_id: str = "") -> list[str]:
    """Return the assets that a run materialized, by default the newest run."""
    events = deployment.events(dg.DagsterEventType.ASSET_MATERIALIZATION, run_id)
    return [event.asset_key.path[-1] for event in events if event.asset_key]


@pytest.fixture(scope="module")
def sample(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[tuple[Deployment, subprocess.CompletedProcess]]:
    """Run the command of the quickstart on the embedded sample."""
    folder = tmp_path_factory.mktemp("sample")
    shutil.copy(migrated, folder / "mlflow.db")
    deployment = Deployment(folder)
    yield deployment, deployment.execute("jukebox_training", module="jukebox_orch.definitions")
    deployment.instance.dispose()


def test_embedded_sample_is_registered_despite_warnings(sample):
    deployment, result = sample
    assert result.returncode == 0, result.stderr[-3_000:]
    assert sorted(materialized(deployment)) == sorted(ASSETS)
    assert deployment.aliases("jukebox-sample") == {"challenger": "1", "champion": "1", "staging": "1"}
    events = deployment.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluations = [event.asset_check_evaluation_data for event in events]
    failed = {e.check_name for e in evaluations if not e.passed}
    assert failed >= {"invalid_rows"}
    assert all(e.severity == dg.AssetCheckSeverity.WARN for e in evaluations if not e.passed)
    assert {"value", "threshold"} <= set.intersection(*(set(e.metadata) for e in evaluations))


def test_every_asset_records_versions_and_location(sample):
    deployment, _ = sample
    for asset in ASSETS:
        event = deployment.materialization(f"jukebox/{asset}")
        assert set(event.tags or {}) >= {"dagster/data_version", "dagster/code_version"}
        metadata = deployment.metadata(f"jukebox/{asset}")
        assert {"path", "sha256", "bytes", "format", "files"} <= set(metadata)
        assert deployment.value(f"jukebox/{asset}") is not None


def test_sample_model_matches_documented_quality(sample):
    deployment, _ = sample
    report = deployment.value("jukebox/evaluation")
    assert report.test.metrics["accuracy"] > 0.3
    assert {"majority_class", "song_lookup"} == {scores.name for scores in report.baselines}
    assert len(report.details["per_class"]) == 72
    names = deployment.value("jukebox/onnx_model").report.inputs
    assert len(names) == 13
    assert all(kind == ["tensor(float)", "batch", 1] for kind in names.values())


def test_metadata_shows_figures_and_model_card(sample):
    deployment, _ = sample
    for asset, name in (("features", "feature distributions"), ("trained_model", "learning curves")):
        assert str(deployment.metadata(f"jukebox/{asset}")[name]).startswith(f"![{name}")
    assert "jukebox-sample version 1" in str(deployment.metadata("jukebox/registered_model")["model card"])


def test_failed_validation_stops_training(deployment: Deployment):
    broken = deployment.folder / "broken.csv"
    rows = Blobs().generate()
    rows["color"] = rows["color"].where(rows.index % 3 > 0, "pink")
    rows.to_csv(broken, index=False)
    before = broken.read_bytes()
    result = deployment.run(source={"location": str(broken)})
    assert not result.success
    assert sorted(made(result)) == ["dataset", "features", "validated_data"]
    assert deployment.versions() == []
    assert not Path(deployment.models).exists()
    assert "missing or unknown target" in (checks(result)["validated_data:target"].description or "")
    assert broken.read_bytes() == before


def test_model_below_metric_floor_is_not_registered(again: Deployment):
    result = again.run(**SMALL | {"version": "2", "gates": {"metric_floor": 1.1}})
    assert not result.success
    assert "registered_model" not in made(result)
    assert "evaluation" in made(result)
    assert again.versions() == [1]
    assert again.aliases() == {"challenger": "1", "champion": "1", "staging": "1"}


def test_finite_metric_passes_without_metric_floor(again: Deployment):
    result = again.run("evaluate_and_register", gates={"metric_floor": None}, version="2")
    assert result.success, failures(result)
    check = checks(result)["evaluation:metric_floor"]
    assert check.metadata["threshold"].value == "none"
    assert "gates.metric_floor is not set" in (check.description or "")


def test_too_many_unusable_rows_stop_run(deployment: Deployment):
    class UnusableRows(Blobs):
        def generate(self) -> pd.DataFrame:
            rows = super().generate()
            rows.loc[:8, "height"] = float("nan")
            return rows

    passed = deployment.run("data", project=UnusableRows())
    assert passed.success
    assert not checks(passed)["validated_data:invalid_rows"].passed
    stopped = deployment.run("data", project=UnusableRows(), gates={"max_invalid_share": 0.02})
    check = checks(stopped)["validated_data:invalid_share"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert check.metadata["value"].value == pytest.approx(9 / 300)
    assert check.metadata["threshold"].value == 0.02


def test_bad_input_fails_step_once_with_instruction(deployment: Deployment):
    result = deployment.run("data", source={"location": str(deployment.folder / "nothing.csv")})
    assert not result.success
    assert made(result) == []
    assert "nothing.csv: not found; check the path or URL" in failures(result)
    assert not [e for e in result.all_events if e.is_step_up_for_retry]


def test_later_job_does_not_register_model_with_failed_gate(deployment: Deployment):
    """A blocking check stops only its own run, so a later job must not use the stopped values."""

    class Stuck(Blobs):
        """Always predicts the rarest class of the validation split."""

        def optimizer(self, hyperparameters: Any, steps: int) -> keras.optimizers.Optimizer:
            return keras.optimizers.SGD(0.0)

        def build_model(self, features: Features, hyperparameters: Any) -> keras.Model:
            rarest = np.bincount(features.validation.y).argmin()
            dense = keras.layers.Dense(3, activation="softmax")
            network = keras.Sequential([keras.Input(features.shape), dense])
            network.set_weights([np.zeros((3, 3)), np.eye(3)[rarest] * 9])
            return network

    stopped = deployment.run(project=Stuck(), hyperparameters={"epochs": 1})
    assert not stopped.success
    assert "evaluation" not in made(stopped)
    later = deployment.run("evaluate_and_register", project=Stuck(), gates={"metric_floor": 0.0})
    assert not later.success
    assert "trained_model did not pass its checks" in failures(later)
    assert deployment.versions() == []


def test_later_run_does_not_train_on_invalid_data(deployment: Deployment):
    class Pink(Blobs):
        def generate(self) -> pd.DataFrame:
            return super().generate().assign(color=lambda t: t["color"].where(t.index % 50 > 0, "pink"))

    assert not deployment.run("data", project=Pink()).success
    later = deployment.run(project=Pink(), only=["trained_model"])
    assert not later.success
    assert made(later) == []
    assert "validated_data did not pass its checks (target: missing or unknown target)" in failures(later)


def test_later_run_does_not_train_above_invalid_share(deployment: Deployment):
    class UnusableRows(Blobs):
        def generate(self) -> pd.DataFrame:
            return super().generate().assign(height=lambda t: t["height"].where(t.index > 8))

    gates = {"max_invalid_share": 0.02}
    assert not deployment.run("data", project=UnusableRows(), gates=gates).success
    later = deployment.run(project=UnusableRows(), only=["trained_model"])
    assert made(later) == []
    stopped_by = (
        "validated_data did not pass its checks (invalid_share: 9 of 300 rows are not usable (3.00%))"
    )
    assert stopped_by in failures(later)
    assert deployment.run("data", project=UnusableRows()).success
    assert made(deployment.run(project=UnusableRows(), only=["trained_model"])) == ["trained_model"]


def test_later_run_does_not_train_on_overlapping_splits(deployment: Deployment):
    class Leaky(Blobs):
        def build_features(self, dataset: Any, split: Any, seed: int) -> Features:
            features = super().build_features(dataset, split, seed)
            return replace(features, test=features.train)

    assert not deployment.run("data", project=Leaky()).success
    later = deployment.run(project=Leaky(), only=["trained_model"])
    assert made(later) == []
    assert "features did not pass its checks (no_overlap: shared: " in failures(later)


def test_later_run_does_not_register_model_with_failed_evaluation(again: Deployment):
    assert not again.run(**SMALL | {"gates": {"metric_floor": 1.1}, "version": "2"}).success
    later = again.run(only=["onnx_model", "registered_model"])
    assert made(later) == ["onnx_model"]
    assert "evaluation did not pass its checks (metric_floor: test accuracy " in failures(later)
    assert again.versions() == [1]


def test_later_run_does_not_register_onnx_model_that_differs(deployment: Deployment):
    class Exact(Blobs):
        parity_tolerance = 0.0

        def build_model(self, features: Features, hyperparameters: Hyperparameters) -> Any:

            # Exactly a third for each class before the fit, so that the network is not refused at the door.
            last = keras.layers.Dense(3, "softmax", kernel_initializer="zeros")
            return keras.Sequential([keras.Input(features.shape), last])

    stopped = deployment.run(project=Exact(), **SMALL)
    assert not checks(stopped)["onnx_model:same_as_keras"].passed
    later = deployment.run(project=Exact(), only=["registered_model"])
    assert made(later) == []
    assert "onnx_model did not pass its checks (same_as_keras: largest difference over " in failures(later)
    assert deployment.versions() == []
