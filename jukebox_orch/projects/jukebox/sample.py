"""The embedded sample: synthetic charts, made the same way every time, shaped like the published ones.

Every song has countries it is popular in, and sounds like them: the features are drawn around one sound per
country. A few rows have the faults known of the published data.
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
    """Make tables `songs` and `rankings` as `sources.read_dataset` returns them.

    Args:
        seed: of the only random generator.
        days: consecutive days, the last being 2023-12-19.
        chart: songs per country and day, at most 50.
    """
    random = np.random.default_rng(seed)
    own = np.repeat(np.arange(len(COUNTRIES)), 20)  # songs heard at home only
    home = np.concatenate([own, random.integers(0, len(COUNTRIES), 400)])  # and hits
    abroad = np.concatenate(
        [np.zeros(len(own)), random.geometric(0.35, 400)]
    )  # heard in so many more countries
    songs = _songs(random, home)
    rankings = _rankings(random, home, abroad, days, chart)
    rankings["spotify_id"] = songs["spotify_id"].to_numpy()[rankings.pop("song")]
    return _with_known_faults(songs, rankings)


def _songs(random: np.random.Generator, home: np.ndarray) -> pd.DataFrame:
    """Songs that sound like their home country, within the published ranges."""
    table = {
        "spotify_id": [f"synthetic{number:013d}" for number in range(len(home))],
        "name": [f"Synthetic song {number}" for number in range(len(home))],
        "artists": [f"Synthetic artist {number % 997}" for number in range(len(home))],
        "is_explicit": random.random(len(home)) < 0.1 + 0.5 * random.random(len(COUNTRIES))[home],
    }
    for feature, (mean, deviation) in _TYPICAL.items():
        sound = random.normal(0, 0.7, len(COUNTRIES))[home] + random.normal(0, 0.7, len(home))
        low, high = RANGES[feature]
        values = np.clip(mean + deviation * sound, max(low, 0) if feature == "key" else low, high)
        table[feature] = values.round().astype(int) if feature in WHOLE_NUMBERS else values.round(4)
    songs = pd.DataFrame(table)
    songs["loudness"] = songs["loudness"].clip(upper=-0.1)
    songs["duration_ms"] = songs["duration_ms"].clip(lower=40_000)
    return songs[["spotify_id", "name", "artists", *FEATURES]]


def _rankings(
    random: np.random.Generator, home: np.ndarray, abroad: np.ndarray, days: int, chart: int
) -> pd.DataFrame:
    """Daily charts of all countries and of the world; `song` is the position in the songs."""
    countries = len(COUNTRIES)
    # A song is loved at home and in the `abroad` countries that like it best.
    liking = random.random((countries, len(home)))
    liking[home, np.arange(len(home))] = 2
    loved = (-liking).argsort(axis=0).argsort(axis=0) <= abroad
    appeal = np.where(loved, random.normal(3, 1, liking.shape), random.normal(-3, 1, liking.shape))
    # One in twelve comes out during these days.
    released = np.where(random.random(len(home)) < 1 / 12, random.integers(1, max(days, 2), len(home)), 0)
    charts = []
    for number, day in enumerate(pd.date_range(end="2023-12-19", periods=days, unit="us")):
        mood = appeal + random.normal(0, 0.5, appeal.shape) - 100.0 * (released > number)
        top = np.argsort(-np.vstack([mood, mood.mean(axis=0)]), axis=1)[:, :chart]
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
    """Break a few rows the way the published data is broken; types as `read_dataset` has them."""
    songs.loc[[3, 40], ["duration_ms", "name", "artists"]] = [0, None, None]
    songs.loc[[7, 90, 300], "loudness"] = 1.2
    songs = songs.drop(index=55)
    rankings.loc[9, "country"] = "XX"
    rankings = pd.concat([rankings, rankings.iloc[[100, 1_000]]], ignore_index=True)
    rankings = rankings[["spotify_id", "country", "snapshot_date", "daily_rank"]]
    return {
        "songs": songs.reset_index(drop=True).astype({"name": "str", "artists": "str"}),
        "rankings": rankings.astype({"spotify_id": "category", "country": "category"}),
    }
