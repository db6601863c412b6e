"""The acme_demand project: predicts the next three hours of a demand from the last two days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field

from jukebox_orch.contract import (
    Dataset,
    Features,
    Finding,
    Gates,
    Hyperparameters,
    InputError,
    ModelProject,
    Normalization,
    Regression,
    ShareSplit,
    Source,
    Split,
    Tensor,
    Validation,
    read_csv,
    split_by_time,
)

if TYPE_CHECKING:
    import keras

PAST = 48
"""Hours that the model sees."""
AHEAD = ("in 1 hour", "in 2 hours", "in 3 hours")
"""Hours that the model predicts."""
_HOUR = np.timedelta64(1, "h")


class DemandHyperparameters(Hyperparameters):
    """Settings of a small recurrent network."""

    epochs: int = Field(default=40, ge=1, description="Maximum number of passes over the training windows")
    batch_size: int = Field(default=32, ge=1, description="Windows per gradient step")
    learning_rate: float = Field(default=0.005, gt=0, le=1, description="Step size of the optimizer")
    units: int = Field(default=32, ge=1, le=1024, description="Units of the recurrent layer")


class DemandGates(Gates):
    """Thresholds. The same hours of the day before are off by 59 MW in the sample."""

    metric_floor: float | None = Field(
        default=40.0, gt=0, description="Largest root mean squared error on the test split, in MW"
    )


class AcmeDemand(ModelProject):
    """Predicts electricity demand."""

    name = "acme_demand"
    description = "Predicts the electricity demand of the next three hours from that of the last 48 hours."
    limitations = "Trained on a made-up series, to show windows of a series and a split by time."
    task = Regression()
    tables = {"demand": ("hour", "demand")}
    rules = {
        "hours": "Every hour is a full hour and occurs once.",
        "demand": "Every demand is a number of MW, 0 or above.",
    }
    hyperparameters = DemandHyperparameters
    gates = DemandGates

    def load(self, source: Source) -> Dataset:
        """Read CSV files with the columns of `tables`; without a location, the sample next to this file."""
        return {"demand": read_csv(source, Path(__file__).with_name("demand.csv"))}

    def validate(self, dataset: Dataset) -> Validation:
        """Quarantine hours that cannot be read or repeat, and demands that are no number."""
        rows = pd.DataFrame(dataset["demand"])
        hours = _hours(rows)
        wrong = {
            "hours": hours.isna() | hours.duplicated(),
            "demand": ~_usable(rows["demand"]),
        }
        texts = {"hours": "not a full hour, or one that occurs twice", "demand": "not a number of 0 or above"}
        findings = [Finding(rule, texts[rule], int(bad.sum())) for rule, bad in wrong.items() if bad.any()]
        return Validation(len(rows), int((wrong["hours"] | wrong["demand"]).sum()), findings)

    def build_features(self, dataset: Dataset, split: ShareSplit, seed: int) -> Features:
        """Cut windows without missing hours; windows of one split do not reach into another."""
        rows = pd.DataFrame(dataset["demand"])
        hours = _hours(rows)
        series = pd.Series(pd.to_numeric(rows["demand"], errors="coerce").to_numpy("float32"), index=hours)
        series = series[series.index.notna() & ~series.index.duplicated() & _usable(series).to_numpy()]
        if series.empty:
            raise InputError("demand: no usable hour; see the checks of validated_data")
        series = series.sort_index().asfreq("h")
        length = PAST + len(AHEAD)
        if len(series) < length:
            raise InputError(f"demand: {len(series)} hours are too few: a window has {length}")
        windows = np.lib.stride_tricks.sliding_window_view(series.to_numpy(), length)
        complete = np.isfinite(windows).all(axis=1)
        windows = windows[complete].astype("float32")
        # The time of a window is the first hour that it predicts.
        times = series.index.to_numpy("datetime64[h]")[PAST : PAST + len(complete)][complete]
        index = split_by_time(times, split.validation_share, split.test_share, gap=length * _HOUR)
        x, y = windows[:, :PAST, None], windows[:, PAST:]
        splits = {
            name: Split(x[i], y[i], np.ones(len(i), "float32"), times[i].astype(str), times=times[i])
            for name, i in index.items()
        }
        normalization = Normalization.standard(x[index["train"]], axis=-1)
        return Features(**splits, inputs=(Tensor("past", normalization),), labels=AHEAD)

    def build_model(self, features: Features, hyperparameters: DemandHyperparameters) -> keras.Model:
        """Build a recurrent network whose output begins near the mean of the training demand."""
        import keras

        y = features.train.y
        return keras.Sequential(
            [
                keras.Input((PAST, 1)),
                keras.layers.GRU(hyperparameters.units),
                keras.layers.Dense(len(AHEAD)),
                keras.layers.Rescaling(float(y.std()), float(y.mean())),
            ]
        )

    def loss(self, features: Features, hyperparameters: DemandHyperparameters) -> keras.losses.Loss:
        """Count large errors linearly, so that single outliers do not rule the fit."""
        import keras

        return keras.losses.Huber(delta=float(features.train.y.std()) / 2)

    def callbacks(self, hyperparameters: DemandHyperparameters) -> Sequence[keras.callbacks.Callback]:
        """Halve the learning rate when the validation loss stops falling."""
        import keras

        return [keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=3)]

    def baselines(self, features: Features) -> Mapping[str, np.ndarray]:
        """Return the demand of the same hours on the day before."""
        return {"same_hours_yesterday": features.test.x[:, PAST - 24 : PAST - 24 + len(AHEAD), 0]}


def _hours(rows: pd.DataFrame) -> pd.Series:
    hours = pd.to_datetime(rows["hour"], format="ISO8601", errors="coerce")
    return hours.where(hours == hours.dt.floor("h"))


def _usable(demand: pd.Series) -> pd.Series:
    values = pd.to_numeric(demand, errors="coerce")
    return (values >= 0) & (values < np.inf)
