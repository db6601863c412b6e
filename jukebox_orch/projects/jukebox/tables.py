"""Parses the bytes of a Parquet or CSV file into a typed table. Errors name file, column and first bad rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from jukebox_orch.contract import InputError
from jukebox_orch.projects.jukebox.schema import FEATURES, WHOLE_NUMBERS

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip")
"""Suffixes of the files that are read."""

MAX_BYTES = 2 * 1024**3
"""Maximum size of a file in bytes, as stored and, if compressed, as expanded."""

MAX_ROWS = 100_000_000
"""Maximum number of rows of a Parquet file: a few kilobytes can claim billions."""

MAX_EXPANSION = 100
"""Maximum expansion of a compressed CSV file; chart data expands about 5 times, a zip bomb 1000 times."""

FREE_EXPANSION = 64 * 1024**2
"""A compressed CSV file may always expand to this many bytes, even if it is very small."""

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


def read_table(raw: bytes, name: str, shown: str, choose: ColumnChoice) -> pd.DataFrame:
    """Read the columns selected by `choose` from the file `name` with content `raw`.

    Returns:
        spotify_id and country as category, snapshot_date as datetime64[us], features and daily_rank as bool,
        int64 or float64, all other columns as str.

    Raises:
        InputError: the content does not match the suffix of the name; messages name the file `shown`.
    """
    read = _parquet if _suffix(name) == ".parquet" else _csv
    try:
        table = read(raw, name, shown, choose)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{shown}: cannot be read, it may be truncated or of another format: {reason}; copy it again"
        ) from error
    if not table.num_rows:
        raise InputError(f"{shown}: the file has columns but no rows; copy it again or remove it")
    frame = table.unify_dictionaries().to_pandas(ignore_metadata=True)
    return pd.DataFrame({column: _typed(frame[column], shown) for column in frame})


def _parquet(raw: bytes, name: str, shown: str, choose: ColumnChoice) -> pa.Table:
    buffer = pa.BufferReader(raw)
    file = pq.ParquetFile(buffer)
    if file.metadata.num_rows > MAX_ROWS:
        raise InputError(
            f"{shown}: claims {file.metadata.num_rows:,} rows; at most {MAX_ROWS:,} are read, split it"
        )
    columns = choose(file.schema_arrow.names, shown)
    return pq.read_table(buffer, columns=columns, read_dictionary=[key for key in _KEYS if key in columns])


def _csv(raw: bytes, name: str, shown: str, choose: ColumnChoice) -> pa.Table:
    raw = _strip_extra_quotes(_decompress(raw, name, shown))
    header = next(csv.reader(io.StringIO(_head(raw))), [])
    if not header:
        raise InputError(
            f"{shown}: the file is empty or starts with an empty line; copy it again or remove it"
        )
    columns = choose(header, shown)
    keys = dict.fromkeys((*_KEYS, "snapshot_date"), pa.dictionary(pa.int32(), pa.string()))
    numbers = dict.fromkeys((*FEATURES, "daily_rank"), pa.float64()) | {"is_explicit": pa.bool_()}
    types = {column: (keys | numbers).get(column, pa.string()) for column in columns}
    try:
        return _parse(raw, shown, types)
    except pa.ArrowInvalid:
        # Read numbers as text: `_numbers` then finds and names the values that are not numbers.
        return _parse(raw, shown, {c: pa.string() if c in numbers else types[c] for c in columns})


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


def _decompress(raw: bytes, name: str, shown: str) -> bytes:
    """Return `raw` decompressed by the suffix of its name, up to the maximum size."""
    openers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zip": _open_single_member}
    opener: Callable[[IO[bytes]], Any] | None = openers.get(_suffix(name))
    if opener is None:
        return raw
    bound = min(MAX_BYTES, max(FREE_EXPANSION, MAX_EXPANSION * len(raw)))
    with opener(io.BytesIO(raw)) as stream:
        text = stream.read(bound + 1)
    if len(text) > bound:
        raise InputError(
            f"{shown}: {len(raw):,} compressed bytes expand to more than {bound:,}, which is unusual for chart data. "
            "If the file is correct, provide it uncompressed or as Parquet"
        )
    return text


def _open_single_member(packed: IO[bytes]) -> IO[bytes]:
    archive = zipfile.ZipFile(packed)
    if len(archive.namelist()) != 1:
        raise zipfile.BadZipFile(f"the archive has {len(archive.namelist())} files, expected one CSV file")
    return archive.open(archive.namelist()[0])


def _suffix(name: str) -> str:
    return PurePosixPath(name.lower().split("?")[0]).suffix


def _strip_extra_quotes(raw: bytes) -> bytes:
    """Remove one extra layer of quotes, around whole lines or around every field."""
    rows = [row for row in csv.reader(io.StringIO(_head(raw))) if row]
    whole_lines = any(len(row) == 1 and "," in row[0] for row in rows)
    every_field = any(field.startswith('"') and field.endswith('"') for row in rows for field in row[:1])
    if not (whole_lines or every_field):
        return raw
    lines = csv.reader(io.StringIO(raw.decode("utf-8-sig")))
    return "\n".join(",".join(row) for row in lines).encode()


def _head(raw: bytes) -> str:
    """Return the first two lines."""
    return "\n".join(raw[:65_536].decode("utf-8-sig", errors="replace").splitlines()[:2])


def _typed(column: pd.Series, shown: str) -> pd.Series:
    if column.name == "snapshot_date":
        return _dates(column, shown)
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
        raise _conversion_error("numbers", text[wrong], shown)
    return numbers.reindex(column.index)


def _are_whole(numbers: pd.Series) -> bool:
    values = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    return bool((np.abs(values) < 2**53).all() and (values == np.round(values)).all())


def _dates(column: pd.Series, shown: str) -> pd.Series:
    """Return the dates; drop the time of day that some exports add, because charts are daily."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return column.dt.tz_localize(None).dt.normalize().astype("datetime64[us]")
    codes, values = pd.factorize(column)
    text = pd.Series(values).astype("str").str.strip()
    iso = text.str.extract(r"^(\d{4}-\d{2}-\d{2})(?:[T ][\d:.]+(?:Z|[+-]\d{2}:?\d{2})?)?$")[0]
    dates = pd.to_datetime(iso, format="%Y-%m-%d", errors="coerce")
    dates = dates.fillna(pd.to_datetime(text, format="%d/%m/%Y", errors="coerce"))
    wrong = np.flatnonzero(dates.isna())
    if len(wrong):
        bad = column[np.isin(codes, wrong)]
        raise _conversion_error("dates (expected YYYY-MM-DD or DD/MM/YYYY)", bad, shown)
    days = dates.to_numpy().astype("datetime64[us]")
    return pd.Series(np.append(days, np.datetime64("NaT", "us"))[codes], index=column.index)


def _conversion_error(expected: str, bad: pd.Series, shown: str) -> InputError:
    first = ", ".join(f"{value!r} in row {row}" for row, value in bad.head(5).items())
    return InputError(
        f"{shown}: column {bad.name}: {len(bad):,} values are not {expected}: {first}. Fix them in the source. "
        "(Row 0 is the first row below the header.)"
    )
