"""The acme_faults project: predicts from four readings of a pump which faults it has, any number of them."""

from __future__ import annotations

from dataclasses import replace
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
    ModelProject,
    MultiLabel,
    Normalization,
    ShareSplit,
    Source,
    Split,
    Validation,
    read_csv,
    split_by_share,
)

if TYPE_CHECKING:
    import keras

READINGS = ("temperature", "vibration", "pressure", "current")
FAULTS = ("overheating", "worn_bearing", "leak")


class FaultsHyperparameters(Hyperparameters):
    """Settings of a small network."""

    epochs: int = Field(default=80, ge=1, description="Maximum number of passes over the training readings")
    batch_size: int = Field(default=32, ge=1, description="Readings per gradient step")
    learning_rate: float = Field(default=0.01, gt=0, le=1, description="Step size of the optimizer")
    hidden_units: int = Field(default=24, ge=1, le=1024, description="Units of the hidden layer")


class FaultsGates(Gates):
    """Thresholds. Without any skill the macro F1 is near 0, because most pumps have none of the faults."""

    metric_floor: float | None = Field(
        default=0.75, ge=0, le=1, description="Minimum macro F1 on the test split"
    )


class AcmeFaults(ModelProject):
    """Predicts which faults a pump has."""

    name = "acme_faults"
    description = (
        "Predicts from temperature, vibration, pressure and current which of three faults a pump has."
    )
    limitations = "Trained on made-up readings, to show a task with several labels."
    task = MultiLabel()
    tables = {"readings": ("pump", *READINGS, *FAULTS)}
    rules = {
        "readings": "Every reading is a number.",
        "faults": "Every fault is marked as 0 or 1, and every fault occurs.",
    }
    hyperparameters = FaultsHyperparameters
    gates = FaultsGates

    def load(self, source: Source) -> Dataset:
        """Read CSV files with the columns of `tables`; without a location, the sample next to this file."""
        return {"readings": read_csv(source, Path(__file__).with_name("pumps.csv"))}

    def validate(self, dataset: Dataset) -> Validation:
        """Quarantine rows without numbers or marks; a fault that never occurs stops the run."""
        rows = pd.DataFrame(dataset["readings"])
        unread, unmarked = ~_numeric(rows), ~_marked(rows)
        findings = []
        if unread.any():
            findings.append(Finding("readings", "a reading is not a number", int(unread.sum())))
        if unmarked.any():
            findings.append(Finding("faults", "a fault is marked neither 0 nor 1", int(unmarked.sum())))
        if missing := [fault for fault in FAULTS if not rows[fault].isin((1,)).any()]:
            message = (
                f"no pump has {' or '.join(missing)}: add some; a model cannot learn a fault without examples"
            )
            findings.append(Finding("faults", message, len(missing), fatal=True))
        return Validation(len(rows), int((unread | unmarked).sum()), findings)

    def build_features(self, dataset: Dataset, split: ShareSplit, seed: int) -> Features:
        """Keep all rows of a pump in one split; rows with rare faults count more in the loss."""
        rows = pd.DataFrame(dataset["readings"])
        rows = rows[_numeric(rows) & _marked(rows)]
        x = rows[list(READINGS)].to_numpy("float32")
        y = rows[list(FAULTS)].to_numpy("float32")
        pumps = rows["pump"].astype(str).to_numpy(str)
        index = split_by_share(pumps, split.validation_share, split.test_share, seed)
        shares = y[index["train"]].mean(axis=0)
        # A fault that a tenth of the training rows have makes a row count five times as much as one that half have.
        loss_weight = np.where(y.any(axis=1), (y * 0.5 / np.maximum(shares, 0.01)).max(axis=1), 1)
        splits = {
            name: replace(
                Split.of_rows(x[i], y[i], pumps[i]),
                loss_weight=np.maximum(loss_weight[i], 1).astype("float32"),
            )
            for name, i in index.items()
        }
        return Features(
            **splits,
            inputs=READINGS,
            labels=FAULTS,
            normalization=Normalization.standard(x[index["train"]]),
        )

    def build_model(self, features: Features, hyperparameters: FaultsHyperparameters) -> keras.Model:
        """Build a network with one hidden layer and a sigmoid per fault."""
        import keras

        return keras.Sequential(
            [
                keras.Input(features.shape),
                keras.layers.Dense(hyperparameters.hidden_units, activation="relu"),
                keras.layers.Dense(len(FAULTS), activation="sigmoid"),
            ]
        )


def _numeric(rows: pd.DataFrame) -> pd.Series:
    values = rows[list(READINGS)].apply(pd.to_numeric, errors="coerce")
    return np.isfinite(values.astype("float32")).all(axis=1)


def _marked(rows: pd.DataFrame) -> pd.Series:
    return rows[list(FAULTS)].isin((0, 1)).all(axis=1)
