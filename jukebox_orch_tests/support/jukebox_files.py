"""Writes songs and rankings as users have them, and reads them as the project does."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from jukebox_orch.contract import Dataset, InputError, SourceFile
from jukebox_orch.projects.jukebox import Jukebox, JukeboxSource, sample


def load(location: object = "", *files: SourceFile, **settings: Any) -> Dataset:
    return Jukebox().load(JukeboxSource(location=str(location), files=list(files), **settings))


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a few songs, one with an awkward name, and their rankings over three days."""
    songs, rankings = generated(days=3, chart=5)
    songs.loc[10, "name"] = 'A "quoted", long\nname'
    return songs, rankings.assign(popularity=7)


def parquet_folder(folder: Path, songs: pd.DataFrame, rankings: pd.DataFrame) -> Path:
    songs.to_parquet(folder / "song_properties.parquet")
    rankings.to_parquet(folder / "song_rankings.parquet")
    return folder


def csv_folder(folder: Path, songs: pd.DataFrame, rankings: pd.DataFrame, suffix: str = ".csv") -> Path:
    songs.to_csv(folder / f"song_properties{suffix}", index=False)
    rankings.to_csv(folder / f"song_rankings{suffix}", index=False)
    return folder


def combined(made: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    songs, rankings = made
    text = rankings.astype({"spotify_id": "str"}).assign(daily_movement=0, album_name="x, y")
    return text.merge(songs, on="spotify_id")


def generated(**size: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return songs and rankings of the embedded sample, without the columns that say where a row comes from."""
    songs, rankings = (
        pd.DataFrame(table).drop(columns=["file", "row"]) for table in sample.generate(**size).values()
    )
    return songs, rankings


def assert_same(ours: Dataset, theirs: Dataset) -> None:
    """Compare the data, but not where its rows come from."""
    for table in ("songs", "rankings"):
        assert_frame_equal(
            frame(ours, table).drop(columns=["file", "row"]),
            frame(theirs, table).drop(columns=["file", "row"]),
        )


def frame(dataset: Dataset, table: str) -> pd.DataFrame:
    found = dataset[table]
    assert isinstance(found, pd.DataFrame)
    return found


def refusal(location: object = "", *files: SourceFile, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(location, *files, **settings)
    return str(caught.value)


def write_charts(path: Path, *, seed: int = 2023, days: int = 5, chart: int = 50, bad: bool = False) -> Path:
    """Write the embedded sample with this seed and size; with `bad` every fifth row has an invalid rank."""
    songs, rankings = generated(seed=seed, days=days, chart=chart)
    rankings = rankings.astype({"spotify_id": "str"})
    if bad:
        rankings.loc[rankings.index[::5], "daily_rank"] = 99
    rankings.merge(songs, on="spotify_id").to_parquet(path, compression="zstd")
    return path
