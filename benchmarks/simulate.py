"""Simulates charts of a year with the real songs: 1.13 million ranking rows; the same seed gives the same rows.

    python benchmarks/simulate.py SONGS FOLDER

SONGS is the folder of the real data (song_properties.parquet, song_rankings.parquet); FOLDER receives
song_properties.parquet, copied, and song_rankings.parquet, simulated.

A song is most popular in its home country: that of one of the five songs with the most similar features whose charts
are known. It enters the charts on the day the real song was first seen, is popular at home and in a few more countries,
and loses popularity with time.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from jukebox_orch.projects.jukebox.schema import COUNTRIES, FEATURES

CHART = 50
DAYS = 314  # 72 countries x 50 ranks x 314 days = 1,130,400 rows, plus the worldwide chart


def main() -> None:
    """Read the real data and write the simulated data."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("songs", type=Path, help="folder of the real data")
    parser.add_argument("folder", type=Path, help="folder to write to")
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--seed", type=int, default=2023)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    songs = pd.read_parquet(options.songs / "song_properties.parquet")
    known = pd.read_parquet(options.songs / "song_rankings.parquet")
    simulated = rankings(songs, known, options.days, options.seed)
    shutil.copyfile(options.songs / "song_properties.parquet", options.folder / "song_properties.parquet")
    simulated.to_parquet(options.folder / "song_rankings.parquet", compression="zstd", index=False)
    print(f"{len(simulated):,} rankings of {simulated['spotify_id'].nunique():,} songs in {options.folder}")


def rankings(songs: pd.DataFrame, known: pd.DataFrame, days: int, seed: int) -> pd.DataFrame:
    """Return the daily top 50 of 72 countries and the world over the last `days` of the songs' dates.

    Args:
        songs: spotify_id, event_timestamp (first seen) and the 13 features, one row per song.
        known: real rankings, spotify_id and country.
    """
    random = np.random.default_rng(seed)
    songs = songs[songs["duration_ms"] > 0].reset_index(drop=True)
    last = songs["event_timestamp"].max().normalize()
    calendar = pd.date_range(end=last, periods=days, unit="us")
    # The songs of the first day were released up to 120 days before.
    release = (songs["event_timestamp"] - calendar[0]).dt.days.to_numpy().clip(min=0)
    release = np.where(release == 0, -random.integers(0, 120, len(songs)), release)
    popularity = _popularity(random, _homes(random, songs, known))
    half_life = random.gamma(2.0, 25.0, len(songs))  # days until a song has lost half its popularity

    charts = []
    for number in range(days):
        age = number - release
        fading = np.where(age >= 0, 4 * np.exp2(-np.maximum(age, 0) / half_life), -50.0)
        score = (
            popularity
            + fading.astype(np.float32)
            + random.normal(0, 0.3, popularity.shape).astype(np.float32)
        )
        score = np.vstack([score, score.mean(axis=0)])
        top = np.argpartition(-score, CHART, axis=1)[:, :CHART]
        order = np.argsort(-np.take_along_axis(score, top, axis=1), axis=1)
        charts.append(np.take_along_axis(top, order, axis=1))
    return _table(songs, np.stack(charts), calendar)


def _homes(random: np.random.Generator, songs: pd.DataFrame, known: pd.DataFrame) -> np.ndarray:
    """Return (songs,): index of each song's home country."""
    from sklearn.neighbors import NearestNeighbors

    x = songs[list(FEATURES)].to_numpy(dtype=np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    charted = known[known["country"].isin(COUNTRIES)]
    home = charted.groupby("spotify_id")["country"].agg(lambda values: values.mode().iloc[0])
    index = songs["spotify_id"].map(home).map({code: n for n, code in enumerate(COUNTRIES)})
    has_home = np.flatnonzero(index.notna())
    neighbours = NearestNeighbors(n_neighbors=5).fit(x[has_home]).kneighbors(x, return_distance=False)
    like = neighbours[np.arange(len(songs)), random.integers(0, 5, len(songs))]
    return np.where(index.notna(), index, index.to_numpy()[has_home[like]]).astype(np.int64)


def _popularity(random: np.random.Generator, home: np.ndarray) -> np.ndarray:
    """Return (countries, songs) float32: high at home and in a few more countries, low elsewhere."""
    shape = (len(COUNTRIES), len(home))
    rank_key = random.random(shape, dtype=np.float32)
    rank_key[home, np.arange(len(home))] = 2
    popular = (-rank_key).argsort(axis=0).argsort(axis=0) < random.geometric(0.4, len(home))
    return np.where(popular, 2.0, -2.0).astype(np.float32) + random.normal(0, 1, shape).astype(np.float32)


def _table(songs: pd.DataFrame, charts: np.ndarray, calendar: pd.DatetimeIndex) -> pd.DataFrame:
    """Convert (days, countries + world, ranks) indices of songs to rows in the published format."""
    days, areas, ranks = charts.shape
    country = np.tile(np.repeat(np.append(np.arange(len(COUNTRIES)), -1), ranks), days)
    return pd.DataFrame(
        {
            "spotify_id": pd.Categorical.from_codes(charts.ravel(), pd.Index(songs["spotify_id"])),
            "daily_rank": np.tile(np.arange(1, ranks + 1), days * areas),
            "country": pd.Categorical.from_codes(country, pd.Index(COUNTRIES)),
            "snapshot_date": np.repeat(calendar.to_numpy(), areas * ranks),
        }
    )


if __name__ == "__main__":
    main()
