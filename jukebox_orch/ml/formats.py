"""How every kind of value becomes files and back. Nothing here can run code that a file brings along.

| value | files |
|---|---|
| dataset | `<table>.parquet`, `<array>.npy` |
| features | one `.npy` per array, `features.json` |
| Keras model | `model.keras`, `training.json` |
| ONNX model | `model.onnx`, `report.json` |
| report | `report.json` |

`.npy` files are read with `allow_pickle=False` and memory-mapped, so splits larger than memory stay on disk.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jukebox_orch.contract.memmap import release
from jukebox_orch.contract.project import Features, Normalization, Part
from jukebox_orch.ml.artifacts import (
    EvaluationReport,
    FeatureSet,
    OnnxModel,
    OnnxReport,
    RegisteredModel,
    Report,
    TrainedModel,
    Training,
    ValidationReport,
    array_digest,
)
from jukebox_orch.ml.onnx_export import UnsafeFileError
from jukebox_orch.ml.training import import_keras

if TYPE_CHECKING:
    import keras

_REPORTS = {r.__name__: r for r in (ValidationReport, EvaluationReport, RegisteredModel)}


@dataclass(frozen=True)
class Format:
    """One kind of value: how to write it into an empty folder, read it back, digest and count it."""

    name: str
    write: Callable[[Any, Path], None]
    read: Callable[[Path], Any]
    digest: Callable[[Any], str]
    rows: Callable[[Any], int | None]


def format_of(value: object) -> Format:
    """The format for a value, by its type.

    Raises:
        TypeError: no format holds values of this type.
    """
    if (
        isinstance(value, dict)
        and value
        and all(isinstance(v, pd.DataFrame | np.ndarray) for v in value.values())
    ):
        return FORMATS["dataset"]
    for kind, name in ((FeatureSet, "features"), (TrainedModel, "keras"), (OnnxModel, "onnx")):
        if isinstance(value, kind):
            return FORMATS[name]
    if type(value).__name__ in _REPORTS:
        return FORMATS[type(value).__name__]
    raise TypeError(
        f"no artifact format for {type(value).__name__}: return a dict of DataFrames and arrays, "
        "or one of the values of jukebox_orch.ml.artifacts"
    )


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


def _write_dataset(value: dict[str, pd.DataFrame | np.ndarray], folder: Path) -> None:
    for name, part in value.items():
        if isinstance(part, pd.DataFrame):
            part.to_parquet(folder / f"{name}.parquet", compression="zstd", index=False)
        else:
            np.save(folder / f"{name}.npy", part, allow_pickle=False)
            release(part)


def _read_dataset(folder: Path) -> dict[str, pd.DataFrame | np.ndarray]:
    tables: dict[str, pd.DataFrame | np.ndarray] = {
        path.stem: pd.read_parquet(path) for path in folder.glob("*.parquet")
    }
    return tables | {path.stem: _load_array(path) for path in folder.glob("*.npy")}


def _digest_dataset(value: dict[str, pd.DataFrame | np.ndarray]) -> str:
    state = hashlib.sha256()
    for name, part in sorted(value.items()):
        if isinstance(part, pd.DataFrame):
            # Row hashes of the values: independent of how the columns are held in memory.
            hashes = pd.util.hash_pandas_object(part, index=False).to_numpy()
            state.update(f"{name}{list(part.columns)}{array_digest(hashes)}".encode())
        else:
            state.update(f"{name}{array_digest(part)}".encode())
    return state.hexdigest()


def _write_features(value: FeatureSet, folder: Path) -> None:
    features, slices = value.features, {}
    for name, part in features.parts.items():
        arrays = {"x": part.x, "y": part.y, "weight": part.weight, "keys": part.keys.astype("U")}
        slices[name] = list(part.slices)
        arrays |= {f"slice{i}": mask for i, mask in enumerate(part.slices.values())}
        for field, array in arrays.items():
            np.save(folder / f"{name}-{field}.npy", array, allow_pickle=False)
            release(array)
    np.save(folder / "offset.npy", np.asarray(features.normalization.offset), allow_pickle=False)
    np.save(folder / "scale.npy", np.asarray(features.normalization.scale), allow_pickle=False)
    described = {
        "dataset_digest": value.dataset_digest,
        "profile": value.profile,
        "inputs": features.inputs,
        "labels": features.labels,
        "normalization": features.normalization.kind,
        "slices": slices,
    }
    (folder / "features.json").write_text(json.dumps(described, indent=1))


def _read_features(folder: Path) -> FeatureSet:
    described = json.loads((folder / "features.json").read_text())

    def part(name: str) -> Part:
        slices = {
            label: _load_array(folder / f"{name}-slice{i}.npy")
            for i, label in enumerate(described["slices"][name])
        }
        x, y, weight, keys = (
            _load_array(folder / f"{name}-{field}.npy") for field in ("x", "y", "weight", "keys")
        )
        return Part(x, y, weight, keys, slices)

    normalization = Normalization(
        described["normalization"], np.load(folder / "offset.npy"), np.load(folder / "scale.npy")
    )
    features = Features(
        part("train"),
        part("validation"),
        part("test"),
        tuple(described["inputs"]),
        tuple(described["labels"]),
        normalization,
    )
    return FeatureSet(features, described["dataset_digest"], described["profile"])


def _write_keras(value: TrainedModel, folder: Path) -> None:
    (folder / "training.json").write_text(value.training.to_json())
    value.keras_model.save(folder / "model.keras")


def _read_keras(folder: Path) -> TrainedModel:
    return TrainedModel(Training.from_json((folder / "training.json").read_text()), folder / "model.keras")


def _write_onnx(value: OnnxModel, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(value.content)
    (folder / "report.json").write_text(value.report.model_dump_json(indent=1))


def _read_onnx(folder: Path) -> OnnxModel:
    report = OnnxReport.model_validate_json((folder / "report.json").read_text())
    return OnnxModel((folder / "model.onnx").read_bytes(), report)


def _write_report(value: Report, folder: Path) -> None:
    (folder / "report.json").write_text(value.model_dump_json(indent=1))


def _report_format(report: type[Report]) -> Format:
    return Format(
        report.__name__,
        _write_report,
        lambda folder: report.model_validate_json((folder / "report.json").read_text()),
        lambda value: hashlib.sha256(value.model_dump_json().encode()).hexdigest(),
        lambda value: None,
    )


def _load_array(path: Path) -> np.ndarray:
    """Memory-mapped where that saves memory; an empty array cannot be mapped."""
    return np.load(path, mmap_mode="r" if path.stat().st_size > 2**20 else None, allow_pickle=False)


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


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(
            "dataset",
            _write_dataset,
            _read_dataset,
            _digest_dataset,
            lambda value: max(len(part) for part in value.values()),
        ),
        Format(
            "features",
            _write_features,
            _read_features,
            lambda value: value.digest,
            lambda value: sum(len(part) for part in value.features.parts.values()),
        ),
        Format("keras", _write_keras, _read_keras, lambda value: value.training.model_digest, lambda _: None),
        Format("onnx", _write_onnx, _read_onnx, lambda value: value.report.sha256, lambda _: None),
        *(_report_format(report) for report in _REPORTS.values()),
    )
}
