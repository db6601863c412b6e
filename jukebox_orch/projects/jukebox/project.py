"""The jukebox project: predicts in which countries' charts a song is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jukebox_orch.contract import (
    Classification,
    Dataset,
    Features,
    ModelProject,
    Validation,
)
from jukebox_orch.projects.jukebox.schema import COUNTRIES, FEATURES, RANKING_COLUMNS, RANKS, SONG_COLUMNS
from jukebox_orch.projects.jukebox.settings import (
    JukeboxGates,
    JukeboxHyperparameters,
    JukeboxSource,
    JukeboxSplit,
)

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd


class Jukebox(ModelProject):
    """Predicts the country of a chart entry from 13 audio features of the song."""

    name = "jukebox"
    description = "Predicts from a song's audio features which of 72 countries' daily top 50 it is in."
    limitations = (
        "A song is in many charts at once: the probabilities are its shares of them, and the most likely "
        "country is correct for about half of the chart entries at best. Accuracy is much lower for songs that "
        "have not been in any chart yet. The charts are those of one streaming service and do not represent a "
        "country's population."
    )
    owners = ("team:jukebox",)
    task = Classification()
    tables = {"songs": SONG_COLUMNS, "rankings": RANKING_COLUMNS}  # noqa: RUF012
    rules = {  # noqa: RUF012
        "schema": "Both tables have all their columns; one row per song, one ranking per song, country and day",
        "types": "Features are numbers and snapshot_date is a date; none is missing",
        "ranges": f"Features are finite and in their documented ranges; daily_rank is {RANKS[0]} to {RANKS[1]}; "
        "no day at the end has only a few rankings",
        "join_completeness": "Every ranking has a song with usable properties",
        "label_coverage": f"Every country is one of the {len(COUNTRIES)} published charts; at least two have rows",
    }
    source = JukeboxSource
    split = JukeboxSplit
    hyperparameters = JukeboxHyperparameters
    gates = JukeboxGates

    def load(self, source: JukeboxSource) -> Dataset:
        """Read the tables `songs` and `rankings`; without a location, generate the embedded sample."""
        from jukebox_orch.projects.jukebox import sample, sources

        return sources.read_dataset(source) if source.location or source.files else sample.generate()

    def validate(self, dataset: Dataset) -> Validation:
        """Validate the rankings of the countries' charts and their songs."""
        from jukebox_orch.projects.jukebox.rules import validate

        return validate(dataset)

    def build_features(self, dataset: Dataset, split: JukeboxSplit, seed: int) -> Features:
        """Build one entry per song and split: 13 raw features, shares of 72 countries, number of rankings."""
        from jukebox_orch.projects.jukebox.features import song_features

        return song_features(dataset, split, seed)

    def build_model(self, features: Features, hyperparameters: JukeboxHyperparameters) -> keras.Model:
        """Build dense hidden layers and a softmax over the countries."""
        import keras

        hidden = [
            keras.layers.Dense(hyperparameters.hidden_units, activation="relu")
            for _ in range(hyperparameters.hidden_layers)
        ]
        output = keras.layers.Dense(len(features.labels), activation="softmax")
        return keras.Sequential([keras.Input(features.shape), *hidden, output])

    def optimizer(self, hyperparameters: JukeboxHyperparameters, steps: int) -> keras.optimizers.Optimizer:
        """Return Adam with cosine decay: small final steps make the predicted shares more accurate."""
        import keras

        decay = keras.optimizers.schedules.CosineDecay(hyperparameters.learning_rate, steps)
        return keras.optimizers.Adam(decay)  # pyright: ignore[reportArgumentType] - a schedule is documented

    def drift_table(self, dataset: Dataset) -> pd.DataFrame:
        """Return the features of the songs that are in a chart, one row per song."""
        import pandas as pd

        songs, rankings = dataset["songs"], dataset["rankings"]
        assert isinstance(songs, pd.DataFrame)  # noqa: S101
        assert isinstance(rankings, pd.DataFrame)  # noqa: S101
        return songs.loc[songs["spotify_id"].isin(rankings["spotify_id"].unique()), list(FEATURES)]

    def baselines(self, features: Features) -> Mapping[str, np.ndarray]:
        """Return the predictions of a lookup table of the songs in training and validation."""
        from jukebox_orch.projects.jukebox.features import song_lookup

        return {"song_lookup": song_lookup(features)}
