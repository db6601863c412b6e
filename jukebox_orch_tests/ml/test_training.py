"""Training is reproducible, refuses networks of wrong shape, and detects divergence."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from jukebox_orch.contract import Features, InputError, ModelProject, ShareSplit, Split
from jukebox_orch.ml import drift, training
from jukebox_orch.ml.artifacts import StoredFeatures, TrainedModel
from jukebox_orch.ml.keras_runtime import predict
from jukebox_orch.ml.training import train
from jukebox_orch_tests.support.deployment import Deployment, checks, failures, made
from jukebox_orch_tests.support.projects import Blobs, Rents, ShortTraining, TableProject


def feature_set(project: ModelProject) -> StoredFeatures:
    data = project.load(project.source())
    features = project.build_features(data, ShareSplit(), 42)
    return StoredFeatures(features, "digest", drift.profile(project.drift_table(data)))


def trained(
    project: ModelProject, seed: int = 1, log: Callable[[str], None] = print, **changed: Any
) -> TrainedModel:
    hyperparameters = project.hyperparameters(**{"epochs": 3, **changed})
    return train(project, feature_set(project), hyperparameters, seed, log)


def test_weights_depend_on_seed():
    one, same, other = trained(Blobs()), trained(Blobs()), trained(Blobs(), seed=2)
    assert one.report.model_digest == same.report.model_digest
    assert one.report.history == same.report.history
    assert one.report.model_digest != other.report.model_digest


def test_report_has_scores_history_and_settings():
    training = trained(Blobs()).report
    assert len(training.history["loss"]) == len(training.history["val_loss"]) == 3
    assert training.hyperparameters["epochs"] == 3
    assert training.seed == 1
    assert training.dataset_digest == "digest"
    assert set(training.validation) == set(training.baseline) == set(Blobs.task.metrics)
    assert training.baseline_name == "majority_class"


def test_model_normalises_raw_inputs():
    project = Rents()
    model = trained(project, epochs=30)
    features = feature_set(project).features
    x = features.arrays(features.test)
    assert abs(features.test.x.mean()) > 10
    assert predict(model.keras_model, x).std() > 50
    assert model.keras_model.get_layer("normalization")


def test_progress_reports_last_epoch():
    lines: list[str] = []
    trained(Blobs(), log=lines.append, epochs=4)
    assert lines[-1].startswith("epoch 4/4: accuracy ")
    assert "val_loss" in lines[-1]


def test_early_stopping_stops_after_patience():
    model = trained(Blobs(), epochs=200, early_stopping_patience=3, learning_rate=0.1)
    losses = model.report.history["val_loss"]
    assert len(losses) < 200
    assert int(np.argmin(losses)) == len(losses) - 4


def test_zero_patience_runs_all_epochs():
    assert len(trained(Blobs(), epochs=6, early_stopping_patience=0).report.history["loss"]) == 6


def test_refit_runs_best_number_of_epochs():
    settings = {"epochs": 200, "early_stopping_patience": 3, "learning_rate": 0.1}
    lines: list[str] = []
    plain, refit = trained(Blobs(), **settings), trained(Blobs(), log=lines.append, refit=True, **settings)
    best = int(np.argmin(plain.report.history["val_loss"])) + 1
    history = dict(refit.report.history)
    refit_history = {name: history.pop(f"refit_{name}") for name in ("loss", "accuracy")}
    assert history == plain.report.history
    assert {name: len(values) for name, values in refit_history.items()} == {"loss": best, "accuracy": best}
    assert lines[-1].startswith(f"refit epoch {best}/{best}: accuracy ")
    assert "val_loss" not in lines[-1]
    # The scores are those of the first model, which was not trained on the validation split.
    assert refit.report.validation == plain.report.validation
    assert refit.report.train == plain.report.train
    assert refit.report.model_digest != plain.report.model_digest


def test_refit_equals_training_on_both_splits():
    """The result equals a training without refit whose training split contains both splits."""
    data = feature_set(Blobs())
    one, other = data.features.train, data.features.validation
    x, y, weight = (
        np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("x", "y", "weight")
    )
    both = Split(x, y, weight, one.keys)
    joined = StoredFeatures(replace(data.features, train=both), "digest", {})
    settings = ShortTraining(epochs=5, early_stopping_patience=0)
    plain = train(Blobs(), joined, settings, 1, print)
    refit = train(Blobs(), data, settings.model_copy(update={"refit": True}), 1, print)
    assert refit.report.history["refit_loss"] == plain.report.history["loss"]
    assert refit.report.model_digest == plain.report.model_digest


def test_refit_from_files_gives_same_model(
    monkeypatch: pytest.MonkeyPatch,
):
    one = trained(Blobs(), refit=True)
    monkeypatch.setattr(training, "_IN_MEMORY_BYTES", 0)
    assert trained(Blobs(), refit=True).report.model_digest == one.report.model_digest


def test_diverged_training_is_not_refitted():
    def optimizer(self: ModelProject, hyperparameters: Any, steps: int) -> keras.optimizers.Optimizer:
        return keras.optimizers.SGD(1e30)

    diverging: ModelProject = type("Diverging", (Blobs,), {"optimizer": optimizer})()
    assert "refit_loss" not in trained(diverging, epochs=20, refit=True).report.history


class WrongShape(Blobs):
    """A project whose network does not have the shapes of the features."""

    shapes = ((3,), 3)

    def build_model(self, features: Features, hyperparameters: Any) -> keras.Model:
        shape, outputs = self.shapes
        return keras.Sequential([keras.Input(shape), keras.layers.Dense(outputs, activation="softmax")])


@pytest.mark.parametrize("shapes", [((4,), 3), ((3,), 2), ((3, 1), 3)], ids=str)
def test_network_of_wrong_shape_is_refused(shapes: tuple):
    project = type("WrongShape", (WrongShape,), {"shapes": shapes})()
    with pytest.raises(InputError) as error:
        trained(project)
    assert str(error.value).startswith("blobs: build_model(): ")
    assert re.search(r"takes .*; the features are \(None, 3\)|needs \(None, 3\)", str(error.value))


@pytest.mark.parametrize("project", [Blobs, Rents])
def test_diverged_training_stops_with_nan_scores(project: type[TableProject]):
    def optimizer(self: ModelProject, hyperparameters: Any, steps: int) -> keras.optimizers.Optimizer:
        return keras.optimizers.SGD(1e30)

    diverging: ModelProject = type("Diverging", (project,), {"optimizer": optimizer})()
    training = trained(diverging, epochs=20).report
    assert not np.isfinite(training.history["loss"]).all()
    assert len(training.history["loss"]) < 20
    assert all(np.isnan(value) for value in training.validation.values())


def test_diverged_training_fails_check_and_registers_nothing(deployment: Deployment):
    class Diverging(Blobs):
        def optimizer(self, hyperparameters: Any, steps: int) -> keras.optimizers.Optimizer:
            return keras.optimizers.SGD(1e30)

    result = deployment.run(project=Diverging())
    assert not result.success
    assert made(result)[-1] == "trained_model", failures(result)
    check = checks(result)["trained_model:finite_loss"]
    assert not check.passed
    assert "loss of epoch 1 is " in (check.description or "")
    assert not checks(result)["trained_model:beats_baseline"].passed
    assert not [e for e in result.all_events if e.is_step_up_for_retry]
    assert deployment.versions() == []
    (run,) = deployment.client().search_runs(
        [e.experiment_id for e in deployment.client().search_experiments(filter_string="name = 'blobs'")]
    )
    assert run.info.status == "FAILED"


def test_model_below_majority_baseline_stops_run(deployment: Deployment):
    class Constant(Blobs):
        def optimizer(self, hyperparameters: Any, steps: int) -> keras.optimizers.Optimizer:
            return keras.optimizers.SGD(0.0)

        def build_model(self, features: Features, hyperparameters: Any) -> keras.Model:
            rarest = np.bincount(features.validation.y).argmin()
            network = keras.Sequential(
                [keras.Input(features.shape), keras.layers.Dense(3, activation="softmax")]
            )
            network.set_weights([np.zeros((3, 3)), np.eye(3)[rarest] * 9])
            return network

    result = deployment.run(project=Constant(), hyperparameters={"epochs": 1})
    assert not result.success
    assert made(result)[-1] == "trained_model"
    check = checks(result)["trained_model:beats_baseline"]
    assert not check.passed
    assert set(check.metadata) >= {"value", "threshold"}
    assert deployment.versions() == []
