"""Reads songs and rankings from Parquet or CSV files at a local path or any fsspec URL. Never writes.

The columns of a file decide whether it has song properties, rankings, or both in the same rows as published on
Kaggle. Unused columns are not read. Dates are ISO 8601 or DD/MM/YYYY; MM/DD/YYYY is refused if any day is above 12.
"""

from __future__ import annotations

from collections.abc import Sequence

import fsspec
import pandas as pd

from jukebox_orch.contract import Dataset, InputError, Source, SourceFile, display_url, read_bytes, read_error
from jukebox_orch.projects.jukebox.schema import FEATURES, RANKING_COLUMNS, SONG_COLUMNS
from jukebox_orch.projects.jukebox.tables import MAX_BYTES, SUFFIXES, read_table


def read_dataset(source: Source) -> Dataset:
    """Read the tables `songs` and `rankings` from `source.files` if it is set, otherwise from `source.location`.

    Returns:
        songs: spotify_id, name, artists as str; the 13 features as bool, int64 or float64.
        rankings: spotify_id and country as category, snapshot_date as datetime64[us], daily_rank as int64.
        Whole-number and bool columns with missing or fractional values stay float64, to be checked by validation.

    Raises:
        InputError: a file is missing, changed, unreadable or has other columns; the message names it.
        OSError: a server or network failed; a retry may succeed.
    """
    songs, rankings = [], []
    for file in source.files or _list(source.location):
        table = read_table(read_bytes(file, MAX_BYTES), file.url, display_url(file.url), _columns)
        if set(FEATURES) <= set(table):
            songs.append(table[list(SONG_COLUMNS)].drop_duplicates().astype({"spotify_id": "str"}))
        if set(RANKING_COLUMNS) <= set(table):
            rankings.append(table[list(RANKING_COLUMNS)])
    where = display_url(source.location) if not source.files else "the listed files"
    for tables, content, example in (
        (songs, "song properties", "song_properties.parquet"),
        (rankings, "rankings", "song_rankings.parquet"),
    ):
        if not tables:
            raise InputError(f"{where}: no file has {content}; add one, for example {example}")
    return {"songs": pd.concat(songs, ignore_index=True), "rankings": _stack(rankings)}


def _list(location: str) -> Sequence[SourceFile]:
    """List the data files at `location`: the file itself, or those directly in the folder, by name."""
    try:
        fs, path = fsspec.core.url_to_fs(location)
        # fsspec cannot tell a file from a folder on a web server: decide by the suffix.
        web = location.startswith(("http://", "https://"))
        if location.lower().endswith(SUFFIXES) if web else fs.isfile(path):
            return [SourceFile(url=location, sha256="")]
        entries = fs.ls(path, detail=True)
    except Exception as error:  # noqa: BLE001 - every fsspec file system raises its own errors
        raise read_error(location, error) from None  # the error text may contain credentials
    names = sorted(
        fs.unstrip_protocol(entry["name"])
        for entry in entries
        if entry["type"] == "file"
        and entry["name"].lower().endswith(SUFFIXES)
        and not entry["name"].rsplit("/", 1)[-1].startswith((".", "_"))
    )
    if not names:
        raise InputError(
            f"{display_url(location)}: no data files; expected files ending in {', '.join(SUFFIXES)}"
        )
    return [SourceFile(url=name, sha256="") for name in names]


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


def _stack(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables; sort the categories, so that the same rows give the same table from any format."""
    stacked = pd.concat(tables, ignore_index=True)
    for name in ("spotify_id", "country"):
        values = pd.Series(pd.api.types.union_categoricals([table[name] for table in tables]))
        values = values.cat.remove_unused_categories()
        stacked[name] = values.cat.set_categories(sorted(values.cat.categories))
    return stacked
