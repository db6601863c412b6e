"""What a task defines: targets, loss, metrics, baseline, figures and words of one kind of prediction.

An entry may represent many rows (`Split.weight`). Every metric equals the metric computed on the single rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from jukebox_orch.contract.features import Features, Split
    from jukebox_orch.contract.settings import Gates


@dataclass(frozen=True)
class CheckText:
    """Words of a check that each task has in its own form: its name, what it requires, and what it says if passed."""

    name: str
    requires: str
    passed: str


class Task(ABC):
    """How a kind of prediction is trained, scored and compared.

    Class attributes:
        kind: name of the task in messages and tags.
        output: name of the model's output in the ONNX file.
        metrics: metric -> whether higher is better.
        keras_metrics: metrics that Keras shows per epoch.
        relative_tolerance: whether `gates.champion_tolerance` is by default a share of the champion's metric.
        variety: the check that the model does not predict the same for everything.
        balance_check: the check that no part of the target is rare.
    """

    kind: ClassVar[str]
    output: ClassVar[str]
    metrics: ClassVar[Mapping[str, bool]]
    keras_metrics: ClassVar[tuple[str, ...]]
    relative_tolerance: ClassVar[bool] = False
    variety: ClassVar[CheckText]
    balance_check: ClassVar[CheckText] = CheckText(
        "class_balance", "Every class is frequent enough in every split.", "no class is rare"
    )

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

    def tolerance(self, gates: Gates, reference: float) -> float:
        """Return how much worse than `reference` the primary metric may be, in its own unit."""
        relative = gates.relative_champion_tolerance
        if self.relative_tolerance if relative is None else relative:
            return gates.champion_tolerance * abs(reference)
        return gates.champion_tolerance

    @abstractmethod
    def outputs(self, split: Split, labels: tuple[str, ...]) -> int:
        """Return the number of the model's outputs."""

    @abstractmethod
    def target_problems(self, split: Split, labels: tuple[str, ...]) -> list[str]:
        """Return what is wrong with `split.y` or the labels, in words for the author of the project."""

    @abstractmethod
    def prediction_problem(self, prediction: np.ndarray) -> str:
        """Return what is wrong with finite predictions (n, outputs), and what to do; empty if nothing is."""

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
    def perfect(self, split: Split, labels: tuple[str, ...]) -> np.ndarray:
        """Return the prediction (n, outputs) of a model that knows `split.y`."""

    @abstractmethod
    def agreement(self, ours: np.ndarray, theirs: np.ndarray, tolerance: float = 0.0) -> float:
        """Return the share of rows on which two predictions give the same decision.

        `tolerance` is the project's `parity_tolerance`, for tasks whose decision is a number.
        """

    @abstractmethod
    def balance(self, features: Features) -> pd.DataFrame:
        """Return the distribution of the target: one row per class or bin, one column per split, in shares."""

    @abstractmethod
    def details(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
        """Return tables for the report as JSON-ready values, for example `per_class` and `confusion_matrix`."""

    @abstractmethod
    def tables(self, details: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """Return the part of `details` that the UI shows as tables, by title."""

    @abstractmethod
    def figures(self, split: Split, prediction: np.ndarray, details: Mapping[str, Any]) -> dict[str, Figure]:
        """Return the figures of the evaluation report, by name."""

    @abstractmethod
    def collapsed(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> list[str]:
        """Return what the model never predicts although it occurs in the split, see `variety`."""
