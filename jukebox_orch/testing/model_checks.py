"""Checks of `jukebox_orch.testing.suite` on features and models. A failed check raises an AssertionError."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jukebox_orch.contract import Features, ModelProject, Split
from jukebox_orch.testing.data_checks import Trained


def check_features(project: ModelProject, features: Features) -> None:
    """Check shapes, types and values of all fields of `Features`."""
    assert len(set(features.inputs)) == len(features.inputs), f"inputs repeat: {features.inputs}"
    assert features.columns or len(features.inputs) == 1, (
        f"x has shape {features.train.x.shape}, but there are {len(features.inputs)} inputs: name every column, "
        "or use one name for the whole tensor"
    )
    classification = project.task.kind == "classification"
    assert bool(features.labels) == classification, f"labels of a {project.task.kind}: {features.labels}"
    assert len(set(features.labels)) == len(features.labels), f"labels repeat: {features.labels}"
    for name, split in features.splits.items():
        _check_split(f"features.{name}", split, features)
    if classification:
        classes = (
            np.unique(features.train.y) if features.train.y.ndim == 1 else features.train.y.sum(axis=0) > 0
        )
        assert np.count_nonzero(classes) + (features.train.y.ndim == 1 and 0 in classes) >= 2, (
            "the training split has one class only"
        )
    scale = np.asarray(features.normalization.scale)
    assert np.isfinite(scale).all(), "normalization.scale is not finite"
    assert (scale != 0).all(), "normalization.scale has zeros"
    np.broadcast_shapes(scale.shape, features.shape)


def check_overlap(features: Features) -> None:
    """Check that no key is in two splits."""
    keys = {name: set(split.keys.tolist()) for name, split in features.splits.items()}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = sorted(keys[first] & keys[second])
        assert not shared, f"{first} and {second} share {len(shared)} keys, for example {shared[:3]}"


def check_floor(project: ModelProject, features: Features) -> None:
    """Check that perfect predictions reach `gates.metric_floor`."""
    floor, task, test = project.gates().metric_floor, project.task, features.test
    if floor is None:
        return
    perfect = np.eye(len(features.labels))[test.y] if features.labels and test.y.ndim == 1 else test.y
    best = task.score(test, perfect.reshape(len(test), -1))[task.primary]
    assert task.not_worse(best, floor) and best != floor, (  # noqa: PT018
        f"gates.metric_floor is {floor:g}, but perfect predictions give {task.primary} {best:.4g} on the test "
        f"split, and {'higher' if task.higher_is_better else 'lower'} is better: no model passes"
    )


def check_baselines(project: ModelProject, features: Features) -> None:
    """Check that baselines give finite predictions of the expected shape."""
    shape = (len(features.test), len(features.labels) or 1)
    for name, prediction in project.baselines(features).items():
        assert np.shape(prediction) == shape, (
            f"baseline {name!r} has shape {np.shape(prediction)}, not {shape}"
        )
        assert np.isfinite(prediction).all(), f"baseline {name!r} is not finite"
        project.task.score(features.test, np.asarray(prediction))


def check_augmentation(project: ModelProject, features: Features) -> None:
    """Check that augment() keeps shape and type, and gives the same result for the same seed."""
    import tensorflow as tf

    batch = tf.constant(np.asarray(features.train.x[:8]))
    hyperparameters = project.hyperparameters()
    first, second = (project.augment(batch, hyperparameters, tf.constant([1, 2])) for _ in range(2))
    assert (first.shape, first.dtype) == (batch.shape, batch.dtype), (
        f"augment() returns {first.dtype} {first.shape} for {batch.dtype} {batch.shape}"
    )
    assert np.array_equal(first.numpy(), second.numpy()), (
        "augment() ignores its seed: use tf.random.stateless_… and tf.image.stateless_…"
    )


def check_prediction(project: ModelProject, trained: Trained) -> None:
    """Check that the loss is finite, and that the outputs are probabilities or finite numbers."""
    losses = [*trained.history["loss"], *trained.history["val_loss"]]
    assert np.isfinite(losses).all(), f"the loss is not finite: {losses}"
    prediction, labels = trained.prediction, trained.features.labels
    assert prediction.shape == (len(trained.features.test), len(labels) or 1), (
        f"the model's output has shape {prediction.shape}"
    )
    assert np.isfinite(prediction).all(), "the model's output is not finite"
    if labels:
        sums = prediction.sum(axis=1)
        assert (prediction >= 0).all(), "outputs below 0: end build_model() with a softmax layer"
        assert np.allclose(sums, 1, atol=1e-3), (
            "outputs do not sum to 1: end build_model() with a softmax layer"
        )
    project.task.score(trained.features.test, prediction)
    project.task.details(trained.features.test, prediction, labels)


def check_model_storage(trained: Trained, folder: Path) -> None:
    """Check that the model predicts the same after it was saved and loaded in safe mode."""
    from jukebox_orch.ml.keras_runtime import load_keras, predict

    path = folder / "model.keras"
    trained.model.save(path)
    try:
        loaded = load_keras(path)
    except Exception as error:
        raise AssertionError(f"the saved model cannot be loaded in safe mode: {error}") from error
    assert np.array_equal(predict(loaded, trained.features.test.x), trained.prediction), (
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


def _check_split(name: str, split: Split, features: Features) -> None:
    n = len(split)
    assert n, f"{name} is empty"
    assert split.x.dtype in (np.float32, np.uint8), f"{name}.x is {split.x.dtype}, not float32 or uint8"
    assert split.x.shape[1:] == features.shape, (
        f"{name}.x has shape {split.x.shape}, train has {features.shape}"
    )
    assert split.x.dtype == features.train.x.dtype, f"{name}.x is {split.x.dtype}, train is not"
    assert np.isfinite(split.x).all(), f"{name}.x has NaN or infinity"
    assert split.y.shape in ((n,), (n, len(features.labels))), f"{name}.y has shape {split.y.shape}"
    assert np.isfinite(split.y).all(), f"{name}.y has NaN or infinity"
    if features.labels and split.y.ndim == 1:
        assert np.issubdtype(split.y.dtype, np.integer), f"{name}.y is {split.y.dtype}, not integer classes"
        inside = (split.y >= 0) & (split.y < len(features.labels))
        assert inside.all(), f"{name}.y has classes beyond the {len(features.labels)} labels"
    else:
        assert split.y.dtype == np.float32, f"{name}.y is {split.y.dtype}, not float32"
    if features.labels and split.y.ndim == 2:
        assert np.allclose(split.y.sum(axis=1), 1, atol=1e-4), f"{name}.y: label shares do not sum to 1"
    assert split.weight.shape == (n,), f"{name}.weight has shape {split.weight.shape}"
    assert (split.weight > 0).all(), f"{name}.weight has entries that are not above 0"
    assert split.keys.dtype.kind == "U", f"{name}.keys is {split.keys.dtype}, not strings"
    assert len(np.unique(split.keys)) == len(split.keys), f"{name}.keys repeat"
    assert len(split.keys), f"{name}.keys is empty: set the keys that the rows were split by"
    for label, mask in split.slices.items():
        assert mask.shape == (n,), f"{name}.slices[{label!r}] has shape {mask.shape}"
        assert mask.dtype == bool, f"{name}.slices[{label!r}] is {mask.dtype}, not bool"
