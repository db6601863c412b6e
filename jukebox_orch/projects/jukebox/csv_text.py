"""Prepares the bytes of a CSV file: decompresses it, removes extra quotes, refuses other separators and encodings."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from typing import IO, Any

from jukebox_orch.contract import InputError
from jukebox_orch.projects.jukebox.schema import RANKING_COLUMNS, SONG_COLUMNS

MAX_BYTES = 2 * 1024**3
"""Maximum size of a file in bytes, as stored and, if compressed, as expanded."""

MAX_EXPANSION = 100
"""Maximum expansion of a compressed CSV file; chart data expands about 5 times, a zip bomb 1000 times."""

FREE_EXPANSION = 64 * 1024**2
"""A compressed CSV file may always expand to this many bytes, even if it is very small."""

_HEAD = 65_536
_COLUMNS = {*SONG_COLUMNS, *RANKING_COLUMNS}
_FREE_TEXT = {"name", "artists"}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def plain_csv(raw: bytes, suffix: str, shown: str) -> tuple[bytes, list[str]]:
    """Return the text of a CSV file, with commas and one layer of quotes, and its column names.

    Args:
        suffix: last suffix of the file's name, which decides how it is compressed.
        shown: name of the file, for messages.

    Raises:
        InputError: the file is empty, expands to too many bytes, or has another separator or encoding.
    """
    raw = _decompress(raw, suffix, shown)
    check_encoding(raw[:_HEAD], shown)
    raw = _strip_extra_quotes(raw, shown)
    header = next(_records(raw), [])
    if not header:
        raise InputError(
            f"{shown}: the file is empty or starts with an empty line; copy it again or remove it"
        )
    _check_separator(header, shown)
    return raw, header


def check_encoding(raw: bytes, shown: str) -> None:
    """Raise InputError if `raw` is not UTF-8. It may end in the middle of a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        around = raw[max(0, error.start - 20) : error.start + 20]
        raise InputError(
            f"{shown}: {around!r} in line {line:,} is not UTF-8 text; save the file as CSV UTF-8"
        ) from None


def _check_separator(header: list[str], shown: str) -> None:
    if _COLUMNS & set(header):
        return
    for separator, words in _SEPARATORS.items():
        if _COLUMNS & {name.strip(' "') for name in ",".join(header).split(separator)}:
            raise InputError(
                f"{shown}: the fields are separated by {words} ({separator!r}), expected commas; save the file as CSV "
                "with commas"
            )


def _decompress(raw: bytes, suffix: str, shown: str) -> bytes:
    """Return `raw` decompressed by the suffix of its file, up to the maximum size."""
    openers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zip": _open_single_member}
    opener: Callable[[IO[bytes]], Any] | None = openers.get(suffix)
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


def _strip_extra_quotes(raw: bytes, shown: str) -> bytes:
    """Remove one extra layer of quotes, around whole lines or around every field."""
    if not _has_extra_quotes(list(islice(_records(raw), 2))):
        return raw
    check_encoding(raw, shown)
    lines = csv.reader(io.StringIO(raw.decode("utf-8-sig")))
    return "\n".join(",".join(row) for row in lines).encode()


def _has_extra_quotes(records: list[list[str]]) -> bool:
    """Return whether the first records are quoted lines, or have quotes inside of fields that never have any.

    A song may be called "Heroes", with quotes. Column names, song ids, numbers and dates have none.
    """
    if any(len(record) == 1 and len(_fields(record[0])) > 1 for record in records):
        return True
    if not records:
        return False
    names = [name.strip('"') for name in records[0]]
    return any(
        len(field) > 1 and field[0] == field[-1] == '"'
        for record in records
        for name, field in zip(names, record, strict=False)  # a line with too few fields is reported later
        if name in _COLUMNS and (record is records[0] or name not in _FREE_TEXT)
    )


def _fields(line: str) -> list[str]:
    return next(csv.reader(io.StringIO(line, newline="")), [])


def _records(raw: bytes) -> Iterator[list[str]]:
    """Return the first records that are not empty lines."""
    head = raw[:_HEAD].decode("utf-8-sig", errors="ignore")  # only the last character may be cut
    return (record for record in csv.reader(io.StringIO(head, newline="")) if record)
