"""Blocks: the parts of a model's input, and the constants that normalise them.

| block | array of a split | the network gets | a client sends, as inputs of the ONNX file |
|---|---|---|---|
| `Columns` | (n, k) float32 | (batch, k) float32, normalised | one float32 [batch, 1] per column, by its name |
| `Tensor` | (n, …) float32 or uint8 | the same shape in float32, normalised | [batch, …] of the array's type |
| `Categories` | (n,) int32, positions in `values` | (batch, 1) int32 | one string or int64 [batch, 1] |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from jukebox_orch.contract.settings import InputError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Normalization:
    """Constants of `(x - offset) / scale`, which the model and its ONNX file apply.

    Attributes:
        kind: "standard": zero mean and unit variance per feature over the training split;
            "unit": a fixed range scaled to 0..1.
        offset, scale: float64 arrays that broadcast against one entry of shape `x.shape[1:]`.
        axis: with "standard", the axis of `x` whose positions each have constants, for example -1 for the
            channels of an image; None: every position of an entry has.
    """

    kind: Literal["standard", "unit"]
    offset: np.ndarray
    scale: np.ndarray
    axis: int | None = None

    @classmethod
    def standard(cls, x_train: np.ndarray, axis: int | None = None) -> Normalization:
        """Fit mean and population standard deviation; the scale of a constant feature is 1."""
        import numpy as np

        mean, deviation, constant = cls.statistics(x_train, axis)
        return cls("standard", mean, np.where(constant, 1.0, deviation), axis)

    @classmethod
    def unit(cls, low: float, high: float) -> Normalization:
        """Scale the known range low..high to 0..1, for example the 0..255 of an image."""
        import numpy as np

        return cls("unit", np.float64(low), np.float64(high - low))  # pyright: ignore[reportArgumentType]

    @staticmethod
    def statistics(x: np.ndarray, axis: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mean and population standard deviation per feature, and whether it is constant within rounding."""
        import numpy as np

        mean, deviation, largest = _moments(x, axis)
        # Relative to the feature's magnitude: rounding gives a constant column a small non-zero deviation.
        return mean, deviation, np.asarray(deviation <= 1e-12 * np.maximum(largest, 1.0))

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Normalise `x` (n, …) to float32 of the same shape."""
        return ((x.astype("float64", copy=False) - self.offset) / self.scale).astype("float32")


def _moments(x: np.ndarray, axis: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, population standard deviation and largest magnitude per feature, float64, shaped for one entry."""
    import numpy as np

    from jukebox_orch.contract.memmap import iter_chunks

    if axis is None:
        values = x.astype(np.float64, copy=False)
        return values.mean(axis=0), values.std(axis=0), np.abs(values).max(axis=0)
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    count = x.size // x.shape[axis]
    # In chunks, because images may be larger than memory; in two passes, because a sum of squares loses digits.
    total, largest, squares = np.zeros(1), np.zeros(1), np.zeros(1)
    for _, chunk in iter_chunks(x, 1024):
        total = total + chunk.sum(axis=others, keepdims=True, dtype=np.float64)
        largest = np.maximum(largest, np.abs(chunk.astype(np.float64)).max(axis=others, keepdims=True))
    mean = total / count
    for _, chunk in iter_chunks(x, 1024):
        squares = squares + np.square(chunk - mean).sum(axis=others, keepdims=True)
    return mean[0], np.sqrt(squares / count)[0], largest[0]


@dataclass(frozen=True)
class Block(ABC):
    """One part of the input: one input of the Keras network."""

    name: str

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Names of the block's inputs in the ONNX file."""

    @abstractmethod
    def raw(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Return what a client sends for the entries `x` of a split: input -> (n, …)."""

    def tensor(self, x: np.ndarray) -> np.ndarray:
        """Return the entries as the Keras model takes them."""
        return x


@dataclass(frozen=True)
class Columns(Block):
    """Numeric columns, each a separate input of the ONNX file.

    Attributes:
        name: name of the block; only visible if there are several.
        names: names of the columns, in the order of the array.
        normalization: constants per column; None: the network gets the raw values.
    """

    names: tuple[str, ...]
    normalization: Normalization | None = None

    @property
    @override
    def inputs(self) -> tuple[str, ...]:
        return self.names

    @override
    def raw(self, x: np.ndarray) -> dict[str, np.ndarray]:
        return {name: x[:, i : i + 1] for i, name in enumerate(self.names)}


@dataclass(frozen=True)
class Tensor(Block):
    """A whole tensor: an image, a window of a time series, a sequence.

    Attributes:
        normalization: constants that broadcast against one entry; None: the network gets the raw values, as float32.
    """

    normalization: Normalization | None = None

    @property
    @override
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    @override
    def raw(self, x: np.ndarray) -> dict[str, np.ndarray]:
        return {self.name: x}


@dataclass(frozen=True)
class Categories(Block):
    """One category per entry: text or an integer code.

    The network gets the position in `values`, and `len(values)` for every other value; so an Embedding or one-hot layer
    has `size` entries. The ONNX file takes the raw values.

    Attributes:
        values: the known values, all text or all integers, from the training split only.
    """

    values: tuple[str, ...] | tuple[int, ...]

    @classmethod
    def of_train(cls, name: str, raw: np.ndarray) -> Categories:
        """Use the distinct values of the training split, sorted; missing ones (None, NaN) are unknown values."""
        import pandas as pd

        values = pd.Series(raw).dropna().unique().tolist()
        if all(isinstance(value, float) and value.is_integer() for value in values):
            # pandas reads whole numbers with missing ones as floats
            values = [int(value) for value in values]
        kinds = {type(value) for value in values}
        if kinds not in ({str}, {int}) or (kinds == {int} and max(values) >= 2**63 - 1):
            found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
            raise InputError(
                f"categories {name!r} have values of type {found}: use texts, or whole numbers below 2**63 - 1, for "
                "example values.astype(str)"
            )
        return cls(name, tuple(sorted(values)))

    @property
    def size(self) -> int:
        """Number of codes: the known values and one for all others."""
        return len(self.values) + 1

    @property
    @override
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    def codes(self, raw: np.ndarray) -> np.ndarray:
        """Return the codes (n,) int32 of raw values."""
        import numpy as np
        import pandas as pd

        codes = pd.Index(list(self.values)).get_indexer(pd.Index(raw))
        return np.where(codes < 0, len(self.values), codes).astype(np.int32)

    def never_in(self, codes: np.ndarray) -> list[str | int]:
        """Return the known values that do not occur among the codes."""
        import numpy as np

        counts = np.bincount(codes.reshape(-1), minlength=self.size)[:-1]
        return [self.values[i] for i in np.flatnonzero(counts == 0)]

    @override
    def raw(self, x: np.ndarray) -> dict[str, np.ndarray]:
        import numpy as np

        known = np.array([*self.values, self.unknown], dtype=np.int64 if self.is_integer else object)
        return {self.name: known[x][:, None]}

    @property
    def is_integer(self) -> bool:
        """Whether the values are integer codes instead of text."""
        return isinstance(self.values[0], int)

    @property
    def unknown(self) -> str | int:
        """A value that is not one of `values`."""
        if self.is_integer:
            return max(map(int, self.values)) + 1
        return max(map(str, self.values), key=len) + "?"

    @override
    def tensor(self, x: np.ndarray) -> np.ndarray:
        return x[:, None]
