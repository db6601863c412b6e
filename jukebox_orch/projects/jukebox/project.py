"""The jukebox project: which country's chart is this song in?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from jukebox_orch.contract.project import (
    Dataset,
    Features,
    Gates,
    Hyperparameters,
    ModelProject,
    Settings,
    Source,
    Validation,
)
from jukebox_orch.contract.tasks import Classification
from jukebox_orch.projects.jukebox.schema import COUNTRIES, FEATURES, RANKING_COLUMNS, RANKS, SONG_COLUMNS

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd


class JukeboxSplit(Settings):
    """How rankings are split. Never row by row: a song's rows would sit in training and test alike, and the
    test would reward memory.
    """

    kind: Literal["by_date", "by_song"] = Field(
        default="by_date",
        description="by_date: the last day is the test, the day before validates, both with songs known from "
        "training, as in use; by_song: no song is in two splits, as for songs never seen",
    )
    train_days: int = Field(
        default=28,
        ge=0,
        le=10_000,
        description="by_date: train on so many days before the validation day, 0: on all; older charts teach "
        "songs that have gone since",
    )
    validation_share: float = Field(
        default=0.15, gt=0, lt=0.5, description="by_song: share of songs that validate"
    )
    test_share: float = Field(default=0.15, gt=0, lt=0.5, description="by_song: share of songs that test")

    @model_validator(mode="after")
    def _something_to_train_on(self) -> JukeboxSplit:
        if self.validation_share + self.test_share > 0.8:
            raise ValueError("validation_share and test_share leave less than 0.2 to train on; lower them")
        return self


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
    refit: bool = Field(
        default=True,
        description="Then train anew with the validation songs too, the freshest day, for as many epochs as were best",
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
    rules = {  # noqa: RUF012
        "schema": "Both tables have all their columns; one row per song, one ranking per song, country and day",
        "types": "Features are numbers and snapshot_date is a date; none is missing",
        "ranges": f"Features are finite and in their documented ranges; daily_rank is {RANKS[0]} to {RANKS[1]}",
        "join_completeness": "Every ranking has a song with usable properties",
        "label_coverage": f"Every country is one of the {len(COUNTRIES)} published charts; at least two have rows",
    }
    source = Source
    split = JukeboxSplit
    hyperparameters = JukeboxHyperparameters
    gates = JukeboxGates

    def load(self, source: Source) -> Dataset:
        """Read the tables `songs` and `rankings`; without a location, make the embedded sample."""
        from jukebox_orch.projects.jukebox import sample, sources

        return sources.read_dataset(source) if source.location or source.files else sample.generate()

    def validate(self, dataset: Dataset) -> Validation:
        """Judge the rankings of the countries' charts and the songs they name."""
        from jukebox_orch.projects.jukebox.rules import validate

        return validate(dataset)

    def build_features(self, dataset: Dataset, split: JukeboxSplit, seed: int) -> Features:
        """One entry per song and split: 13 raw features, shares of 72 countries, number of rankings."""
        from jukebox_orch.projects.jukebox.features import song_features

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
        import pandas as pd

        songs, rankings = dataset["songs"], dataset["rankings"]
        assert isinstance(songs, pd.DataFrame)  # noqa: S101
        assert isinstance(rankings, pd.DataFrame)  # noqa: S101
        return songs.loc[songs["spotify_id"].isin(rankings["spotify_id"].unique()), list(FEATURES)]

    def baselines(self, features: Features) -> Mapping[str, np.ndarray]:
        """What a table of the songs before the test would answer."""
        from jukebox_orch.projects.jukebox.features import song_lookup

        return {"song_lookup": song_lookup(features)}
