"""What a task defines: loss, metrics and baseline of one kind of prediction.

An entry may represent many rows (`Split.weight`). Every metric equals the metric computed on the single rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from jukebox_orch.contract.features import Features, Split


class Task(ABC):
    """How a kind of prediction is trained, scored and compared.

    Class attributes:
        kind: name of the task in messages and tags.
        output: name of the model's output in the ONNX file.
        metrics: metric -> whether higher is better.
    """

    kind: ClassVar[str]
    output: ClassVar[str]
    metrics: ClassVar[Mapping[str, bool]]

    def __init__(self, primary: str) -> None:
        """Choose the metric that gates and champion comparisons use.

        Raises:
            ValueError: the task has no such metric.
        """
        if primary not in self.metrics:
            raise ValueError(
                f"{self.kind} has no metric {primary!r}; choose one of {', '.join(self.metrics)}"
            )
        self.primary = primary

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value of the primary metric is better."""
        return self.metrics[self.primary]

    def not_worse(self, value: float, reference: float, tolerance: float = 0.0) -> bool:
        """Return whether `value` of the primary metric is as good as `reference`, within `tolerance`; NaN never is."""
        gain = value - reference if self.higher_is_better else reference - value
        return bool(gain >= -tolerance)

    @abstractmethod
    def loss(self, y: np.ndarray) -> str:
        """Return the name of the Keras loss for targets of this shape."""

    @abstractmethod
    def score(self, split: Split, prediction: np.ndarray) -> dict[str, float]:
        """Return all `metrics` of `prediction` (n, outputs) on `split`, weighted by rows."""

    @abstractmethod
    def baseline(self, train: Split, test: Split) -> tuple[str, np.ndarray]:
        """Return the rule that any model must beat: its name and its predictions on `test`."""

    @abstractmethod
    def agreement(self, ours: np.ndarray, theirs: np.ndarray) -> float:
        """Return the share of rows on which two predictions give the same decision."""

    @abstractmethod
    def balance(self, features: Features) -> pd.DataFrame:
        """Return the distribution of the target: one row per class or bin, one column per split, in shares."""

    @abstractmethod
    def details(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return tables for the report, for example `per_class`, `confusion_matrix` and `calibration`."""

    @abstractmethod
    def collapsed(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> list[str]:
        """Return classes of the split that the model never predicts, or "constant prediction"."""
