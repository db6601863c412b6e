"""The embedded sample: synthetic charts from a seeded generator, in the layout of the published ones.

Every song is popular in some countries, and its features are drawn around the mean features of its home country.
A few rows have the known faults of the published data.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from jukebox_orch.contract import Dataset
from jukebox_orch.projects.jukebox.schema import COUNTRIES, FEATURES, RANGES, WHOLE_NUMBERS

_TYPICAL = {
    # Feature -> mean and standard deviation over the published songs, rounded.
    "duration_ms": (190_000, 60_000),
    "danceability": (0.68, 0.14),
    "energy": (0.65, 0.17),
    "key": (5.4, 3.6),
    "loudness": (-7.1, 3.3),
    "mode": (0.51, 0.5),
    "speechiness": (0.12, 0.11),
    "acousticness": (0.28, 0.25),
    "instrumentalness": (0.03, 0.14),
    "liveness": (0.18, 0.14),
    "valence": (0.54, 0.23),
    "tempo": (122, 28),
}


def generate(seed: int = 2023, days: int = 5, chart: int = 50) -> Dataset:
    """Generate tables `songs` and `rankings`, typed as by `sources.read_dataset`.

    Args:
        seed: seed of the random generator.
        days: number of consecutive days, the last is 2023-12-19.
        chart: songs per country and day, at most 50.
    """
    random = np.random.default_rng(seed)
    local = np.repeat(np.arange(len(COUNTRIES)), 20)  # songs that are popular in one country only
    home = np.concatenate([local, random.integers(0, len(COUNTRIES), 400)])  # and 400 international hits
    # Number of countries besides the home country where a song is popular.
    abroad = np.concatenate([np.zeros(len(local)), random.geometric(0.35, 400)])
    songs = _songs(random, home)
    rankings = _rankings(random, home, abroad, days, chart)
    rankings["spotify_id"] = songs["spotify_id"].to_numpy()[rankings.pop("song")]
    return _with_known_faults(songs, rankings)


def _songs(random: np.random.Generator, home: np.ndarray) -> pd.DataFrame:
    """Generate songs with features typical of their home country, within the published ranges."""
    table = {
        "spotify_id": [f"synthetic{number:013d}" for number in range(len(home))],
        "name": [f"Synthetic song {number}" for number in range(len(home))],
        "artists": [f"Synthetic artist {number % 997}" for number in range(len(home))],
        "is_explicit": random.random(len(home)) < 0.1 + 0.5 * random.random(len(COUNTRIES))[home],
    }
    for feature, (mean, deviation) in _TYPICAL.items():
        offset = random.normal(0, 0.7, len(COUNTRIES))[home] + random.normal(0, 0.7, len(home))
        low, high = RANGES[feature]
        values = np.clip(mean + deviation * offset, max(low, 0) if feature == "key" else low, high)
        table[feature] = values.round().astype(int) if feature in WHOLE_NUMBERS else values.round(4)
    songs = pd.DataFrame(table)
    songs["loudness"] = songs["loudness"].clip(upper=-0.1)
    songs["duration_ms"] = songs["duration_ms"].clip(lower=40_000)
    return songs[["spotify_id", "name", "artists", *FEATURES]]


def _rankings(
    random: np.random.Generator, home: np.ndarray, abroad: np.ndarray, days: int, chart: int
) -> pd.DataFrame:
    """Generate daily charts of all countries and worldwide; `song` is the position in the songs."""
    countries = len(COUNTRIES)
    # A song is popular in its home country and in the `abroad` countries with the highest affinity.
    affinity = random.random((countries, len(home)))
    affinity[home, np.arange(len(home))] = 2
    popular = (-affinity).argsort(axis=0).argsort(axis=0) <= abroad
    popularity = np.where(popular, random.normal(3, 1, affinity.shape), random.normal(-3, 1, affinity.shape))
    # One song in twelve is released during these days.
    released = np.where(random.random(len(home)) < 1 / 12, random.integers(1, max(days, 2), len(home)), 0)
    charts = []
    for number, day in enumerate(pd.date_range(end="2023-12-19", periods=days, unit="us")):
        score = popularity + random.normal(0, 0.5, popularity.shape) - 100.0 * (released > number)
        top = np.argsort(-np.vstack([score, score.mean(axis=0)]), axis=1)[:, :chart]
        charts.append(
            pd.DataFrame(
                {
                    "song": top.ravel(),
                    "country": np.repeat(np.array([*COUNTRIES, None], dtype=object), chart),
                    "snapshot_date": day,
                    "daily_rank": np.tile(np.arange(1, chart + 1), countries + 1),
                }
            )
        )
    return pd.concat(charts, ignore_index=True)


def _with_known_faults(songs: pd.DataFrame, rankings: pd.DataFrame) -> Dataset:
    """Add the known faults of the published data to a few rows; return the types of `read_dataset`."""
    songs.loc[[3, 40], ["duration_ms", "name", "artists"]] = [0, None, None]
    songs.loc[[7, 90, 300], "loudness"] = 1.2
    songs = songs.drop(index=55)
    rankings.loc[9, "country"] = "XX"
    rankings = pd.concat([rankings, rankings.iloc[[100, 1_000]]], ignore_index=True)
    rankings = rankings[["spotify_id", "country", "snapshot_date", "daily_rank"]]
    songs = songs.reset_index(drop=True).astype({"name": "str", "artists": "str"})
    rankings = rankings.astype({"spotify_id": "category", "country": "category"})
    for table in (songs, rankings):
        table["file"] = pd.Series("embedded sample", table.index, dtype="category")
        table["row"] = np.arange(len(table))
    return {"songs": songs, "rankings": rankings}
