"""Parses the bytes of a Parquet or CSV file into a typed table. Errors name file, column and first bad rows."""

from __future__ import annotations

import csv
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from jukebox_orch.contract import InputError, url_path
from jukebox_orch.projects.jukebox.csv_text import check_encoding, plain_csv
from jukebox_orch.projects.jukebox.dates import DateFormat, conversion_error, read_dates
from jukebox_orch.projects.jukebox.schema import FEATURES, WHOLE_NUMBERS

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip")
"""Suffixes of the files that are read."""

MAX_ROWS = 100_000_000
"""Maximum number of rows of a Parquet file: a few kilobytes can claim billions."""

_UNREADABLE = (
    pa.ArrowException,
    OSError,
    EOFError,
    UnicodeDecodeError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,  # a zip archive with a password
)

_KEYS = ("spotify_id", "country")

ColumnChoice = Callable[[Sequence[str], str], list[str]]
"""(column names of the file, its name for messages) -> the columns to read; raises InputError."""


@dataclass(frozen=True)
class _File:
    """A file's column names, and the function that reads some of its columns."""

    names: Sequence[str]
    read: Callable[[Sequence[str]], pa.Table]


def read_table(
    raw: bytes, name: str, shown: str, choose: ColumnChoice, date_format: DateFormat
) -> pd.DataFrame:
    """Read the columns selected by `choose` from the file `name` with content `raw`; the index counts the file's rows.

    Returns:
        spotify_id and country as category, snapshot_date as datetime64[us], features and daily_rank as bool,
        int64 or float64, all other columns as str.

    Raises:
        InputError: the content does not match the suffix of the name; messages name the file `shown`.
    """
    suffix = PurePosixPath(url_path(name).lower()).suffix
    with _unreadable_as_input_error(shown):
        file = _parquet(raw, shown) if suffix == ".parquet" else _csv(raw, suffix, shown)
    columns = choose(file.names, shown)
    frame = _frame(file, columns, shown)

    def other_dates() -> list[pd.Series]:
        others = [n for n in file.names if n not in columns and _is_date(n) and file.names.count(n) == 1]
        read = _frame(file, others, shown) if others else {}
        return [read[n] for n in read if isinstance(read[n].dtype, pd.StringDtype | pd.CategoricalDtype)]

    return pd.DataFrame(
        {
            column: read_dates(frame[column], other_dates, date_format, shown)
            if column == "snapshot_date"
            else _typed(frame[column], shown)
            for column in frame
        }
    )


@contextmanager
def _unreadable_as_input_error(shown: str) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{shown}: cannot be read, it may be truncated or of another format: {reason}; copy it again"
        ) from error


def _frame(file: _File, columns: Sequence[str], shown: str) -> pd.DataFrame:
    with _unreadable_as_input_error(shown):
        table = file.read(columns)
        if not table.num_rows:
            raise InputError(f"{shown}: the file has columns but no rows; copy it again or remove it")
        for position, name in enumerate(table.column_names):
            table = table.set_column(position, name, _text(table.column(position), name, shown))
        return table.unify_dictionaries().to_pandas(ignore_metadata=True)


def _parquet(raw: bytes, shown: str) -> _File:
    buffer = pa.BufferReader(raw)
    file = pq.ParquetFile(buffer)
    if file.metadata.num_rows > MAX_ROWS:
        raise InputError(
            f"{shown}: claims {file.metadata.num_rows:,} rows; at most {MAX_ROWS:,} are read, split it"
        )

    def read(columns: Sequence[str]) -> pa.Table:
        keys = [key for key in _KEYS if key in columns]
        return pq.read_table(buffer, columns=list(columns), read_dictionary=keys)

    return _File(file.schema_arrow.names, read)


def _text(column: pa.ChunkedArray, name: str, shown: str) -> pa.ChunkedArray:
    """Return a column of text or bytes as text, any other unchanged. Parquet does not check that text is UTF-8."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_bytes(kind)):
        return column
    try:
        if _is_bytes(kind):
            return column.cast(kind).cast(pa.string())
        column.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(kind).cast(pa.binary())
        for value in values.unique().drop_null().to_pylist():
            try:
                value.decode()
            except UnicodeDecodeError:
                row = pc.index(values, pa.scalar(value, pa.binary())).as_py()  # pyright: ignore[reportAttributeAccessIssue]
                raise InputError(
                    f"{shown}: column {name}: {value[:80]!r} in row {row} is not UTF-8 text; save the column as UTF-8"
                ) from None
        raise
    return column


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _csv(raw: bytes, suffix: str, shown: str) -> _File:
    raw, header = plain_csv(raw, suffix, shown)
    numbers = dict.fromkeys((*FEATURES, "daily_rank"), pa.float64()) | {"is_explicit": pa.bool_()}
    repeated = pa.dictionary(pa.int32(), pa.string())

    def read(columns: Sequence[str]) -> pa.Table:
        text = {c: repeated if c in _KEYS or _is_date(c) else pa.string() for c in columns}
        try:
            return _parse(raw, shown, {column: numbers.get(column, text[column]) for column in columns})
        except pa.ArrowInvalid:
            check_encoding(raw, shown)
            # Read numbers as text: `_numbers` then finds and names the values that are not numbers.
            return _parse(raw, shown, text)

    return _File(header, read)


def _is_date(name: str) -> bool:
    return "date" in name.lower() or "time" in name.lower()


def _parse(raw: bytes, shown: str, types: dict[str, pa.DataType]) -> pa.Table:
    ragged: list[pa_csv.InvalidRow] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    table = pa_csv.read_csv(
        pa.BufferReader(raw),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pa_csv.ConvertOptions(
            include_columns=list(types),
            column_types=types,
            null_values=[""],  # only this: "NA" is Namibia
            strings_can_be_null=True,
        ),
    )
    if ragged:
        first = "; ".join(f"{row.text[:80]!r} has {row.actual_columns}" for row in ragged[:5])
        raise InputError(
            f"{shown}: {len(ragged):,} lines do not have the {ragged[0].expected_columns} fields of the header: "
            f"{first}; correct or remove them"
        )
    return table


def _typed(column: pd.Series, shown: str) -> pd.Series:
    if column.name in _KEYS:
        text = isinstance(column.dtype, pd.CategoricalDtype) and column.cat.categories.dtype == "str"
        return column if text else column.astype("str").astype("category")
    if column.name not in (*FEATURES, "daily_rank"):
        return column.astype("str")
    numbers = _numbers(column, shown)
    if column.name == "is_explicit" and numbers.isin([0, 1]).all():
        return numbers.astype(bool)
    if column.name in WHOLE_NUMBERS and _are_whole(numbers):
        return numbers.astype("int64")
    return numbers.astype("float64")


def _numbers(column: pd.Series, shown: str) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column):
        return column
    known = column.notna()
    text = column[known].astype("str").str.strip()
    if column.name == "is_explicit":
        text = text.str.lower().replace({"true": "1", "false": "0"})
    numbers = pd.to_numeric(text, errors="coerce")
    wrong = numbers.isna() & (text.str.lower() != "nan")
    if wrong.any():
        raise conversion_error("numbers", text[wrong], shown)
    return numbers.reindex(column.index)


def _are_whole(numbers: pd.Series) -> bool:
    values = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    return bool((np.abs(values) < 2**53).all() and (values == np.round(values)).all())
