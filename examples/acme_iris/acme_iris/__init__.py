"""The acme_iris project: predicts the species of an iris from four measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from pydantic import Field

from jukebox_orch.contract import (
    Classification,
    Dataset,
    Features,
    Finding,
    Gates,
    Hyperparameters,
    ModelProject,
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

MEASUREMENTS = ("sepal_length", "sepal_width", "petal_length", "petal_width")
SPECIES = ("setosa", "versicolor", "virginica")


class IrisHyperparameters(Hyperparameters):
    """Settings of a small network; with little data, training needs many short epochs."""

    epochs: int = Field(default=200, ge=1, description="Maximum number of passes over the training flowers")
    batch_size: int = Field(default=16, ge=1, description="Flowers per gradient step")
    learning_rate: float = Field(default=0.01, gt=0, le=1, description="Step size of the optimizer")
    early_stopping_patience: int = Field(
        default=30, ge=0, description="Stop after this many epochs without progress; 0: never"
    )
    hidden_units: int = Field(default=16, ge=1, le=1024, description="Units of the hidden layer")


class IrisGates(Gates):
    """Thresholds. Always predicting one species would be correct for a third of the flowers."""

    metric_floor: float | None = Field(
        default=0.85, ge=0, le=1, description="Minimum accuracy on the test split"
    )


class AcmeIris(ModelProject):
    """Predicts the species of an iris from the length and width of its sepals and petals."""

    name = "acme_iris"
    description = "Classifies three species of iris from four measurements in centimetres."
    limitations = (
        "Knows three species from one peninsula, measured in 1935; predicts one of them for any flower."
    )
    task = Classification()
    tables = {"flowers": (*MEASUREMENTS, "species")}
    rules = {
        "measurements": "Every measurement is a length between 0 and 20 centimetres.",
        "species": "Every flower is of a known species, and every species occurs.",
    }
    hyperparameters = IrisHyperparameters
    gates = IrisGates

    def load(self, source: Source) -> Dataset:
        """Read CSV files with the columns of `tables`; without a location, Fisher's 150 flowers."""
        return {"flowers": read_csv(source, Path(__file__).with_name("iris.csv"))}

    def validate(self, dataset: Dataset) -> Validation:
        """Quarantine flowers with impossible measurements; an unknown or missing species stops the run."""
        flowers = pd.DataFrame(dataset["flowers"])
        impossible, unknown = ~_measured(flowers), ~flowers["species"].isin(SPECIES)
        findings = []
        if impossible.any():
            findings.append(
                Finding(
                    "measurements",
                    "not a length between 0 and 20 cm: measure again",
                    int(impossible.sum()),
                    examples=flowers[impossible].head().to_dict("records"),  # pyright: ignore[reportArgumentType]
                )
            )
        if unknown.any():
            names = ", ".join(map(str, flowers.loc[unknown, "species"].unique()[:5]))
            message = f"unknown species {names}; known species: {', '.join(SPECIES)}"
            findings.append(Finding("species", message, int(unknown.sum()), fatal=True))
        if missing := sorted(set(SPECIES) - set(flowers["species"])):
            message = f"no flowers of {', '.join(missing)}: add some; a model cannot learn a species without examples"
            findings.append(Finding("species", message, len(missing), fatal=True))
        return Validation(len(flowers), int((impossible | unknown).sum()), findings)

    def build_features(self, dataset: Dataset, split: ShareSplit, seed: int) -> Features:
        """Use the four measurements unchanged; equal flowers stay in one split."""
        flowers = pd.DataFrame(dataset["flowers"])
        flowers = flowers[_measured(flowers) & flowers["species"].isin(SPECIES)]
        x = flowers[list(MEASUREMENTS)].to_numpy("float32")
        y = flowers["species"].map(SPECIES.index).to_numpy("int64")
        keys = flowers.astype(str).agg(" ".join, axis=1).to_numpy(str)
        rows = split_by_share(keys, split.validation_share, split.test_share, seed, strata=y)
        return Features(
            **{name: Split.of_rows(x[index], y[index], keys[index]) for name, index in rows.items()},
            inputs=MEASUREMENTS,
            labels=SPECIES,
            normalization=Normalization.standard(x[rows["train"]]),
        )

    def build_model(self, features: Features, hyperparameters: IrisHyperparameters) -> keras.Model:
        """Build a network with one hidden layer."""
        import keras

        return keras.Sequential(
            [
                keras.Input(features.shape),
                keras.layers.Dense(hyperparameters.hidden_units, activation="relu"),
                keras.layers.Dense(len(features.labels), activation="softmax"),
            ]
        )


def _measured(flowers: pd.DataFrame) -> pd.Series:
    lengths = flowers[list(MEASUREMENTS)].apply(pd.to_numeric, errors="coerce")
    return ((lengths > 0) & (lengths <= 20)).all(axis=1)
