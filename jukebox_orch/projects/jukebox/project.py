"""The jukebox project: which country's chart is this song in?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field

from jukebox_orch.project import (
    Dataset,
    Features,
    Gates,
    Hyperparameters,
    ModelProject,
    Source,
    Validation,
)
from jukebox_orch.projects.jukebox import rules, sample, sources
from jukebox_orch.projects.jukebox.features import JukeboxSplit, song_features, song_lookup
from jukebox_orch.projects.jukebox.schema import FEATURES, RANKING_COLUMNS, SONG_COLUMNS
from jukebox_orch.tasks import Classification

if TYPE_CHECKING:
    import keras


class JukeboxHyperparameters(Hyperparameters):
    """A dense network, and how long and how fast it learns."""

    epochs: int = Field(default=80, ge=1, le=10_000, description="Passes over the training songs at most")
    batch_size: int = Field(default=128, ge=1, le=65_536, description="Songs per gradient step")
    learning_rate: float = Field(
        default=5e-3, gt=0, le=1, description="Adam's step size at the start; falls to 0 along a cosine"
    )
    early_stopping_patience: int = Field(
        default=15,
        ge=0,
        le=10_000,
        description="Stop after this many epochs without a better validation loss; 0: never",
    )
    hidden_layers: int = Field(
        default=2, ge=1, le=8, description="Dense layers between features and countries"
    )
    hidden_units: int = Field(default=256, ge=8, le=4096, description="Units of each of them")


class JukeboxGates(Gates):
    """The floor is for the next day (split by_date); songs never seen (by_song) reach about 0.09."""

    metric_floor: float | None = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Evaluation fails when the accuracy on the test split is below this; 0.05 suits split by_song",
    )


class Jukebox(ModelProject):
    """Country of a song's chart from 13 features of its sound."""

    name = "jukebox"
    description = "Tells from a song's sound which of 72 countries' daily top 50 it is in."
    limitations = (
        "One song is in many charts at once: the probabilities are its shares of them, and the most likely "
        "country is right for about half of the chart entries at best. Songs that no chart has held yet are "
        "guessed far worse than known ones. The charts are those of one streaming service and say nothing about "
        "a country's people."
    )
    owners = ("team:jukebox",)
    task = Classification()
    tables = {"songs": SONG_COLUMNS, "rankings": RANKING_COLUMNS}  # noqa: RUF012
    rules = rules.RULES
    source = Source
    split = JukeboxSplit
    hyperparameters = JukeboxHyperparameters
    gates = JukeboxGates

    def load(self, source: Source) -> Dataset:
        """Read the tables `songs` and `rankings`; without a location, make the embedded sample."""
        return sources.read_dataset(source) if source.location or source.files else sample.generate()

    def validate(self, dataset: Dataset) -> Validation:
        """Judge the rankings of the countries' charts and the songs they name."""
        return rules.validate(dataset)

    def build_features(self, dataset: Dataset, split: JukeboxSplit, seed: int) -> Features:
        """One entry per song and split: 13 raw features, shares of 72 countries, number of rankings."""
        return song_features(dataset, split, seed)

    def build_model(self, features: Features, hyperparameters: JukeboxHyperparameters) -> keras.Model:
        """Dense layers over all features at once."""
        import keras

        hidden = [
            keras.layers.Dense(hyperparameters.hidden_units, activation="relu")
            for _ in range(hyperparameters.hidden_layers)
        ]
        output = keras.layers.Dense(len(features.labels), activation="softmax")
        return keras.Sequential([keras.Input(features.shape), *hidden, output])

    def optimizer(self, hyperparameters: JukeboxHyperparameters, steps: int) -> keras.optimizers.Optimizer:
        """Adam; large steps first, to find the song, small ones last, to get its shares right."""
        import keras

        decay = keras.optimizers.schedules.CosineDecay(hyperparameters.learning_rate, steps)
        return keras.optimizers.Adam(decay)  # pyright: ignore[reportArgumentType] - a schedule is documented

    def monitored(self, dataset: Dataset) -> pd.DataFrame:
        """The features of the songs that are in a chart, one row per song."""
        songs, rankings = dataset["songs"], dataset["rankings"]
        assert isinstance(songs, pd.DataFrame)  # noqa: S101
        assert isinstance(rankings, pd.DataFrame)  # noqa: S101
        return songs.loc[songs["spotify_id"].isin(rankings["spotify_id"]), list(FEATURES)]

    def baselines(self, features: Features) -> Mapping[str, np.ndarray]:
        """What a table of the training songs would answer."""
        return {"song_lookup": song_lookup(features)}
