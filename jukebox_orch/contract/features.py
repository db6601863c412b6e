"""The features of a model: three numeric splits, and the blocks that describe their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jukebox_orch.contract.blocks import Block, Columns, Normalization, Tensor

if TYPE_CHECKING:
    import numpy as np

_ONLY = "raw"


@dataclass(frozen=True)
class Split:
    """The train, validation or test split.

    Attributes:
        x: (n, …) raw numeric model inputs as a client sends them: float32, or uint8 for images. With several blocks,
            block name -> array.
        y: classification: (n, classes) float32 label distributions or (n,) integer classes; several labels at once:
            (n, labels) float32 of 0 and 1; regression: (n,) or (n, outputs) float32.
        weight: (n,) float32, number of source rows that each entry represents.
        keys: the unique values that the rows were split by (dates, songs, row numbers), as strings; no two
            splits may share one.
        slices: named subsets of the entries that evaluation scores separately, (n,) bool each.
        loss_weight: (n,) float32, how much an entry counts in the loss of the fit, for example by its class; metrics
            do not use it. None: 1 each.
        times: (n,) datetime64 or numbers, when each entry was observed; a check compares those of the splits. None: the
            split is not one by time.
    """

    x: Any
    y: np.ndarray
    weight: np.ndarray
    keys: np.ndarray
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    loss_weight: np.ndarray | None = None
    times: np.ndarray | None = None

    @classmethod
    def of_rows(cls, x: Any, y: np.ndarray, keys: np.ndarray) -> Split:
        """Build a split with one entry per source row; `keys` may repeat and be of any type."""
        import numpy as np

        return cls(x, y, np.ones(len(y), np.float32), np.unique(keys).astype("U"))

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Features:
    """The splits that a model is trained and evaluated on, with their names and constants.

    Attributes:
        train, validation, test: the splits.
        inputs: names of the model's inputs. One name per column of `x`: each column is a separate input with
            shape [batch, 1]; a single name: the whole tensor is that input. Or the blocks of `x`.
        labels: class names in the order of the model's outputs; for a regression with several outputs their names,
            else empty.
        normalization: the constants of inputs that are given by name, fitted on the training split only.
    """

    train: Split
    validation: Split
    test: Split
    inputs: tuple[str, ...] | tuple[Block, ...]
    labels: tuple[str, ...] = ()
    normalization: Normalization | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of the input, at least one."""
        blocks = tuple(i for i in self.inputs if isinstance(i, Block))
        if blocks:
            return blocks
        names = tuple(map(str, self.inputs))
        x = self.train.x
        if not isinstance(x, Mapping) and x.ndim == 2 and x.shape[1] == len(names):
            return (Columns(_ONLY, names, self.normalization),)
        return (Tensor(names[0], self.normalization),)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of all inputs of the ONNX file, in order."""
        return tuple(name for block in self.blocks for name in block.inputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one entry of a model with one block, without the batch dimension."""
        (x,) = self.arrays(self.train).values()
        return x.shape[1:]

    def raw(self, split: Split, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Return what a client of the model sends for the entries `rows` of a split: input -> (n, …)."""
        x = split.x if isinstance(split.x, Mapping) else {self.blocks[0].name: split.x}
        return {
            name: values for block in self.blocks for name, values in block.raw(x[block.name][rows]).items()
        }

    def arrays(self, split: Split) -> dict[str, np.ndarray]:
        """Return the arrays of a split by block, as the Keras model takes them."""
        x = split.x
        if not isinstance(x, Mapping):
            x = {self.blocks[0].name: x}
        return {block.name: block.tensor(x[block.name]) for block in self.blocks}
