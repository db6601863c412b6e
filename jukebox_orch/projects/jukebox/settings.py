"""What a user can set for the jukebox: how rankings are split, the network and its training, the thresholds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from jukebox_orch.contract import Gates, Hyperparameters, Settings


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
