"""Checks of `jukebox_orch.testing.suite` on features and models. A failed check raises an AssertionError."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jukebox_orch.contract import Features, ModelProject
from jukebox_orch.contract.splitting import late_entries
from jukebox_orch.ml import project_calls
from jukebox_orch.ml.door import features_problems
from jukebox_orch.ml.keras_runtime import model_input
from jukebox_orch.testing.data_checks import Trained


def check_features(project: ModelProject, features: Features) -> None:
    """Check names, shapes, types and values of all fields of `Features`."""
    problems = features_problems(project, features)
    assert not problems, "; ".join(problems)
    for name, split in features.splits.items():
        for block, array in features.arrays(split).items():
            assert np.isfinite(array).all(), f"{name}: {block} has NaN or infinity"
    _, baseline = project.task.baseline(features.train, features.train)
    assert project.task.score(features.train, baseline) != project.task.score(
        features.train, project.task.perfect(features.train, features.labels)
    ), "the training split has one class or one value only: a rule that ignores the inputs is perfect"


def check_overlap(features: Features) -> None:
    """Check that no key is in two splits, and that in a split by time every split is older than the next one."""
    keys = {name: set(split.keys.tolist()) for name, split in features.splits.items()}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = sorted(keys[first] & keys[second])
        assert not shared, f"{first} and {second} share {len(shared)} keys, for example {shared[:3]}"
    late, text = late_entries(features)
    assert not late, f"{late} entries are not older than those of the next split: {text}; use split_by_time"


def check_floor(project: ModelProject, features: Features) -> None:
    """Check that perfect predictions reach `gates.metric_floor`."""
    floor, task, test = project.gates().metric_floor, project.task, features.test
    if floor is None:
        return
    best = task.score(test, task.perfect(test, features.labels))[task.primary]
    assert task.not_worse(best, floor) and best != floor, (  # noqa: PT018
        f"gates.metric_floor is {floor:g}, but perfect predictions give {task.primary} {best:.4g} on the test "
        f"split, and {'higher' if task.higher_is_better else 'lower'} is better: no model passes"
    )


def check_baselines(project: ModelProject, features: Features) -> None:
    """Check that baselines give finite predictions of the expected shape."""
    own, _ = project.task.baseline(features.train, features.test)
    for prediction in project_calls.baselines(project, features, own).values():
        project.task.score(features.test, prediction)


def check_augmentation(project: ModelProject, features: Features) -> None:
    """Check that augment() keeps shape and type, and gives the same result for the same seed."""
    import tensorflow as tf

    arrays = features.arrays(features.train)
    batch = {name: tf.constant(np.asarray(array[:8])) for name, array in arrays.items()}
    hyperparameters = project.hyperparameters()
    results = [project.augment(model_input(batch), hyperparameters, tf.constant([1, 2])) for _ in range(2)]
    first, second = (
        dict(result) if isinstance(result, Mapping) else dict(zip(batch, [result], strict=False))
        for result in results
    )
    assert set(first) == set(batch), f"augment() returns {sorted(first)} for {sorted(batch)}"
    for name, given in batch.items():
        assert (first[name].shape, first[name].dtype) == (given.shape, given.dtype), (
            f"augment() returns {first[name].dtype} {first[name].shape} for {given.dtype} {given.shape}"
        )
        assert np.array_equal(first[name].numpy(), second[name].numpy()), (
            "augment() ignores its seed: use tf.random.stateless_… and tf.image.stateless_…"
        )


def check_prediction(project: ModelProject, trained: Trained) -> None:
    """Check that the loss is finite, and that the outputs are probabilities or finite numbers."""
    losses = [*trained.history["loss"], *trained.history["val_loss"]]
    assert np.isfinite(losses).all(), f"the loss is not finite: {losses}"
    prediction, labels = trained.prediction, trained.features.labels
    assert np.isfinite(prediction).all(), "the model's output is not finite"
    problem = project.task.prediction_problem(prediction)
    assert not problem, problem
    project.task.score(trained.features.test, prediction)
    project.task.details(trained.features.test, prediction, labels)


def check_model_storage(trained: Trained, folder: Path) -> None:
    """Check that the model predicts the same after it was saved and loaded in safe mode."""
    from jukebox_orch.ml.keras_runtime import load_keras, predict, project_keras

    path = folder / "model.keras"
    trained.model.save(path)
    with project_keras(trained.project, seed=0):
        try:
            loaded = load_keras(path)
        except Exception as error:
            raise AssertionError(f"the saved model cannot be loaded in safe mode: {error}") from error
        again = predict(loaded, trained.features.arrays(trained.features.test))
    assert np.array_equal(again, trained.prediction), (
        "the model's predictions change after saving and loading"
    )


def check_onnx(project: ModelProject, trained: Trained) -> None:
    """Check that the ONNX file is valid and equals Keras on the test split."""
    from jukebox_orch.ml.onnx_export import export

    report = export(project, trained.trained_model, trained.features).report
    assert not report.checker_error, report.checker_error
    assert report.max_abs_difference <= project.parity_tolerance, (
        f"ONNX differs from Keras by {report.max_abs_difference:.2g}, more than {project.parity_tolerance:g}"
    )
    assert report.agreement == 1, f"ONNX and Keras agree on {report.agreement:.2%} of the test split only"
    assert report.single_row_difference <= project.parity_tolerance, (
        "a single row gives another output than in a batch"
    )
