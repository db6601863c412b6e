"""Keras with TensorFlow set up so that every machine computes the same, and models loaded without running code."""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jukebox_orch.contract.memmap import iter_chunks

if TYPE_CHECKING:
    import keras

# Eigen splits its sums by thread: with a fixed number a laptop and a pod add in the same order.
_THREADS = "2"


class UnsafeFileError(ValueError):
    """A model file of a kind that can run code or point outside itself."""


def import_keras() -> Any:
    """Import Keras with TensorFlow set so that every machine computes the same.

    TensorFlow reads its settings when it starts; where something else in the process has started it before, its
    own stay.
    """
    set_tensorflow()
    _load_tensorflow()
    import keras
    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)
    tf.config.experimental.enable_op_determinism()
    return keras


@functools.cache
def _load_tensorflow() -> None:
    """Import it with the garbage collector off, which else walks its half a million lasting objects a dozen times."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        import tensorflow  # noqa: F401
    finally:
        if collecting:
            gc.enable()
    gc.freeze()


def set_tensorflow() -> None:
    """Settings that TensorFlow reads when it starts; what the user has set stays."""
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", _THREADS)
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", _THREADS)
    # oneDNN picks its kernels, and so the order of its sums, by the processor.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Errors of TensorFlow reach Python as exceptions; what it logs itself is about GPUs that are not there.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def seeded_keras(seed: int) -> Any:
    """Keras with every source of randomness fixed, counting layers from the start."""
    keras = import_keras()
    # Layer names are counted per process and end up in the ONNX file.
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    return keras


def load_keras(path: Path) -> keras.Model:
    """Load a `.keras` archive without its optimizer, in safe mode.

    Raises:
        UnsafeFileError: another kind of file, or an archive that brings code along (Lambda layers).
    """
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise UnsafeFileError(
            f"{path.name}: only .keras archives are loaded, never .h5, .pkl or a SavedModel"
        )
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            raise UnsafeFileError(f"{path.name}: a .keras archive has a config.json, this one has none")
        config = json.loads(archive.read("config.json"))
    if layer := _lambda_layer(config):
        raise UnsafeFileError(
            f"{path.name}: layer {layer!r} is a Lambda layer, which is Python code: refused"
        )
    keras = import_keras()
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    assert isinstance(model, keras.Model)  # noqa: S101
    return model


def predict(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Outputs (n, outputs) float32 of the network for raw inputs (n, …)."""
    # Called, not predict(): that compiles a graph for every model and copies what it is given.
    splits = [
        np.asarray(model(np.asarray(piece), training=False)) for _, piece in iter_chunks(x, scoring_batch(x))
    ]
    return np.concatenate(splits)


def scoring_batch(x: np.ndarray) -> int:
    """Entries predicted at a time: a convolution holds a hundred times the size of its image."""
    return 1024 if x.ndim == 2 else 128


def _lambda_layer(config: object) -> str | None:
    """Name of the first Lambda layer anywhere in a Keras configuration."""
    if isinstance(config, dict):
        if config.get("class_name") in ("Lambda", "__lambda__"):
            inner = config.get("config")
            return str(inner.get("name", "?")) if isinstance(inner, dict) else "?"
        config = list(config.values())
    if isinstance(config, list):
        return next((name for item in config if (name := _lambda_layer(item)) is not None), None)
    return None
