"""Sets up Keras and TensorFlow for reproducible results, and loads models without running code."""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import logging
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jukebox_orch.contract import ModelProject
from jukebox_orch.contract.memmap import iter_entries

if TYPE_CHECKING:
    import keras

# Eigen splits sums by thread. With a fixed number of threads, every machine adds in the same order.
_THREADS = "2"
_BLOCK = 1 << 20
# At most 128 images of 32 x 32 RGB.
_BATCH_ENTRIES, _BATCH_VALUES = 1024, 128 * 32 * 32 * 3


class UnsafeFileError(ValueError):
    """A model file that can run code or that refers to other files."""


class UnfinishedImportError(RuntimeError):
    """TensorFlow's import began in this process and did not finish."""


def import_keras() -> Any:
    """Import Keras with TensorFlow set up so that every machine gives the same results.

    TensorFlow reads its settings when it is imported: they have no effect if it was imported before.

    Raises:
        UnfinishedImportError: an earlier import in this process was interrupted, for example by Ctrl-C, or failed.
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
    """Import TensorFlow without garbage collection, which would scan its 500,000 permanent objects many times."""
    # Python forgets the modules whose import was interrupted and keeps the finished ones. A second import mixes both:
    # it fails somewhere inside TensorFlow, or works with what it registered twice.
    if "tensorflow" not in sys.modules and any(name.startswith("tensorflow.") for name in sys.modules):
        raise UnfinishedImportError(
            "TensorFlow was imported before in this process, and its import was interrupted or failed. It cannot be "
            "repeated in the same process: start a new process, for example by running the job again."
        )
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import tensorflow  # noqa: F401
    finally:
        if was_enabled:
            gc.enable()
    gc.freeze()


def set_tensorflow() -> None:
    """Set the environment variables that TensorFlow reads on import; keep those that the user has set."""
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", _THREADS)
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", _THREADS)
    # oneDNN chooses its kernels, and with them the order of sums, by the processor.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # TensorFlow raises its errors as Python exceptions; its own log is about missing GPUs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def seeded_keras(seed: int) -> Any:
    """Return Keras with all random seeds set and the layer counters reset."""
    keras = import_keras()
    # Keras numbers layers per process, and their names are written to the ONNX file. No full garbage
    # collection (0.24 s with the libraries loaded): a step builds one or two models.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    return keras


def load_keras(path: Path) -> keras.Model:
    """Load a `.keras` archive without its optimizer, in safe mode.

    Raises:
        UnsafeFileError: another kind of file, or an archive that contains code (Lambda layers).
    """
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise UnsafeFileError(
            f"{path.name}: only .keras archives are loaded, never .h5, .pkl or a SavedModel"
        )
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            raise UnsafeFileError(f"{path.name}: config.json is missing: not a .keras archive")
        config = json.loads(archive.read("config.json"))
    if layer := _lambda_layer(config):
        raise UnsafeFileError(
            f"{path.name}: layer {layer!r} is a Lambda layer, which is Python code; use a layer class instead"
        )
    keras = import_keras()
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    assert isinstance(model, keras.Model)  # noqa: S101
    return model


def load_verified_keras(path: Path, sha256: str) -> keras.Model:
    """Load a `.keras` archive as `load_keras` does, if it has this sha256.

    Keras opens a file by its path, several times. So a private copy is verified and loaded, which nobody replaces
    in between; it is deleted when the model is in memory.

    Raises:
        UnsafeFileError: as `load_keras`, or the file has another sha256.
    """
    with tempfile.TemporaryDirectory(prefix="keras-") as folder:
        copy = Path(folder) / path.name
        state = hashlib.sha256()
        with path.open("rb") as source, copy.open("wb") as target:
            while block := source.read(_BLOCK):
                state.update(block)
                target.write(block)
        if state.hexdigest() != sha256:
            raise UnsafeFileError(
                f"{path} has sha256 {state.hexdigest()}, it was verified with {sha256}: the file was changed after "
                "that; refused. Materialize the asset again."
            )
        return load_keras(copy)


@contextmanager
def project_keras(project: ModelProject, seed: int) -> Iterator[Any]:
    """Yield a seeded Keras that knows the project's own classes; undo the global settings that the project changes."""
    from jukebox_orch.ml.project_calls import custom_objects

    keras = seeded_keras(seed)
    config = keras.config
    before = config.floatx(), config.epsilon(), config.image_data_format()
    try:
        with keras.saving.custom_object_scope(custom_objects(project)):
            yield keras
    finally:
        config.set_dtype_policy("float32")
        config.set_floatx(before[0])
        config.set_epsilon(before[1])
        config.set_image_data_format(before[2])


def predict(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the model's outputs (n, outputs) float32 for the arrays of `Features.arrays`."""
    # Not model.predict(): that compiles a graph for every model and copies its input.
    outputs = [
        np.asarray(model(model_input(chunk), training=False))
        for chunk in iter_entries(arrays, scoring_batch(arrays))
    ]
    return np.concatenate(outputs)


def model_input(arrays: Mapping[str, Any]) -> Any:
    """Return what a model takes: the arrays by block, or the only one."""
    return dict(arrays) if len(arrays) > 1 else next(iter(arrays.values()))


def scoring_batch(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the number of entries per prediction batch: a convolution needs about 100 times the image's memory."""
    values = sum(array[:1].size for array in arrays.values())
    return max(1, min(_BATCH_ENTRIES, _BATCH_VALUES // max(1, values)))


def _lambda_layer(config: object) -> str | None:
    """Return the name of the first Lambda layer anywhere in a Keras configuration, or None."""
    if isinstance(config, dict):
        if config.get("class_name") in ("Lambda", "__lambda__"):
            inner = config.get("config")
            return str(inner.get("name", "?")) if isinstance(inner, dict) else "?"
        config = list(config.values())
    if isinstance(config, list):
        return next((name for item in config if (name := _lambda_layer(item)) is not None), None)
    return None
