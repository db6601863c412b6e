"""The acme_pairs project: predicts from two handwritten digits which one is larger."""

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
    ShareSplit,
    Source,
    SourceFile,
    Split,
    Tensor,
    Validation,
    read_bytes,
    split_by_share,
)

if TYPE_CHECKING:
    import keras

SIZE = 8
"""Height and width of a digit, in pixels."""
BRIGHTEST = 16
"""Value of a white pixel; a black one is 0."""
LABELS = ("left is larger", "both are equal", "right is larger")
_PARTNERS = 4
"""Pairs that each digit is the left one of."""


class PairsHyperparameters(Hyperparameters):
    """Settings of a network that reads both digits with the same layers."""

    epochs: int = Field(default=30, ge=1, description="Maximum number of passes over the training pairs")
    batch_size: int = Field(default=64, ge=1, description="Pairs per gradient step")
    learning_rate: float = Field(default=0.003, gt=0, le=1, description="Step size of the optimizer")
    units: int = Field(default=32, ge=1, le=1024, description="Numbers that describe a digit")


class PairsGates(Gates):
    """Thresholds. Always the same answer would be correct for less than half of the pairs."""

    metric_floor: float | None = Field(
        default=0.8, ge=0, le=1, description="Minimum accuracy on the test split"
    )


class AcmePairs(ModelProject):
    """Predicts which of two handwritten digits is larger."""

    name = "acme_pairs"
    description = (
        "Compares two handwritten digits: the left one is larger, both are equal, or the right one is."
    )
    limitations = "Knows single digits of 8 x 8 pixels, written by 13 people."
    task = Classification()
    tables = {"digits": (), "values": ("value",)}
    rules = {
        "digits": "Digits are arrays of 8 x 8 numbers from 0 to 16.",
        "values": "Every digit has a value from 0 to 9.",
    }
    hyperparameters = PairsHyperparameters
    gates = PairsGates
    parity_tolerance = 1e-4

    def load(self, source: Source) -> Dataset:
        """Read .npz files with `digits` (n, 8, 8) and `values` (n,); without a location, scikit-learn's digits."""
        files = source.files or ([SourceFile(url=source.location)] if source.location else [])
        parts = [_read(file) for file in files] or [_sample()]
        return {
            "digits": np.concatenate([digits for digits, _ in parts]),
            "values": pd.DataFrame({"value": np.concatenate([values for _, values in parts])}),
        }

    def validate(self, dataset: Dataset) -> Validation:
        """Stop at digits of another size; quarantine unknown values."""
        digits, values = np.asarray(dataset["digits"]), pd.DataFrame(dataset["values"])["value"]
        if problem := _problem(digits, len(values)):
            return Validation(len(values), 0, [Finding("digits", problem, 1, fatal=True)])
        unknown = ~values.isin(range(10))
        found = [Finding("values", "not 0 to 9: left out", int(unknown.sum()))] if unknown.any() else []
        return Validation(len(values), int(unknown.sum()), found)

    def build_features(self, dataset: Dataset, split: ShareSplit, seed: int) -> Features:
        """Split the digits first, then pair those of a split: no digit of the test split was ever trained on."""
        digits, values = np.asarray(dataset["digits"]), pd.DataFrame(dataset["values"])["value"]
        if problem := _problem(digits, len(values)):
            raise InputError(f"digits: {problem}")
        known = values.isin(range(10)).to_numpy()
        x, value = digits[known].astype("float32")[..., None], values[known].to_numpy("int64")
        keys = np.array([digit.tobytes().hex() for digit in x], dtype=str)
        index = split_by_share(keys, split.validation_share, split.test_share, seed, strata=value)
        random = np.random.default_rng(seed)
        splits = {}
        for name, rows in index.items():
            left = np.repeat(rows, _PARTNERS)
            # One partner of the same value for each digit, else equal pairs would be rare.
            same = [random.choice(rows[value[rows] == value[row]]) for row in rows]
            right = np.column_stack([same, random.choice(rows, (len(rows), _PARTNERS - 1))]).ravel()
            y = 1 + np.sign(value[right] - value[left])
            splits[name] = Split.of_rows({"left": x[left], "right": x[right]}, y, keys[rows])
        unit = Normalization.unit(0, BRIGHTEST)
        return Features(**splits, inputs=(Tensor("left", unit), Tensor("right", unit)), labels=LABELS)

    def build_model(self, features: Features, hyperparameters: PairsHyperparameters) -> keras.Model:
        """Read each digit with the same small convolutional network, and compare what it found."""
        import keras
        from keras import layers

        reader = keras.Sequential(
            [
                keras.Input((SIZE, SIZE, 1)),
                layers.Conv2D(16, 3, activation="relu"),
                layers.Conv2D(32, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(hyperparameters.units, activation="relu"),
            ],
            name="reader",
        )
        inputs = [keras.Input((SIZE, SIZE, 1), name=block.name) for block in features.blocks]
        both = layers.Concatenate()([reader(digit) for digit in inputs])
        hidden = layers.Dense(hyperparameters.units, activation="relu")(both)
        return keras.Model(inputs, layers.Dense(len(LABELS), activation="softmax")(hidden))

    def drift_table(self, dataset: Dataset) -> pd.DataFrame:
        """Return the mean brightness of each digit."""
        digits = np.asarray(dataset["digits"])
        return pd.DataFrame({"brightness": digits.reshape(len(digits), -1).mean(axis=1)})


def _sample() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype("float32"), digits.target


def _read(file: SourceFile) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(io.BytesIO(read_bytes(file)), allow_pickle=False) as archive:
            return archive["digits"], archive["values"]
    except InputError:
        raise
    except (ValueError, KeyError, EOFError) as error:
        raise InputError(f"{file.url}: not an .npz file with digits and values: {error}") from error


def _problem(digits: np.ndarray, count: int) -> str:
    if digits.shape != (count, SIZE, SIZE) or digits.dtype.kind not in "iuf":
        return f"{digits.dtype} {digits.shape}, expected numbers of shape {(count, SIZE, SIZE)}"
    if not (np.isfinite(digits).all() and digits.min(initial=0) >= 0 and digits.max(initial=0) <= BRIGHTEST):
        return f"pixels from {digits.min():g} to {digits.max():g}, expected 0 to {BRIGHTEST}"
    return ""
