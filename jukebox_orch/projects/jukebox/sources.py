"""Reads songs and rankings from Parquet or CSV files at a local path or any fsspec URL. Never writes.

The columns of a file decide whether it has song properties, rankings, or both in the same rows as published on
Kaggle. Unused columns are not read, except other dates, where they show the order of day and month.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import fsspec
import numpy as np
import pandas as pd

from jukebox_orch.contract import (
    Dataset,
    InputError,
    SourceFile,
    display_url,
    read_bytes,
    read_error,
    url_path,
)
from jukebox_orch.projects.jukebox.csv_text import MAX_BYTES
from jukebox_orch.projects.jukebox.schema import FEATURES, ORIGIN_COLUMNS, RANKING_COLUMNS, SONG_COLUMNS
from jukebox_orch.projects.jukebox.settings import JukeboxSource
from jukebox_orch.projects.jukebox.tables import SUFFIXES, read_table


def read_dataset(source: JukeboxSource) -> Dataset:
    """Read the tables `songs` and `rankings` from `source.files` if it is set, otherwise from `source.location`.

    Returns:
        songs: spotify_id, name, artists as str; the 13 features as bool, int64 or float64.
        rankings: spotify_id and country as category, snapshot_date as datetime64[us], daily_rank as int64.
        Both: file as category, the name of the row's file, and row as int64, its row there; 0 is the first one
        below the header. Whole-number and bool columns with missing or fractional values stay float64, to be
        checked by validation.

    Raises:
        InputError: a file is missing, changed, unreadable or has other columns; the message names it.
        OSError: a server or network failed; a retry may succeed.
    """
    songs, rankings = [], []
    files = source.files or _list(source.location)
    for file, name in zip(files, _names(files), strict=True):
        raw = read_bytes(file, MAX_BYTES)
        table = read_table(raw, file.url, display_url(file.url), _columns, source.date_format)
        table["file"] = pd.Series(name, table.index, dtype="category")
        table["row"] = np.arange(len(table))
        if set(FEATURES) <= set(table):
            first = ~table[list(SONG_COLUMNS)].duplicated()
            found = table.loc[first, [*SONG_COLUMNS, *ORIGIN_COLUMNS]]
            songs.append(found.astype({"spotify_id": "str"}))
        if set(RANKING_COLUMNS) <= set(table):
            rankings.append(table[[*RANKING_COLUMNS, *ORIGIN_COLUMNS]])
    where = display_url(source.location) if not source.files else "the listed files"
    for tables, content, example in (
        (songs, "song properties", "song_properties.parquet"),
        (rankings, "rankings", "song_rankings.parquet"),
    ):
        if not tables:
            raise InputError(f"{where}: no file has {content}; add one, for example {example}")
    return {"songs": _stack(songs, ["file"]), "rankings": _stack(rankings, ["spotify_id", "country", "file"])}


def _list(location: str) -> Sequence[SourceFile]:
    """List the data files at `location`: the file itself, or those directly in the folder, by name."""
    try:
        fs, path = fsspec.core.url_to_fs(location)
        # fsspec cannot tell a file from a folder on a web server: decide by the suffix of the path. A signed URL
        # ends with its signature.
        web = location.startswith(("http://", "https://"))
        if _is_data(location) if web else fs.isfile(path):
            return [SourceFile(url=location, sha256="")]
        entries = fs.ls(path, detail=True)
    except Exception as error:  # noqa: BLE001 - every fsspec file system raises its own errors
        raise read_error(location, error) from None  # the error text may contain credentials
    urls = sorted(fs.unstrip_protocol(entry["name"]) for entry in entries if entry["type"] == "file")
    urls = [
        url for url in urls if _is_data(url) and not url_path(url).rsplit("/", 1)[-1].startswith((".", "_"))
    ]
    if not urls:
        raise InputError(
            f"{display_url(location)}: no data files; expected files ending in {', '.join(SUFFIXES)}"
        )
    return [SourceFile(url=url, sha256="") for url in urls]


def _is_data(url: str) -> bool:
    return url_path(url).lower().endswith(SUFFIXES)


def _names(files: Sequence[SourceFile]) -> list[str]:
    """Return a name for each file, for findings. Without the folder, so that the same data elsewhere is the same."""
    shown = [display_url(file.url) for file in files]
    names = [PurePosixPath(name).name for name in shown]
    return names if len(set(names)) == len(names) else shown


def _columns(names: Sequence[str], where: str) -> list[str]:
    """Return the columns to read from a file with the columns `names`."""
    present = set(names)
    wanted: list[str] = []
    if present & set(FEATURES):
        wanted += SONG_COLUMNS
    if present & (set(RANKING_COLUMNS) - {"spotify_id"}):
        wanted += RANKING_COLUMNS
    if not wanted:
        raise InputError(
            f"{where}: neither song properties nor rankings: its columns are {', '.join(names)[:300]}; "
            f"expected {', '.join(SONG_COLUMNS)} or {', '.join(RANKING_COLUMNS)}"
        )
    missing = [name for name in dict.fromkeys(wanted) if name not in present]
    if missing:
        raise InputError(f"{where}: column {', '.join(missing)} is missing; it has {', '.join(names)[:300]}")
    repeated = sorted({name for name in wanted if list(names).count(name) > 1})
    if repeated:
        raise InputError(f"{where}: column {', '.join(repeated)} occurs more than once; keep one")
    return list(dict.fromkeys(wanted))


def _stack(tables: Sequence[pd.DataFrame], categories: Sequence[str]) -> pd.DataFrame:
    """Concatenate tables; sort the categories, so that the same rows give the same table from any format."""
    stacked = pd.concat(tables, ignore_index=True)
    for name in categories:
        values = pd.Series(pd.api.types.union_categoricals([table[name] for table in tables]))
        values = values.cat.remove_unused_categories()
        stacked[name] = values.cat.set_categories(sorted(values.cat.categories))
    return stacked
