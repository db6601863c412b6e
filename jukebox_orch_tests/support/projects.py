"""Small projects for tests: a classification and a regression on generated tables, trained in a second."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import Field

from jukebox_orch.contract import (
    Classification,
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
    Validation,
    read_bytes,
    split_by_share,
)

if TYPE_CHECKING:
    import keras


class ShortTraining(Hyperparameters):
    """Settings for a few hundred rows."""

    epochs: int = Field(default=30, ge=1, description="Passes over the training split at most")
    batch_size: int = Field(default=32, ge=1, description="Rows per gradient step")
    learning_rate: float = Field(default=0.02, gt=0, description="Step size of the optimizer")


class GeneratedSource(Source):
    """A CSV file, or generated rows: these are not a sample, so that models of tests have their plain names."""

    @property
    def is_sample(self) -> bool:
        return False

    @property
    def dataset_name(self) -> str:
        return super().dataset_name if self.location or self.files else "generated"


class TableProject(ModelProject):
    """One table `rows` of numeric columns and a target, from a CSV file or generated."""

    columns: tuple[str, ...]
    target: str
    rules = {"numbers": "Every input is a finite number.", "target": "Every row has a known target."}
    source = GeneratedSource
    hyperparameters = ShortTraining

    def load(self, source: Source) -> Dataset:
        if not source.location and not source.files:
            return {"rows": self.generate()}
        from jukebox_orch.contract import SourceFile

        tables = []
        for file in source.files or [SourceFile(url=source.location)]:
            try:
                tables.append(pd.read_csv(io.BytesIO(read_bytes(file))))
            except ValueError as error:
                raise InputError(f"{file.url}: {error}") from error
        return {"rows": pd.concat(tables, ignore_index=True)}

    def generate(self) -> pd.DataFrame:
        raise NotImplementedError

    def validate(self, dataset: Dataset) -> Validation:
        rows = pd.DataFrame(dataset["rows"])
        bad, unknown = ~self.numeric(rows), ~self.known(rows)
        findings = [
            Finding(rule, message, int(wrong.sum()), rule == "target")
            for rule, message, wrong in (
                ("numbers", "not a finite number", bad),
                ("target", "missing or unknown target", unknown),
            )
            if wrong.any()
        ]
        return Validation(len(rows), int((bad | unknown).sum()), findings)

    def numeric(self, rows: pd.DataFrame) -> pd.Series:
        numbers = rows[list(self.columns)].apply(pd.to_numeric, errors="coerce")
        return numbers.map(np.isfinite).all(axis=1)

    def known(self, rows: pd.DataFrame) -> pd.Series:
        return pd.to_numeric(rows[self.target], errors="coerce").notna()

    def build_features(self, dataset: Dataset, split: ShareSplit, seed: int) -> Features:
        rows = pd.DataFrame(dataset["rows"])
        rows = rows[self.numeric(rows) & self.known(rows)]
        x, y = rows[list(self.columns)].to_numpy(np.float32), self.numbers(rows[self.target])
        keys = np.arange(len(rows))
        splits = split_by_share(keys, split.validation_share, split.test_share, seed)
        return Features(
            **{name: Split.of_rows(x[index], y[index], keys[index]) for name, index in splits.items()},
            inputs=self.columns,
            labels=self.labels(),
            normalization=Normalization.standard(x[splits["train"]]),
        )

    def numbers(self, target: pd.Series) -> np.ndarray:
        return target.to_numpy(np.float32)

    def labels(self) -> tuple[str, ...]:
        return ()

    def build_model(self, features: Features, hyperparameters: Hyperparameters) -> keras.Model:
        import keras

        last = (
            [keras.layers.Dense(len(features.labels), activation="softmax")]
            if features.labels
            else [
                keras.layers.Dense(1),
                # Layers give numbers around 1, so scale them to the target.
                keras.layers.Rescaling(float(features.train.y.std()), float(features.train.y.mean())),
            ]
        )
        hidden = keras.layers.Dense(16, activation="relu")
        return keras.Sequential([keras.Input(features.shape), hidden, *last])


class BlobGates(Gates):
    """Random predictions have an accuracy of a third."""

    metric_floor: float | None = Field(default=0.8, description="Lowest accuracy on the test rows")


class Blobs(TableProject):
    """Classify points into three clusters."""

    name = "blobs"
    description = "Classifies points into three clusters."
    task = Classification()
    columns = ("height", "width", "depth")
    target = "color"
    tables = {"rows": (*columns, target)}
    gates = BlobGates
    colors = ("red", "green", "blue")

    def generate(self) -> pd.DataFrame:
        random = np.random.default_rng(7)
        label = np.repeat([0, 1, 2], 100)
        points = random.normal(size=(300, 3)) + 3 * np.eye(3)[label]
        colors = [self.colors[i] for i in label]
        return pd.DataFrame(points, columns=list(self.columns)).assign(color=colors)

    def known(self, rows: pd.DataFrame) -> pd.Series:
        return rows[self.target].isin(self.colors)

    def numbers(self, target: pd.Series) -> np.ndarray:
        return target.map(self.colors.index).to_numpy(np.int64)

    def labels(self) -> tuple[str, ...]:
        return self.colors


class RentGates(Gates):
    """The error of the mean is about 300."""

    metric_floor: float | None = Field(
        default=150.0, description="Highest root mean squared error on the test rows"
    )


class Rents(TableProject):
    """Estimate the rent of a flat from its size, age and floor: a regression."""

    name = "rents"
    description = "Estimates the monthly rent of a flat."
    task = Regression()
    columns = ("size", "age", "floor")
    target = "rent"
    tables = {"rows": (*columns, target)}
    gates = RentGates

    def generate(self) -> pd.DataFrame:
        random = np.random.default_rng(8)
        size, age, floor = (
            random.uniform(20, 120, 400),
            random.uniform(0, 80, 400),
            random.integers(0, 9, 400),
        )
        rent = 10 * size - 3 * age + 20 * floor + random.normal(scale=30, size=400)
        return pd.DataFrame({"size": size, "age": age, "floor": floor, "rent": rent})
