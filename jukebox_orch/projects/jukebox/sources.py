"""Reads songs and rankings from Parquet or CSV files, local or behind any fsspec URL. Only ever reads.

A file is what its columns say: song properties, rankings, or both in the same rows as published on Kaggle.
Columns nobody needs are not read. Dates may be ISO 8601 or DD/MM/YYYY; month first is refused as soon as a day
above 12 shows it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import urlsplit

import fsspec
import pandas as pd

from jukebox_orch.project import Dataset, InputError, Source, SourceFile
from jukebox_orch.projects.jukebox.schema import FEATURES, RANKING_COLUMNS, SONG_COLUMNS
from jukebox_orch.projects.jukebox.tables import SUFFIXES, read_table

MAX_BYTES = 2 * 1024**3
"""Largest file read, in bytes as stored and, if compressed, as expanded."""


def read_dataset(source: Source) -> Dataset:
    """Read the tables `songs` and `rankings` from `source.files`, or else from `source.location`.

    Returns:
        songs: spotify_id, name, artists as str; the 13 features as bool, int64 or float64.
        rankings: spotify_id and country as category, snapshot_date as datetime64[us], daily_rank as int64.
        Whole-number and bool columns with missing or fractional values stay float64 for validation to judge.

    Raises:
        InputError: a file is missing, changed, unreadable or has other columns; the message names it.
        OSError: a server or network failed; trying again may help.
    """
    songs, rankings = [], []
    for file in source.files or _list(source.location):
        table = read_table(_fetch(file), file.url, _shown(file.url), _columns)
        if set(FEATURES) <= set(table):
            songs.append(table[list(SONG_COLUMNS)].drop_duplicates().astype({"spotify_id": "str"}))
        if set(RANKING_COLUMNS) <= set(table):
            rankings.append(table[list(RANKING_COLUMNS)])
    where = _shown(source.location) if not source.files else "the listed files"
    for tables, what, example in (
        (songs, "song properties", "song_properties.parquet"),
        (rankings, "rankings", "song_rankings.parquet"),
    ):
        if not tables:
            raise InputError(f"{where}: no file holds {what}; add one, for example {example}")
    return {"songs": pd.concat(songs, ignore_index=True), "rankings": _stack(rankings)}


def _list(location: str) -> Sequence[SourceFile]:
    """The data files at `location`: itself, or those directly in the folder, by name."""
    try:
        fs, path = fsspec.core.url_to_fs(location)
        # Web servers have no folders to ask for, only pages that list files.
        web = location.startswith(("http://", "https://"))
        if location.lower().endswith(SUFFIXES) if web else fs.isfile(path):
            return [SourceFile(url=location, sha256="")]
        entries = fs.ls(path, detail=True)
    except Exception as error:
        raise _unreadable(location, error) from error
    names = sorted(
        fs.unstrip_protocol(entry["name"])
        for entry in entries
        if entry["type"] == "file"
        and entry["name"].lower().endswith(SUFFIXES)
        and not entry["name"].rsplit("/", 1)[-1].startswith((".", "_"))
    )
    if not names:
        raise InputError(
            f"{_shown(location)}: no data files there; expected files ending in {', '.join(SUFFIXES)}"
        )
    return [SourceFile(url=name, sha256="") for name in names]


def _fetch(file: SourceFile) -> bytes:
    """The file's bytes, verified: what is checked is what is parsed."""
    shown = _shown(file.url)
    try:
        fs, path = fsspec.core.url_to_fs(file.url)
        size = fs.info(path).get("size") or 0
        raw = fs.cat_file(path) if size <= MAX_BYTES else b""
    except Exception as error:
        raise _unreadable(file.url, error) from error
    if max(size, len(raw)) > MAX_BYTES:
        raise InputError(f"{shown}: {size:,} bytes; split it into files of at most {MAX_BYTES:,} bytes")
    if not raw:
        raise InputError(f"{shown}: the file is empty; copy it again or remove it")
    digest = hashlib.sha256(raw).hexdigest() if file.sha256 else ""
    if digest != file.sha256.lower():
        raise InputError(
            f"{shown}: the content has changed: sha256 is {digest}, expected {file.sha256}; "
            "restore the file or run with its present digest"
        )
    return raw


def _columns(names: Sequence[str], shown: str) -> list[str]:
    """Which columns to read of a file that has `names`."""
    present = set(names)
    wanted: list[str] = []
    if present & set(FEATURES):
        wanted += SONG_COLUMNS
    if present & (set(RANKING_COLUMNS) - {"spotify_id"}):
        wanted += RANKING_COLUMNS
    if not wanted:
        raise InputError(
            f"{shown}: neither song properties nor rankings: its columns are {', '.join(names)[:300]}; "
            f"expected {', '.join(SONG_COLUMNS)} or {', '.join(RANKING_COLUMNS)}"
        )
    missing = [name for name in dict.fromkeys(wanted) if name not in present]
    if missing:
        raise InputError(f"{shown}: column {', '.join(missing)} is missing; it has {', '.join(names)[:300]}")
    twice = sorted({name for name in wanted if list(names).count(name) > 1})
    if twice:
        raise InputError(f"{shown}: column {', '.join(twice)} occurs more than once; keep one")
    return list(dict.fromkeys(wanted))


def _stack(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of several; categories are sorted, so the same rows give the same table from any format."""
    stacked = pd.concat(tables, ignore_index=True)
    for name in ("spotify_id", "country"):
        values = pd.Series(pd.api.types.union_categoricals([table[name] for table in tables]))
        values = values.cat.remove_unused_categories()
        stacked[name] = values.cat.set_categories(sorted(values.cat.categories))
    return stacked


def _unreadable(url: str, error: Exception) -> Exception:
    """What to tell about `error`; network trouble stays an OSError, so that it may be tried again."""
    shown = _shown(url)
    if url.startswith("http") and isinstance(error, FileNotFoundError):
        error = (
            error.__cause__ if isinstance(error.__cause__, Exception) else error
        )  # fsspec hides the reason
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return InputError(f"{shown}: not found; check the path or URL")
    if isinstance(error, PermissionError) or status in (401, 403):
        return InputError(f"{shown}: access denied; check permissions or credentials")
    if isinstance(error, ImportError):
        return InputError(f"{shown}: this kind of URL needs another package: {error}")
    if isinstance(error, ValueError) or (status and status < 500):
        return InputError(f"{shown}: cannot be read: {error or status}")
    reason = f"HTTP status {status}" if status else f"{type(error).__name__}: {error}"
    return OSError(f"{shown}: cannot be read now: {reason}; try again later")


def _shown(url: str) -> str:
    """`url` for messages: without user name, password and signed query."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}".removeprefix("file://")
