"""Builds splits of songs from rankings; each song has the distribution of its rows over the countries.

All rankings of a song have equal inputs, and cross-entropy is linear in the target: the mean loss over a song's
rows is the loss of the mean of their one-hot labels. So a song's rows become one entry with a label distribution
and a weight. Loss and gradients are the same as row by row, with a hundredth of the computation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from jukebox_orch.contract import Dataset, Features, InputError, Normalization, Split
from jukebox_orch.projects.jukebox.days import as_text, choose_days, listed
from jukebox_orch.projects.jukebox.rules import usability
from jukebox_orch.projects.jukebox.schema import COUNTRIES, FEATURES
from jukebox_orch.projects.jukebox.settings import JukeboxSplit


def song_features(dataset: Dataset, split: JukeboxSplit, seed: int) -> Features:
    """Quarantine, split and aggregate the rows. Entries are sorted by song, so the order of rows does not matter.

    Raises:
        InputError: the data has too few days or songs for the split.
    """
    rows, songs = _usable(dataset)
    masks = _by_date(rows, split) if split.kind == "by_date" else _by_song(rows, songs, split, seed)
    seen = np.unique(rows["song"][masks["train"][0] | masks["validation"][0]])
    splits = {
        name: _split(rows[mask], songs, keys, seen if name == "test" else None)
        for name, (mask, keys) in masks.items()
    }
    return Features(
        **splits, inputs=FEATURES, labels=COUNTRIES, normalization=Normalization.standard(splits["train"].x)
    )


def aggregate(
    song: np.ndarray, country: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aggregate rows of (song, country) to entries of (song, distribution, weight).

    Args:
        song, country: (rows,) non-negative integers.
        classes: number of countries.

    Returns:
        (n,) distinct songs, ascending; (n, classes) float32 share of each country in the song's rows;
        (n,) float32 number of the song's rows.
    """
    distinct, entry = np.unique(song, return_inverse=True)
    counts = np.bincount(entry * classes + country, minlength=len(distinct) * classes)
    counts = counts.reshape(len(distinct), classes)
    weight = counts.sum(axis=1)
    return distinct, (counts / weight[:, None]).astype(np.float32), weight.astype(np.float32)


def song_lookup(features: Features) -> np.ndarray:
    """Return (n, classes) predictions on the test split: the shares of the identical song, otherwise the prior.

    Both are computed on the training and validation splits, which a refit trains on.
    """
    seen, test = (features.train, features.validation), features.test
    x = np.concatenate([*(split.x for split in seen), test.x])
    rows = np.concatenate([split.y * split.weight[:, None] for split in seen])
    _, song = np.unique(x, axis=0, return_inverse=True)
    song = song.reshape(-1)
    counts = np.zeros((song.max() + 1, rows.shape[1]))
    np.add.at(counts, song[: len(rows)], rows)
    prior = counts.sum(axis=0)
    found = counts[song[len(rows) :]]
    found = np.where(found.sum(axis=1, keepdims=True) > 0, found, prior)
    return found / found.sum(axis=1, keepdims=True)


def _usable(dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return usable rankings as (song, country, date), and the songs sorted by id; `song` is their position."""
    result = usability(dataset)
    rankings, songs = dataset["rankings"], dataset["songs"]
    assert isinstance(rankings, pd.DataFrame)  # noqa: S101 - for the type checker
    assert isinstance(songs, pd.DataFrame)  # noqa: S101
    if not result.usable.any():
        raise InputError("table rankings: no usable rows; see the findings of the validation")
    order = np.argsort(songs["spotify_id"].to_numpy(dtype=str), kind="stable")
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    rows = pd.DataFrame(
        {
            "song": position[result.song[result.usable]],
            "country": result.country[result.usable],
            "date": rankings["snapshot_date"].to_numpy()[result.usable],
        }
    )
    return rows, songs.iloc[order].reset_index(drop=True)


Masks = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Split -> its rows (rows,) bool and its keys."""


def _by_date(rows: pd.DataFrame, split: JukeboxSplit) -> Masks:
    days = choose_days(rows["date"].to_numpy(), split.min_day_share)
    if not len(days.train):
        raise InputError(
            f"column snapshot_date: usable rankings of {len(days.rankings)} days "
            f"({listed(days.rankings.index.to_numpy(), days.rankings)}); split by_date needs at least 3, one each to "
            f"train, validate and test; to validate and test a day needs {split.min_day_share:g} "
            f"(split.min_day_share) of the usual {days.usual:,.0f} rankings: add days or use split kind by_song"
        )
    groups = {"train": days.train[-split.train_days :], "validation": days.validation, "test": days.test}
    return {name: (rows["date"].isin(group).to_numpy(), as_text(group)) for name, group in groups.items()}


def _by_song(rows: pd.DataFrame, songs: pd.DataFrame, split: JukeboxSplit, seed: int) -> Masks:
    """Split by a hash of seed and song id, so that a song stays in its split when data is added."""
    present = np.unique(rows["song"])
    ids = songs["spotify_id"].to_numpy(dtype=object)[present]
    hashed = pd.util.hash_array(ids, hash_key=f"{seed:016d}"[-16:], categorize=False)
    position = hashed.astype(np.float64) / 2.0**64
    held_out = split.test_share + split.validation_share
    groups = {
        "train": position >= held_out,
        "validation": (position >= split.test_share) & (position < held_out),
        "test": position < split.test_share,
    }
    for name, chosen in groups.items():
        if not chosen.any():
            raise InputError(
                f"column spotify_id: {len(present)} usable songs leave none for {name} in split by_song: "
                "add songs or raise the shares"
            )
    return {
        name: (rows["song"].isin(present[chosen]).to_numpy(), np.sort(ids[chosen].astype(str)))
        for name, chosen in groups.items()
    }


def _split(rows: pd.DataFrame, songs: pd.DataFrame, keys: np.ndarray, seen: np.ndarray | None) -> Split:
    entries, y, weight = aggregate(rows["song"].to_numpy(), rows["country"].to_numpy(), len(COUNTRIES))
    x = songs.loc[entries, list(FEATURES)].to_numpy(dtype=np.float32)
    slices = {}
    if seen is not None:
        known = np.isin(entries, seen)
        slices = {n: m for n, m in {"known_songs": known, "unseen_songs": ~known}.items() if m.any()}
    return Split(x=x, y=y, weight=weight, keys=keys, slices=slices)
