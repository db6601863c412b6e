"""Writes values to files and reads them back. Reading never runs code from a file.

| format | value | files |
|---|---|---|
| `dataset` | `SourcedDataset` | `<table>.parquet`, `<array>.npy`, `origin.json` |
| `features` | `StoredFeatures` | one `.npy` per array, `features.json` |
| `keras` | `TrainedModel` | `model.keras`, `training.json` |
| `onnx` | `OnnxModel` | `model.onnx`, `report.json` |
| `ValidationReport`, `EvaluationReport`, `RegisteredModel` | the report | `report.json` |

Format names are recorded in the event logs of deployments, so they must not change when a class is renamed. Every
JSON file holds `"schema": N`, the version of its fields. `.npy` files are read with `allow_pickle=False` and
memory-mapped, so splits larger than memory stay on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from jukebox_orch.contract import (
    Block,
    Categories,
    Columns,
    Dataset,
    Features,
    Normalization,
    Split,
    Tensor,
)
from jukebox_orch.contract.memmap import array_digest, release_pages
from jukebox_orch.ml.artifacts import (
    DataOrigin,
    EvaluationReport,
    KerasFile,
    OnnxModel,
    OnnxReport,
    RegisteredModel,
    Report,
    SourcedDataset,
    StoredFeatures,
    TrainedModel,
    TrainingReport,
    ValidationReport,
    describe_block,
)

T = TypeVar("T")
_BLOCKS: dict[str, type[Any]] = {block.__name__: block for block in (Columns, Tensor, Categories)}
_OPTIONAL = ("loss_weight", "times")
_SCHEMA = 1
"""Version of the fields in the JSON files. Files without a number are version 1."""


class FormatError(ValueError):
    """A stored file does not have the fields that this version of the product reads."""


@dataclass(frozen=True)
class Format:
    """File format of one type of value.

    Attributes:
        name: name recorded in the materialization.
        kind: type of the values.
        write: writes a value to an empty folder.
        read: reads it back from a folder, with the verified sha256 of each file for those that are opened only
            when they are used; raises FormatError if another version wrote different fields.
        digest: digest of a value's content, used as data version.
        rows: number of rows, or None.
    """

    name: str
    kind: type
    write: Callable[[Any, Path], None]
    read: Callable[[Path, Mapping[str, str]], Any]
    digest: Callable[[Any], str]
    rows: Callable[[Any], int | None]


def format_of(value: object) -> Format:
    """Return the format for a value, by its type.

    Raises:
        TypeError: no format stores values of this type.
    """
    found = next((f for f in FORMATS.values() if isinstance(value, f.kind)), None)
    if found is None or (isinstance(value, SourcedDataset) and not _is_dataset(value.tables)):
        raise TypeError(
            f"no artifact format for {type(value).__name__}: return one of the values of jukebox_orch.ml.artifacts; "
            "a dataset is a dict of DataFrames and arrays"
        )
    return found


def _is_dataset(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(isinstance(data, pd.DataFrame | np.ndarray) for data in value.values())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({"schema": _SCHEMA, **content}, indent=1))


def _read_json(path: Path, build: Callable[[dict[str, Any]], T]) -> T:
    """Return `build` applied to the stored fields.

    Raises:
        FormatError: the file has another schema, or fields that `build` does not accept.
    """
    content = json.loads(path.read_text())
    schema = content.pop("schema", 1)
    if schema != _SCHEMA:
        raise FormatError(f"{path.name} has schema {schema}, this version reads schema {_SCHEMA}")
    try:
        return build(content)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{path.name} has different fields: {' '.join(str(error).split())[:300]}"
        ) from error


def _write_dataset(value: SourcedDataset, folder: Path) -> None:
    if value.origin:
        _write_json(folder / "origin.json", value.origin.model_dump())
    for name, data in value.tables.items():
        if isinstance(data, pd.DataFrame):
            data.to_parquet(folder / f"{name}.parquet", compression="zstd", index=False)
        else:
            np.save(folder / f"{name}.npy", data, allow_pickle=False)
            release_pages(data)


def _read_dataset(folder: Path, _digests: Mapping[str, str]) -> SourcedDataset:
    tables: Dataset = {path.stem: pd.read_parquet(path) for path in folder.glob("*.parquet")}
    tables |= {path.stem: _load_array(path) for path in folder.glob("*.npy")}
    origin = folder / "origin.json"
    return SourcedDataset(tables, _read_json(origin, DataOrigin.model_validate) if origin.exists() else None)


def _digest_dataset(value: SourcedDataset) -> str:
    state = hashlib.sha256()
    for name, data in sorted(value.tables.items()):
        if isinstance(data, pd.DataFrame):
            # Row hashes depend on the values only, not on the memory layout of the columns.
            hashes = pd.util.hash_pandas_object(data, index=False).to_numpy()
            state.update(f"{name}{list(data.columns)}{array_digest(hashes)}".encode())
        else:
            state.update(f"{name}{array_digest(data)}".encode())
    return state.hexdigest()


def _write_features(value: StoredFeatures, folder: Path) -> None:
    features, slices = value.features, {}
    for name, split in features.splits.items():
        arrays = {"y": split.y, "weight": split.weight, "keys": split.keys.astype("U")}
        # By number: the name of a block may have characters that a file name must not have.
        x = [split.x[b.name] for b in features.blocks] if isinstance(split.x, Mapping) else [split.x]
        arrays |= {_numbered("x", i): array for i, array in enumerate(x)}
        arrays |= {field: array for field in _OPTIONAL if (array := getattr(split, field)) is not None}
        slices[name] = list(split.slices)
        arrays |= {f"slice{i}": mask for i, mask in enumerate(split.slices.values())}
        for field, array in arrays.items():
            np.save(folder / f"{name}-{field}.npy", array, allow_pickle=False)
            release_pages(array)
    for i, block in enumerate(features.blocks):
        if constants := getattr(block, "normalization", None):
            np.save(
                folder / f"{_numbered('offset', i)}.npy", np.asarray(constants.offset), allow_pickle=False
            )
            np.save(folder / f"{_numbered('scale', i)}.npy", np.asarray(constants.scale), allow_pickle=False)
    constants = features.normalization
    named = bool(features.inputs) and isinstance(features.inputs[0], str)
    described = {
        "dataset_digest": value.dataset_digest,
        "profile": value.profile,
        "inputs": features.inputs if named else [describe_block(block) for block in features.blocks],
        "labels": features.labels,
        "normalization": constants.kind if constants else None,
        "axis": constants.axis if constants else None,
        "by_block": isinstance(features.train.x, Mapping),
        "slices": slices,
        "split_kind": value.split_kind,
        "origin": value.origin.model_dump() if value.origin else None,
    }
    _write_json(folder / "features.json", described)


def _read_features(folder: Path, _digests: Mapping[str, str]) -> StoredFeatures:
    def build(content: dict[str, Any]) -> StoredFeatures:
        # Older versions of the product stored neither of the fields that `get` reads.
        described, slices = content["inputs"], content["slices"]
        inputs: tuple[Any, ...] = tuple(
            i if isinstance(i, str) else _read_block(folder, number, i) for number, i in enumerate(described)
        )
        normalization = (
            _read_normalization(folder, 0, content["normalization"], content.get("axis"))
            if content["normalization"]
            else None
        )

        def split(name: str) -> Split:
            def load(field: str) -> np.ndarray:
                return _load_array(folder / f"{name}-{field}.npy")

            masks = {label: load(f"slice{i}") for i, label in enumerate(slices[name])}
            x: Any = load("x")
            if content.get("by_block"):
                x = {block.name: load(_numbered("x", i)) for i, block in enumerate(inputs)}
            more = {field: load(field) for field in _OPTIONAL if (folder / f"{name}-{field}.npy").exists()}
            return Split(x, load("y"), load("weight"), load("keys"), masks, **more)

        features = Features(
            train=split("train"),
            validation=split("validation"),
            test=split("test"),
            inputs=inputs,
            labels=tuple(content["labels"]),
            normalization=normalization,
        )
        origin = content.get("origin")
        return StoredFeatures(
            features,
            content["dataset_digest"],
            content["profile"],
            content.get("split_kind", ""),
            DataOrigin.model_validate(origin) if origin else None,
        )

    return _read_json(folder / "features.json", build)


def _read_block(folder: Path, number: int, described: dict[str, Any]) -> Block:
    kind = described.pop("block")
    normalization, axis = described.pop("normalization", None), described.pop("axis", None)
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in described.items()}
    if normalization:
        fields["normalization"] = _read_normalization(folder, number, normalization, axis)
    return _BLOCKS[kind](**fields)


def _read_normalization(folder: Path, number: int, kind: Any, axis: int | None) -> Normalization:
    offset, scale = (_load_array(folder / f"{_numbered(f, number)}.npy") for f in ("offset", "scale"))
    return Normalization(kind, offset, scale, axis)


def _numbered(field: str, number: int) -> str:
    """Return the name of a block's file; that of the first has no number, as files of older versions."""
    return f"{field}{number}" if number else field


def _write_keras(value: TrainedModel, folder: Path) -> None:
    _write_json(folder / "training.json", asdict(value.report))
    value.keras_model.save(folder / "model.keras")


def _read_keras(folder: Path, digests: Mapping[str, str]) -> TrainedModel:
    report = _read_json(folder / "training.json", lambda content: TrainingReport(**content))
    return TrainedModel(report, KerasFile(folder / "model.keras", digests["model.keras"]))


def _write_onnx(value: OnnxModel, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(value.content)
    _write_report(value.report, folder)


def _read_onnx(folder: Path, _digests: Mapping[str, str]) -> OnnxModel:
    return OnnxModel((folder / "model.onnx").read_bytes(), _read_report(OnnxReport, folder))


def _write_report(value: Report, folder: Path) -> None:
    _write_json(folder / "report.json", value.model_dump())


def _read_report(kind: type[Report], folder: Path) -> Any:
    return _read_json(folder / "report.json", kind.model_validate)


def _report_format(name: str, kind: type[Report]) -> Format:
    return Format(
        name=name,
        kind=kind,
        write=_write_report,
        read=lambda folder, _digests: _read_report(kind, folder),
        # Without the fields that an older version of the product did not store, so that its data version is the same.
        digest=lambda value: hashlib.sha256(value.model_dump_json(exclude_unset=True).encode()).hexdigest(),
        rows=lambda _: None,
    )


def _load_array(path: Path) -> np.ndarray:
    """Load an array, memory-mapped if it is larger than 1 MiB; an empty array cannot be mapped."""
    return np.load(path, mmap_mode="r" if path.stat().st_size > 2**20 else None, allow_pickle=False)


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(
            name="dataset",
            kind=SourcedDataset,
            write=_write_dataset,
            read=_read_dataset,
            digest=_digest_dataset,
            rows=lambda value: max(len(data) for data in value.tables.values()),
        ),
        Format(
            name="features",
            kind=StoredFeatures,
            write=_write_features,
            read=_read_features,
            digest=lambda value: value.digest,
            rows=lambda value: sum(len(split) for split in value.features.splits.values()),
        ),
        Format(
            name="keras",
            kind=TrainedModel,
            write=_write_keras,
            read=_read_keras,
            digest=lambda value: value.report.model_digest,
            rows=lambda _: None,
        ),
        Format(
            name="onnx",
            kind=OnnxModel,
            write=_write_onnx,
            read=_read_onnx,
            digest=lambda value: value.report.sha256,
            rows=lambda _: None,
        ),
        _report_format("ValidationReport", ValidationReport),
        _report_format("EvaluationReport", EvaluationReport),
        _report_format("RegisteredModel", RegisteredModel),
    )
}
