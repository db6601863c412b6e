"""Judges what a project returns, before anything is computed on it; the same rules are the authors' suite.

Every function returns all problems at once, each with the field, the value and what to do. Steps raise them as one
`InputError`, which is not retried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jukebox_orch.contract import (
    Block,
    Categories,
    Columns,
    Features,
    InputError,
    ModelProject,
    Normalization,
    Split,
)

_SHOWN = 5
_MAX_NAME = 200
_MAX_ITEM = 8
"""Bytes of a number that is stored and read back by every library."""
# Names that the product gives to its own tensors.
_RESERVED = frozenset({"raw", "features", "serving", "batch", "probabilities", "prediction", "output"})


def refuse(what: str, project: ModelProject, problems: Sequence[str]) -> None:
    """Raise if there are problems.

    Raises:
        InputError: names the project, `what` was returned and each problem.
    """
    if problems:
        raise InputError(f"{project.name}: {what}: {'; '.join(problems[:_SHOWN])}" + _more(problems))


def dataset_problems(project: ModelProject, dataset: Any) -> list[str]:
    """Return what is wrong with the value of `load`: names, types that can be stored."""
    if not isinstance(dataset, dict):
        return [f"returned {type(dataset).__name__} instead of a dict of tables and arrays"]
    if not dataset:
        return ["returned no table"]
    problems: list[str] = []
    for name, data in dataset.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w-]{0,63}", name):
            problems.append(f"table name {name!r}: use letters, digits, underscores")
        elif isinstance(data, pd.DataFrame):
            problems += [f"table {name!r}: {problem}" for problem in _table_problems(data)]
        elif isinstance(data, np.ndarray):
            problems += [f"array {name!r} {problem}" for problem in _stored_array_problems(data)]
            if project.tables.get(name):
                problems.append(
                    f"{name!r} is an array, but `tables` declares its columns: return a DataFrame"
                )
        else:
            problems.append(f"table {name!r} is {type(data).__name__} instead of a DataFrame or an array")
    return problems


def features_problems(project: ModelProject, features: Any) -> list[str]:
    """Return what is wrong with the value of `build_features`: names, types, shapes, targets, constants."""
    if not isinstance(features, Features):
        return [f"returned {type(features).__name__} instead of Features"]
    problems = list(_split_type_problems(features)) or list(_name_problems(features))
    if problems:
        return problems
    problems += _label_problems(features.labels)
    problems += _time_problems(features)
    for name, split in features.splits.items():
        problems += [f"{name}.{problem}" for problem in _split_problems(split, features)]
    if not problems:
        for name, split in features.splits.items():
            problems += [f"{name}: {p}" for p in project.task.target_problems(split, features.labels)]
    return problems or list(_constant_problems(features))


def _stored_array_problems(array: np.ndarray) -> Iterator[str]:
    if array.dtype.hasobject:
        yield "has Python objects: use a number type or a table"
    elif isinstance(array, np.ma.MaskedArray):
        yield "is masked: fill or drop the missing values"
    elif not array.ndim:
        yield "has no dimension: return an array with one entry per row"
    elif array.dtype.kind not in "biufMmUS" or (
        array.dtype.itemsize > _MAX_ITEM and array.dtype.kind in "iuf"
    ):
        yield f"is {array.dtype}: use numbers of at most 64 bits, dates or texts"


def _table_problems(table: pd.DataFrame) -> Iterator[str]:
    columns = list(table.columns)
    if not isinstance(table.index, pd.RangeIndex) and (
        table.index.names != [None] or not pd.api.types.is_integer_dtype(table.index.dtype)
    ):
        yield (
            f"has the index {', '.join(map(str, table.index.names))} ({type(table.index).__name__}), which is not "
            "stored: use reset_index()"
        )
    if bad := [column for column in columns if not isinstance(column, str) or not column]:
        yield f"column names {_list(bad)} are not texts"
        return
    if repeated := sorted({column for column in columns if columns.count(column) > 1}):
        yield f"columns {_list(repeated)} occur more than once"
        return
    for column in columns:
        values = table[column]
        if pd.api.types.is_complex_dtype(values.dtype):
            yield f"column {column!r} has complex numbers: store real and imaginary part"
        elif values.dtype == object:
            kinds = sorted({type(value).__name__ for value in values.dropna()})
            if len(kinds) > 1:
                yield f"column {column!r} mixes {', '.join(kinds)}: convert it to one type"
            elif kinds and kinds[0] in ("list", "dict", "set", "tuple", "ndarray"):
                yield f"column {column!r} has values of type {kinds[0]}: use one column or row per value"
            else:
                yield from _storage_problem(column, values)
        elif not isinstance(values.dtype, np.dtype):
            yield from _storage_problem(column, values)


def _storage_problem(column: str, values: pd.Series) -> Iterator[str]:
    """Say why a column of Python objects or of a type of pandas cannot be stored as a plain Parquet column."""
    import pyarrow as pa

    try:
        stored = pa.Array.from_pandas(values)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        yield f"column {column!r} ({values.dtype}) cannot be stored: {' '.join(str(error).split())[:150]}"
        return
    inner = stored.type.value_type if pa.types.is_dictionary(stored.type) else stored.type
    if (
        pa.types.is_nested(inner)
        or isinstance(stored, pa.ExtensionArray)
        or isinstance(values.dtype, pd.SparseDtype)
    ):
        yield f"column {column!r} is {values.dtype}: use numbers, texts or dates"


def _name_problems(features: Features) -> Iterator[str]:
    inputs = features.inputs
    if not isinstance(inputs, tuple) or not inputs:
        yield f"inputs is {inputs!r}: give a tuple of names, or of blocks"
        return
    if len({isinstance(i, Block) for i in inputs}) > 1 or not all(isinstance(i, str | Block) for i in inputs):
        yield f"inputs mixes {', '.join(sorted({type(i).__name__ for i in inputs}))}: give names, or blocks"
        return
    if isinstance(inputs[0], str):
        x = features.train.x
        if isinstance(x, Mapping):
            yield "x is a dict, but inputs are names: give the blocks as inputs"
            return
        if len(inputs) > 1 and (x.ndim != 2 or x.shape[1] != len(inputs)):
            yield f"{len(inputs)} input names for x of shape {x.shape}: name each column, or only the tensor"
            return
    yield from _bad_names("input", features.input_names)
    if len(features.blocks) > 1:
        yield from _bad_names("block", tuple(block.name for block in features.blocks))


def _bad_names(what: str, names: Sequence[Any]) -> Iterator[str]:
    for name in names:
        if not isinstance(name, str) or not name.strip():
            yield f"{what} name {name!r}: use a text that is not empty"
        elif "/" in name or ":" in name or not name.isprintable() or len(name) > _MAX_NAME:
            yield f"{what} name {name!r}: use no `/`, `:` or control characters, and at most {_MAX_NAME} characters"
        elif name in _RESERVED and what == "input" and len(names) > 1:
            yield f"{what} name {name!r} is a name of the product: use another"
    if repeated := sorted({str(name) for name in names if list(names).count(name) > 1}):
        yield f"{what} names {_list(repeated)} occur more than once"


def _label_problems(labels: Any) -> Iterator[str]:
    if not isinstance(labels, tuple):
        yield f"labels is {type(labels).__name__}: give a tuple of texts"
        return
    if bad := [label for label in labels if type(label) is not str or not label.strip()]:
        kinds = ", ".join(sorted({type(label).__name__ for label in bad}))
        yield f"labels {_list(bad)} ({kinds}) are not texts: use tuple(map(str, labels))"
    if repeated := sorted({label for label in labels if isinstance(label, str) and labels.count(label) > 1}):
        yield f"labels {_list(repeated)} occur more than once"


def _split_type_problems(features: Features) -> Iterator[str]:
    """Find what is not even an array, before anything looks at shapes."""
    for name, split in features.splits.items():
        if not isinstance(split, Split):
            yield f"{name} is {_kind(split)} instead of a Split"
            continue
        arrays = split.x if isinstance(split.x, Mapping) else {"": split.x}
        fields = {f"x[{block!r}]" if block else "x": array for block, array in arrays.items()}
        for field, value in {**fields, "y": split.y, "weight": split.weight, "keys": split.keys}.items():
            if not isinstance(value, np.ndarray):
                yield f"{name}.{field} is {_kind(value)} instead of an array"
            elif isinstance(value, np.ma.MaskedArray):
                yield f"{name}.{field} is a masked array: fill or drop the missing values"
            elif not value.ndim:
                yield f"{name}.{field} has no dimension: use one entry per row"
        if not isinstance(split.slices, Mapping) or not all(isinstance(s, str) for s in split.slices):
            keys = list(split.slices) if isinstance(split.slices, Mapping) else split.slices
            yield f"{name}.slices is {_kind(split.slices)} of {keys!r:.60}: use a dict of text -> bool array"
    normalization = features.normalization
    blocks = features.inputs if isinstance(features.inputs, tuple) else ()
    constants = [normalization, *(getattr(block, "normalization", None) for block in blocks)]
    for value in constants:
        if value is not None and not isinstance(value, Normalization):
            yield f"normalization is {_kind(value)}: use Normalization.standard() or unit(), or None"


def _split_problems(split: Split, features: Features) -> Iterator[str]:
    rows = len(split.y)
    if not rows:
        yield "y has no entries: add data, or change the split"
        return
    names = [block.name for block in features.blocks]
    x = split.x if isinstance(split.x, Mapping) else dict(zip(names, [split.x], strict=False))
    if sorted(x) != sorted(names):
        yield f"x has {_list(sorted(x))}, the blocks are {_list(names)}"
        return
    for block in features.blocks:
        field = "x" if len(names) == 1 else f"x[{block.name!r}]"
        yield from (f"{field} {problem}" for problem in _array_problems(block, x[block.name], rows, features))
    yield from _weight_problems(split, rows)
    if not isinstance(split.keys, np.ndarray) or split.keys.dtype.kind != "U":
        yield f"keys is {_kind(split.keys)}: use an array of texts, as Split.of_rows does"
    elif not len(split.keys) or len(np.unique(split.keys)) != len(split.keys):
        yield f"keys has {len(split.keys)} entries, {len(np.unique(split.keys))} different: give each key once"
    if split.times is not None and (
        not isinstance(split.times, np.ndarray)
        or split.times.dtype.kind not in "Miuf"
        or split.times.shape != (rows,)
        or pd.isna(split.times).any()
    ):
        yield f"times is {_kind(split.times)}: use datetime64 or numbers of shape ({rows},), none missing"
    for label, mask in split.slices.items():
        if not isinstance(mask, np.ndarray) or mask.shape != (rows,) or mask.dtype != bool:
            yield f"slices[{label!r}] is {_kind(mask)}: use bool of shape ({rows},)"
    if np.issubdtype(split.y.dtype, np.floating) and not np.isfinite(split.y).all():
        yield f"y has {int((~np.isfinite(split.y)).sum())} missing or infinite values: drop such rows"


def _time_problems(features: Features) -> Iterator[str]:
    kinds = {
        name: "no times" if split.times is None else getattr(split.times, "dtype", type(split.times).__name__)
        for name, split in features.splits.items()
    }
    if len({str(kind) for kind in kinds.values()}) > 1:
        found = ", ".join(f"{name} has {kind}" for name, kind in kinds.items())
        yield f"{found}: give all splits times of one type, or none"


def _weight_problems(split: Split, rows: int) -> Iterator[str]:
    for field in ("weight", "loss_weight"):
        values = getattr(split, field)
        if values is None and field == "loss_weight":
            continue
        if not isinstance(values, np.ndarray) or values.shape != (rows,) or values.dtype != np.float32:
            yield f"{field} is {_kind(values)}: use float32 of shape ({rows},)"
        elif not np.isfinite(values).all() or values.min() < 0 or (field == "weight" and values.min() == 0):
            allowed = "above 0" if field == "weight" else "of 0 or more"
            yield f"{field} has values {values.min()}..{values.max()}: use numbers {allowed}"


def _array_problems(block: Block, x: Any, rows: int, features: Features) -> Iterator[str]:
    if not isinstance(x, np.ndarray):
        yield f"is {type(x).__name__} instead of an array"
        return
    if len(x) != rows:
        yield f"has {len(x)} entries, y has {rows}"
        return
    if isinstance(block, Categories):
        yield from _category_problems(block, x)
        return
    allowed = ("float32",) if isinstance(block, Columns) else ("float32", "uint8")
    if x.dtype not in [np.dtype(name) for name in allowed]:
        kind = x.dtype if x.dtype.isnative else x.dtype.str
        yield f"is {kind}: use {' or '.join(allowed)}, for example x.astype('float32')"
    elif isinstance(block, Columns) and (x.ndim != 2 or x.shape[1] != len(block.names)):
        yield f"has shape {x.shape}, and the block has {len(block.names)} column names"
    elif x.ndim < 2 or 0 in x.shape[1:]:
        yield f"has shape {x.shape}: use (n, …) with at least one value per entry"
    else:
        first = features.train.x
        first = first[block.name] if isinstance(first, Mapping) else first
        if not isinstance(first, np.ndarray):
            return  # said of the training split
        if x.shape[1:] != first.shape[1:] or x.dtype != first.dtype:
            yield f"is {x.dtype} {x.shape}, that of train is {first.dtype} {first.shape}"


def _category_problems(block: Categories, x: np.ndarray) -> Iterator[str]:
    kinds = {type(value) for value in block.values}
    if not block.values or kinds - {str, int} or len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        yield f"has known values of type {names}: use texts or whole numbers, as Categories.of_train does"
    elif len(set(block.values)) != len(block.values):
        yield "has known values that occur more than once"
    elif x.dtype != np.int32 or x.ndim != 1:
        yield f"is {x.dtype} {x.shape}: use the codes, int32 (n,), for example block.codes(raw)"
    elif x.min() < 0 or x.max() >= block.size:
        yield f"has codes {x.min()}..{x.max()}: they are 0..{block.size - 1}, the last for unknown values"


def _constant_problems(features: Features) -> Iterator[str]:
    for block in features.blocks:
        constants = getattr(block, "normalization", None)
        if constants is None:
            continue
        shape = features.arrays(features.train)[block.name].shape[1:]
        for field in ("offset", "scale"):
            values = np.asarray(getattr(constants, field))
            try:
                fits = np.broadcast_shapes(values.shape, shape) == shape
            except ValueError:
                fits = False
            if not fits:
                yield f"normalization.{field} has shape {values.shape}, an entry has {shape}"
            elif not np.isfinite(values).all():
                yield f"normalization.{field} is not finite"
        if (np.asarray(constants.scale) <= 0).any():
            yield "normalization.scale has values of 0 or below: use deviations, or a range from low to high"


def _kind(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _list(values: Sequence[Any]) -> str:
    return ", ".join(map(repr, values[:_SHOWN])) + _more(values)


def _more(values: Sequence[Any]) -> str:
    return f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
