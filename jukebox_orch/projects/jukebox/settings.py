"""Settings of the jukebox: splits, hyperparameters and thresholds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from jukebox_orch.contract import Epochs, Gates, Hyperparameters, Settings, Source


class JukeboxSource(Source):
    """Songs and rankings as Parquet or CSV files."""

    date_format: Literal["auto", "month_first", "day_first"] = Field(
        default="auto",
        description="How slash dates such as 2/12/2025 are read. auto: as the other dates of the file show; the run "
        "stops if they do not. month_first: MM/DD/YYYY; day_first: DD/MM/YYYY. Dates as YYYY-MM-DD are not affected",
    )


class JukeboxSplit(Settings):
    """How rankings are split. Not row by row: with rows of one song in both training and test, the test would
    measure memorization.
    """

    kind: Literal["by_date", "by_song"] = Field(
        default="by_date",
        description="by_date: test on the last full day, validate on the one before, both with songs known from "
        "training, as in production; by_song: no song is in two splits, to test on unseen songs",
    )
    train_days: int = Field(
        default=28,
        ge=0,
        le=10_000,
        description="by_date: number of training days before the validation day, 0: all; older charts contain "
        "songs that no longer chart",
    )
    min_day_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="by_date: a day with fewer than this share of the usual number of rankings is not a test or "
        "validation day, for example a single ranking with a mistyped date; 0: every day may be",
    )
    validation_share: float = Field(
        default=0.15, gt=0, lt=0.5, description="by_song: share of songs in the validation split"
    )
    test_share: float = Field(
        default=0.15, gt=0, lt=0.5, description="by_song: share of songs in the test split"
    )

    @model_validator(mode="after")
    def _check_shares(self) -> JukeboxSplit:
        if self.validation_share + self.test_share > 0.8:
            raise ValueError("validation_share and test_share leave less than 0.2 to train on; lower them")
        return self


class JukeboxHyperparameters(Hyperparameters):
    """Settings of the dense network and its training."""

    epochs: Epochs = Field(default=80, description="Maximum number of passes over the training songs")
    batch_size: int = Field(default=128, ge=1, le=65_536, description="Songs per gradient step")
    learning_rate: float = Field(
        default=5e-3, gt=0, le=1, description="Initial step size of Adam; falls to 0 along a cosine"
    )
    early_stopping_patience: int = Field(
        default=15,
        ge=0,
        le=10_000,
        description="Stop after this many epochs without a better validation loss; 0: never",
    )
    refit: bool = Field(
        default=True,
        description="Train again with the validation songs too (the latest day), for the best number of epochs",
    )
    hidden_layers: int = Field(default=2, ge=1, le=8, description="Number of hidden dense layers")
    hidden_units: int = Field(default=256, ge=8, le=4096, description="Units of each hidden layer")


class JukeboxGates(Gates):
    """Thresholds. The default floor is for split by_date; with by_song, accuracy is about 0.09."""

    metric_floor: float | None = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Evaluation fails when the accuracy on the test split is below this; 0.05 suits split by_song",
    )
