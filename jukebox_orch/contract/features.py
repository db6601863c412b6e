"""The features of a model: three numeric splits, and the constants that normalise them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Normalization:
    """Constants of `(x - offset) / scale`, which the model and its ONNX file apply.

    Attributes:
        kind: "standard": zero mean and unit variance per feature over the training split;
            "unit": a fixed range scaled to 0..1.
        offset, scale: float64 arrays that broadcast against one input of shape `x.shape[1:]`.
    """

    kind: Literal["standard", "unit"]
    offset: np.ndarray
    scale: np.ndarray

    @classmethod
    def standard(cls, x_train: np.ndarray) -> Normalization:
        """Fit mean and population standard deviation per feature; the scale of a constant feature is 1."""
        import numpy as np

        values = x_train.astype(np.float64, copy=False)
        deviation = values.std(axis=0)
        # Relative to the feature's magnitude: rounding gives a constant column a small non-zero deviation.
        constant = deviation <= 1e-12 * np.maximum(np.abs(values).max(axis=0), 1.0)
        return cls("standard", values.mean(axis=0), np.where(constant, 1.0, deviation))

    @classmethod
    def unit(cls, low: float, high: float) -> Normalization:
        """Scale the known range low..high to 0..1, for example the 0..255 of an image."""
        import numpy as np

        return cls("unit", np.float64(low), np.float64(high - low))  # pyright: ignore[reportArgumentType]

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Normalise `x` (n, …) to float32 of the same shape."""
        return ((x.astype("float64", copy=False) - self.offset) / self.scale).astype("float32")


@dataclass(frozen=True)
class Split:
    """The train, validation or test split.

    Attributes:
        x: (n, …) raw numeric model inputs as a client sends them: float32, or uint8 for images.
        y: classification: (n, classes) float32 label distributions or (n,) integer classes;
            regression: (n,) float32.
        weight: (n,) float32, number of source rows that each entry represents.
        keys: the unique values that the rows were split by (dates, songs, row numbers), as strings; no two
            splits may share one.
        slices: named subsets of the entries that evaluation scores separately, (n,) bool each.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    keys: np.ndarray
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, x: np.ndarray, y: np.ndarray, keys: np.ndarray) -> Split:
        """Build a split with one entry per source row; `keys` may repeat and be of any type."""
        import numpy as np

        return cls(x, y, np.ones(len(x), np.float32), np.unique(keys).astype("U"))

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Features:
    """The splits that a model is trained and evaluated on, with their names and constants.

    Attributes:
        train, validation, test: the splits.
        inputs: names of the model's inputs. One name per column of `x`: each column is a separate input with
            shape [batch, 1]; a single name: the whole tensor is that input.
        labels: class names in the order of the model's outputs; empty for regression.
        normalization: the constants, fitted on the training split only.
    """

    train: Split
    validation: Split
    test: Split
    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    normalization: Normalization

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one model input, without the batch dimension."""
        return self.train.x.shape[1:]

    @property
    def columns(self) -> bool:
        """Whether every column of `x` is a separate input."""
        return self.train.x.ndim == 2 and len(self.inputs) == self.train.x.shape[1]
