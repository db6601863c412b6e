"""The task regression: its loss, metrics, baseline and tables."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from jukebox_orch.contract.task import CheckText, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from jukebox_orch.contract.features import Features, Split


class Regression(Task):
    """Predicts one or several numbers; `Features.labels` may name them.

    Metrics: rmse, mae (units of the target) and r2 (coefficient of determination), each the mean over the outputs.
    """

    kind = "regression"
    output = "prediction"
    metrics = {"rmse": False, "mae": False, "r2": True}  # noqa: RUF012
    keras_metrics = ("mae",)
    relative_tolerance = True
    variety = CheckText(
        "constant_prediction",
        "The predictions of the test split are not all the same.",
        "the predictions differ",
    )
    balance_check = CheckText(
        "target_balance",
        "Every part of the target's range is frequent enough in every split.",
        "no part of the range is rare",
    )

    def __init__(self, primary: str = "rmse") -> None:
        """Use `primary` for gates and champion comparisons."""
        super().__init__(primary)

    @override
    def outputs(self, split: Split, labels: tuple[str, ...]) -> int:
        return 1 if split.y.ndim == 1 else split.y.shape[1]

    @override
    def target_problems(self, split: Split, labels: tuple[str, ...]) -> list[str]:
        import numpy as np

        y, problems = split.y, []
        if y.dtype != np.float32:
            problems.append(f"y is {y.dtype}: a regression needs float32")
        if y.ndim not in (1, 2) or (y.ndim == 2 and y.shape[1] < 2):
            problems.append(f"y has shape {y.shape}: use (n,) for one number, (n, k) for k of them")
        elif labels and len(labels) != self.outputs(split, labels):
            problems.append(
                f"{len(labels)} labels for {self.outputs(split, labels)} outputs: name each, or none"
            )
        return problems

    @override
    def prediction_problem(self, prediction: np.ndarray) -> str:
        return ""

    @override
    def loss(self, y: np.ndarray) -> str:
        return "mean_squared_error"

    @override
    def score(self, split: Split, prediction: np.ndarray) -> dict[str, float]:
        from sklearn import metrics

        values, weight = prediction.reshape(split.y.shape), split.weight
        return {
            "rmse": float(metrics.root_mean_squared_error(split.y, values, sample_weight=weight)),
            "mae": float(metrics.mean_absolute_error(split.y, values, sample_weight=weight)),
            "r2": float(metrics.r2_score(split.y, values, sample_weight=weight)),
        }

    @override
    def baseline(self, train: Split, test: Split) -> tuple[str, np.ndarray]:
        """Predict the mean of the training split."""
        import numpy as np

        mean = np.average(train.y, axis=0, weights=train.weight)
        return "mean", np.tile(np.atleast_1d(mean), (len(test), 1))

    @override
    def perfect(self, split: Split, labels: tuple[str, ...]) -> np.ndarray:
        return split.y.reshape(len(split), -1)

    @override
    def agreement(self, ours: np.ndarray, theirs: np.ndarray, tolerance: float = 0.0) -> float:
        """Count rows as equal if they differ by at most 1e-4 of the largest value, or by the larger tolerance."""
        close = abs(ours - theirs) <= max(1e-4, tolerance) * max(1.0, float(abs(theirs).max()))
        return float(close.all(axis=1).mean())

    @override
    def balance(self, features: Features) -> pd.DataFrame:
        import numpy as np
        import pandas as pd

        names = _output_names(features.train, features.labels)
        tables = []
        for output, name in enumerate(names):
            ys = {split: _columns(s.y)[:, output] for split, s in features.splits.items()}
            edges = np.histogram_bin_edges(ys["train"], bins=10)
            inner = np.concatenate([[-np.inf], edges[1:-1], [np.inf]])
            shares = {
                split: np.histogram(y, bins=inner, weights=features.splits[split].weight)[0]
                / features.splits[split].weight.sum()
                for split, y in ys.items()
            }
            prefix = f"{name}: " if len(names) > 1 else ""
            tables.append(
                pd.DataFrame(shares, index=[f"{prefix}{a:.4g} to {b:.4g}" for a, b in pairwise(edges)])
            )
        return pd.concat(tables)

    @override
    def details(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
        import numpy as np

        residuals = _columns(split.y) - prediction
        quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
        names = _output_names(split, labels)
        return {
            "residuals": [
                {**({"output": name} if len(names) > 1 else {}), "quantile": q, "residual": float(r)}
                for output, name in enumerate(names)
                for q, r in zip(quantiles, np.quantile(residuals[:, output], quantiles), strict=True)
            ]
        }

    @override
    def tables(self, details: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        return {"residuals": details["residuals"]}

    @override
    def figures(self, split: Split, prediction: np.ndarray, details: Mapping[str, Any]) -> dict[str, Figure]:
        from jukebox_orch.contract import figures

        return {"predictions": figures.predictions(_columns(split.y), prediction)}

    @override
    def collapsed(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> list[str]:
        import numpy as np

        constant = (np.ptp(prediction, axis=0) == 0) & (np.ptp(_columns(split.y), axis=0) > 0)
        names = _output_names(split, labels)
        return [name for name, is_constant in zip(names, constant, strict=True) if is_constant]


def _columns(y: np.ndarray) -> np.ndarray:
    return y.reshape(len(y), -1)


def _output_names(split: Split, labels: tuple[str, ...]) -> tuple[str, ...]:
    outputs = _columns(split.y).shape[1]
    if labels:
        return labels
    return ("the prediction",) if outputs == 1 else tuple(f"output {i}" for i in range(1, outputs + 1))
