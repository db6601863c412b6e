"""Fits a project's Keras model on its features: the same seed, data and code give the same weights."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jukebox_orch.mapped import pieces, release, take
from jukebox_orch.project import Features, Hyperparameters, InputError, ModelProject, Part
from jukebox_orch.values import FeatureSet, TrainedModel, Training, array_digest

if TYPE_CHECKING:
    import keras

# Eigen splits its sums by thread: with a fixed number a laptop and a pod add in the same order.
_THREADS = "2"
_SCORED_ENTRIES = 20_000
# Splits up to this size are held in memory by TensorFlow; larger ones are read batch by batch from their file.
_IN_MEMORY_BYTES = 32 << 20


def train(
    project: ModelProject,
    feature_set: FeatureSet,
    hyperparameters: Hyperparameters,
    seed: int,
    log: Callable[[str], None],
) -> TrainedModel:
    """Build, fit and score the project's model.

    Args:
        log: receives a line of progress at most once a second.

    Raises:
        InputError: the network does not fit the features.
    """
    keras = seeded_keras(seed)
    features = feature_set.features
    started = time.perf_counter()
    model = serving_model(project, features, hyperparameters)
    steps = hyperparameters.epochs * -(-len(features.train) // hyperparameters.batch_size)
    model.compile(
        optimizer=project.optimizer(hyperparameters, steps),
        loss=project.task.loss(features.train.y),
        weighted_metrics=["accuracy"] if project.task.kind == "classification" else ["mae"],
        steps_per_execution=max(1, min(16, len(features.train) // hyperparameters.batch_size)),
        jit_compile=False,  # pyright: ignore[reportArgumentType] # Keras annotates its own default only
    )
    callbacks: list[keras.callbacks.Callback] = [
        _progress(keras, hyperparameters.epochs, log),
        keras.callbacks.TerminateOnNaN(),
    ]
    if hyperparameters.early_stopping_patience:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                monitor="val_loss",
                patience=hyperparameters.early_stopping_patience,
                restore_best_weights=True,
            )
        )
    history = model.fit(
        _training_batches(project, features.train, hyperparameters, seed),
        epochs=hyperparameters.epochs,
        validation_data=_batches(features.validation, scoring_batch(features.validation.x)),
        shuffle=False,  # the pipeline shuffles, by the seed
        verbose=0,  # pyright: ignore[reportArgumentType]
        callbacks=callbacks,
    ).history
    seconds = time.perf_counter() - started
    name, baseline = project.task.baseline(features.train, features.validation)
    training = Training(
        features_digest=feature_set.digest,
        dataset_digest=feature_set.dataset_digest,
        seed=seed,
        hyperparameters=hyperparameters.model_dump(),
        history={metric: [float(v) for v in values] for metric, values in history.items()},
        train=_score(project, model, _sample(features.train)),
        validation=_score(project, model, features.validation),
        baseline=project.task.score(features.validation, baseline),
        baseline_name=name,
        model_digest=hashlib.sha256(
            f"{model.to_json()}{array_digest(*model.get_weights())}".encode()
        ).hexdigest(),
        seconds=seconds,
    )
    return TrainedModel(training, model)


def predict(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Outputs (n, outputs) float32 of the network for raw inputs (n, …)."""
    # Keras copies what it is given: a large split goes in pieces.
    batch = scoring_batch(x)
    rows = max(batch, len(x) * _IN_MEMORY_BYTES // max(x.nbytes, 1))
    parts = [
        model.predict(piece, batch_size=batch, verbose=0)  # pyright: ignore[reportArgumentType]
        for _, piece in pieces(x, rows)
    ]
    return np.concatenate(parts)


def scoring_batch(x: np.ndarray) -> int:
    """Entries predicted at a time: a convolution holds a hundred times the size of its image."""
    return 1024 if x.ndim == 2 else 128


def serving_model(project: ModelProject, features: Features, hyperparameters: Any) -> keras.Model:
    """The project's network behind its normalisation: raw inputs in, outputs out.

    Raises:
        InputError: the network's input or output shape does not fit the features.
    """
    import keras

    network = project.build_model(features, hyperparameters)
    outputs = len(features.labels) or 1
    if tuple(network.input_shape[1:]) != features.shape or tuple(network.output_shape[1:]) != (outputs,):
        raise InputError(
            f"{project.name}: build_model() returned {network.input_shape} -> {network.output_shape}; "
            f"the features need (None, {', '.join(map(str, features.shape))}) -> (None, {outputs})"
        )
    offset, scale = features.normalization.offset, features.normalization.scale
    raw = keras.Input(features.shape, dtype=features.train.x.dtype.name, name="raw")
    normalize = keras.layers.Rescaling(
        scale=(1.0 / scale).tolist(), offset=(-offset / scale).tolist(), name="normalization"
    )
    return keras.Model(raw, network(normalize(raw)), name=project.name)


def import_keras() -> Any:
    """Import Keras with TensorFlow set so that every machine computes the same.

    TensorFlow reads its settings when it starts; where another part of the process has started it before, its
    own stay.
    """
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", _THREADS)
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", _THREADS)
    # oneDNN picks its kernels, and so the order of its sums, by the processor.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Errors of TensorFlow reach Python as exceptions; what it logs itself is about GPUs that are not there.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)
    tf.config.experimental.enable_op_determinism()
    return keras


def seeded_keras(seed: int) -> Any:
    """Keras with every source of randomness fixed, counting layers from the start."""
    keras = import_keras()
    # Layer names are counted per process and end up in the ONNX file.
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    return keras


def _training_batches(project: ModelProject, part: Part, hyperparameters: Hyperparameters, seed: int) -> Any:
    """The split as a `tf.data` pipeline of (x, y, weight) batches, in another order every epoch."""
    import tensorflow as tf

    batches = _batches(part, hyperparameters.batch_size, seed)
    if type(project).augment is not ModelProject.augment:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
        batches = tf.data.Dataset.zip(batches, seeds).map(
            lambda row, pair: (project.augment(row[0], hyperparameters, tf.cast(pair, tf.int32)), *row[1:])
        )
    return batches.prefetch(tf.data.AUTOTUNE)


def _batches(part: Part, batch_size: int, seed: int | None = None) -> Any:
    """Batches of (x, y, weight), shuffled with a seed; weights have mean 1: the learning rate keeps its meaning.

    The order is the same whether the split is in memory or read from its file.
    """
    import tensorflow as tf

    weight = (part.weight / part.weight.mean()).astype(np.float32)
    arrays = (part.x, part.y, weight)
    in_memory = part.x.nbytes <= _IN_MEMORY_BYTES
    entries = tf.data.Dataset.from_tensor_slices(arrays) if in_memory else tf.data.Dataset.range(len(part))
    if seed is not None:
        entries = entries.shuffle(len(part), seed=seed, reshuffle_each_iteration=True)
    batches = entries.batch(batch_size)

    def read_rows(index: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = tuple(array[index] for array in arrays)
        release(part.x)
        return rows

    def read(index: Any) -> tuple[Any, ...]:
        rows = tf.numpy_function(read_rows, [index], [array.dtype for array in arrays], stateful=False)
        return tuple(
            tf.ensure_shape(row, (None, *array.shape[1:])) for row, array in zip(rows, arrays, strict=True)
        )

    return batches if in_memory else batches.map(read)


def _progress(keras: Any, epochs: int, log: Callable[[str], None]) -> keras.callbacks.Callback:
    """Report epochs, at most one a second and always the last."""
    state = {"reported": 0.0}

    def report(epoch: int, logs: dict[str, float] | None) -> None:
        now = time.monotonic()
        if now - state["reported"] >= 1 or epoch + 1 == epochs:
            state["reported"] = now
            log(
                f"epoch {epoch + 1}/{epochs}: "
                + ", ".join(f"{k} {v:.4f}" for k, v in sorted((logs or {}).items()))
            )

    return keras.callbacks.LambdaCallback(on_epoch_end=report)


def _sample(part: Part) -> Part:
    """At most 20,000 evenly spaced entries: enough to see over-fitting, cheap on large splits."""
    if len(part) <= _SCORED_ENTRIES:
        return part
    index = np.linspace(0, len(part) - 1, _SCORED_ENTRIES).astype(int)
    x = take(part.x, index)
    return Part(x, part.y[index], part.weight[index], part.keys)


def _score(project: ModelProject, model: keras.Model, part: Part) -> dict[str, float]:
    """Metrics on the split; NaN for a network whose training diverged, which the checks refuse."""
    prediction = predict(model, part.x)
    if not np.isfinite(prediction).all():
        return dict.fromkeys(project.task.metrics, float("nan"))
    if project.task.kind == "classification":
        sums = prediction.sum(axis=1)
        if prediction.min() < 0 or np.abs(sums - 1).max() > 1e-3:
            raise InputError(
                f"{project.name}: the network's outputs are no probabilities ({prediction.min():.3g} to "
                f"{prediction.max():.3g}, rows sum to {sums.min():.3g}..{sums.max():.3g}): end build_model() in a "
                "softmax"
            )
    return project.task.score(part, prediction)
