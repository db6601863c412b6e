"""Trains a project's Keras model. The same seed, data and code give the same weights."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jukebox_orch.contract import Features, Hyperparameters, InputError, ModelProject, Split
from jukebox_orch.contract.memmap import array_digest, release_pages, take_rows
from jukebox_orch.ml import project_calls
from jukebox_orch.ml.artifacts import StoredFeatures, TrainedModel, TrainingReport
from jukebox_orch.ml.keras_runtime import model_input, predict, project_keras, scoring_batch
from jukebox_orch.ml.network import serving_model
from jukebox_orch.ml.onnx_export import try_export

if TYPE_CHECKING:
    import keras

_TRIED_ENTRIES = 8
_SCORED_ENTRIES, _SCORED_BYTES = 20_000, 256 << 20
# TensorFlow holds splits up to this size in memory; larger ones are read from their file batch by batch.
_IN_MEMORY_BYTES = 32 << 20


def train(
    project: ModelProject,
    stored: StoredFeatures,
    hyperparameters: Hyperparameters,
    seed: int,
    log: Callable[[str], None],
) -> TrainedModel:
    """Build, fit and score the project's model.

    With `hyperparameters.refit` the model is trained again on the training and validation splits. The scores are
    those of the first training, which does not train on the validation split.

    Args:
        log: receives a progress message at most once a second.

    Raises:
        InputError: the features or the network break the contract, or the outputs are not what the task needs.
    """
    features = stored.features
    started = time.perf_counter()
    with project_keras(project, seed):
        model, history = _fit(project, features, hyperparameters, seed, log)
        seconds = time.perf_counter() - started
        train_scores = _score(project, model, features, _sample(features, features.train))
        validation_scores = _score(project, model, features, features.validation)
    if hyperparameters.refit and all(map(math.isfinite, history["val_loss"])):
        started = time.perf_counter()
        with project_keras(project, seed):
            model, refit = _fit(
                project, features, hyperparameters, seed, log, refit=_best_epoch(hyperparameters, history)
            )
        seconds += time.perf_counter() - started
        history |= {f"refit_{metric}": values for metric, values in refit.items()}
    import keras

    # The same layers, not compiled: a compiled model is stored with its loss, which is code and not needed again.
    model = keras.Model(model.input, model.output, name=model.name)
    name, baseline = project.task.baseline(features.train, features.validation)
    training = TrainingReport(
        features_digest=stored.digest,
        dataset_digest=stored.dataset_digest,
        seed=seed,
        hyperparameters=hyperparameters.model_dump(),
        history=history,
        train=train_scores,
        validation=validation_scores,
        baseline=project.task.score(features.validation, baseline),
        baseline_name=name,
        model_digest=hashlib.sha256(
            f"{model.to_json()}{array_digest(*model.get_weights())}".encode()
        ).hexdigest(),
        seconds=seconds,
    )
    return TrainedModel(training, model)


def _fit(
    project: ModelProject,
    features: Features,
    hyperparameters: Hyperparameters,
    seed: int,
    log: Callable[[str], None],
    *,
    refit: int = 0,
) -> tuple[keras.Model, dict[str, list[float]]]:
    """Fit a new model to the training split; return it with its metrics per epoch.

    Args:
        refit: if not 0, train on the validation split too, for this many epochs, without early stopping.
    """
    import keras

    model = serving_model(project, features, hyperparameters)
    if not refit:
        try_export(project, model, features)
    first = {name: array[:_TRIED_ENTRIES] for name, array in features.arrays(features.train).items()}
    loss = project_calls.loss(project, features, hyperparameters, predict(model, first))
    splits = [features.train, features.validation] if refit else [features.train]
    batches, rest = divmod(sum(map(len, splits)), hyperparameters.batch_size)
    model.compile(
        # A refit has the schedule of all epochs too, so its learning rates repeat those of the first training.
        optimizer=project_calls.optimizer(
            project, hyperparameters, hyperparameters.epochs * (batches + bool(rest))
        ),
        loss=loss,
        weighted_metrics=list(project.task.keras_metrics),
        steps_per_execution=max(1, min(16, batches)),
        jit_compile=False,  # pyright: ignore[reportArgumentType] # Keras annotates its own default only
    )
    epochs = refit or hyperparameters.epochs
    callbacks: list[keras.callbacks.Callback] = [
        _progress(keras, epochs, "refit epoch" if refit else "epoch", log),
        keras.callbacks.TerminateOnNaN(),
        *project_calls.callbacks(project, hyperparameters),
    ]
    if hyperparameters.early_stopping_patience and not refit:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                monitor="val_loss",
                patience=hyperparameters.early_stopping_patience,
                restore_best_weights=True,
            )
        )
    validation = _batches(
        features, [features.validation], scoring_batch(features.arrays(features.validation))
    )
    batched = _training_batches(project, features, splits, hyperparameters, seed)
    with project_calls.project_code(project, "the fit, with the project's loss, augmentation and callbacks,"):
        history = model.fit(
            batched,
            epochs=epochs,
            validation_data=None if refit else validation,
            shuffle=False,  # the pipeline shuffles with the seed
            verbose=0,  # pyright: ignore[reportArgumentType]
            callbacks=callbacks,
        ).history
    return model, {metric: [float(v) for v in values] for metric, values in history.items()}


def _best_epoch(hyperparameters: Hyperparameters, history: Mapping[str, Sequence[float]]) -> int:
    """Return the number of epochs after which the first training had its final weights."""
    losses = history["val_loss"]
    return int(np.argmin(losses)) + 1 if hyperparameters.early_stopping_patience else len(losses)


def _training_batches(
    project: ModelProject,
    features: Features,
    splits: Sequence[Split],
    hyperparameters: Hyperparameters,
    seed: int,
) -> Any:
    """Return the splits as a `tf.data` pipeline of (x, y, weight) batches, shuffled in every epoch."""
    import tensorflow as tf

    batches = _batches(features, splits, hyperparameters.batch_size, seed)
    if type(project).augment is not ModelProject.augment:
        first = {name: tf.constant(x[:_TRIED_ENTRIES]) for name, x in features.arrays(features.train).items()}
        project_calls.try_augment(project, model_input(first), hyperparameters)
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
        with project_calls.project_code(project, "augment()"):
            batches = tf.data.Dataset.zip(batches, seeds).map(
                lambda row, pair: (
                    project.augment(row[0], hyperparameters, tf.cast(pair, tf.int32)),
                    *row[1:],
                )
            )
    return batches.prefetch(tf.data.AUTOTUNE)


def _batches(features: Features, splits: Sequence[Split], batch_size: int, seed: int | None = None) -> Any:
    """Return batches of (x, y, weight); with a seed those of a fit: shuffled, and with the weights of the loss.

    Weights are scaled to mean 1, so that the learning rate does not depend on them. The order is the same whether
    the splits are in memory or read from their files.
    """
    import tensorflow as tf

    parts = [features.arrays(split) for split in splits]
    names = list(parts[0])
    y = np.concatenate([split.y for split in splits])
    weight = np.concatenate([split.weight for split in splits])
    weight = (weight / weight.mean()).astype(np.float32)
    if seed is not None and any(split.loss_weight is not None for split in splits):
        weight = weight * np.concatenate(
            [np.ones(len(s), np.float32) if s.loss_weight is None else s.loss_weight for s in splits]
        )
        weight = (weight / weight.mean()).astype(np.float32)
    in_memory = sum(array.nbytes for part in parts for array in part.values()) <= _IN_MEMORY_BYTES
    if in_memory:
        x = {name: np.concatenate([part[name] for part in parts]) for name in names}
        entries = tf.data.Dataset.from_tensor_slices((model_input(x), y, weight))
    else:
        entries = tf.data.Dataset.range(len(y))
    if seed is not None:
        entries = entries.shuffle(len(y), seed=seed, reshuffle_each_iteration=True)
    batches = entries.batch(batch_size)
    starts = np.cumsum([0, *map(len, splits)])
    kinds = [(parts[0][name].shape[1:], parts[0][name].dtype) for name in names]

    def read_rows(index: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = [np.empty((len(index), *shape), dtype) for shape, dtype in kinds]
        for part, start, end in zip(parts, starts[:-1], starts[1:], strict=True):
            inside = (index >= start) & (index < end)
            for target, array in zip(rows, part.values(), strict=True):
                target[inside] = array[index[inside] - start]
                release_pages(array)
        return *rows, y[index], weight[index]

    def read(index: Any) -> tuple[Any, ...]:
        types = [dtype for _, dtype in kinds]
        found = tf.numpy_function(read_rows, [index], [*types, y.dtype, weight.dtype], stateful=False)
        shapes = [*(shape for shape, _ in kinds), y.shape[1:], ()]
        *x, target, weights = (
            tf.ensure_shape(rows, (None, *shape)) for rows, shape in zip(found, shapes, strict=True)
        )
        return model_input(dict(zip(names, x, strict=True))), target, weights

    return batches if in_memory else batches.map(read)


def _progress(keras: Any, epochs: int, label: str, log: Callable[[str], None]) -> keras.callbacks.Callback:
    """Return a callback that reports at most one epoch a second, and always the last."""
    state = {"reported": 0.0}

    def report(epoch: int, logs: dict[str, float] | None) -> None:
        now = time.monotonic()
        if now - state["reported"] >= 1 or epoch + 1 == epochs:
            state["reported"] = now
            log(
                f"{label} {epoch + 1}/{epochs}: "
                + ", ".join(f"{k} {v:.4f}" for k, v in sorted((logs or {}).items()))
            )

    return keras.callbacks.LambdaCallback(on_epoch_end=report)


def _sample(features: Features, split: Split) -> Split:
    """Return evenly spaced entries, at most 20,000 and 256 MiB: enough to detect over-fitting, cheap on large data."""
    entry = sum(array[:1].nbytes for array in features.arrays(split).values())
    size = min(_SCORED_ENTRIES, max(1, _SCORED_BYTES // max(1, entry)))
    if len(split) <= size:
        return split
    index = np.linspace(0, len(split) - 1, size).astype(int)
    x = (
        {name: take_rows(array, index) for name, array in split.x.items()}
        if isinstance(split.x, Mapping)
        else take_rows(split.x, index)
    )
    return Split(x, split.y[index], split.weight[index], split.keys)


def _score(project: ModelProject, model: keras.Model, features: Features, split: Split) -> dict[str, float]:
    """Return the metrics on the split; NaN if the training diverged, which the checks refuse."""
    prediction = predict(model, features.arrays(split))
    if not np.isfinite(prediction).all():
        return dict.fromkeys(project.task.metrics, float("nan"))
    if problem := project.task.prediction_problem(prediction):
        raise InputError(f"{project.name}: {problem}")
    return project.task.score(split, prediction)
