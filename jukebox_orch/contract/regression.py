"""The task regression: its loss, metrics, baseline and tables."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from jukebox_orch.contract.task import Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from jukebox_orch.contract.features import Features, Split


class Regression(Task):
    """Predicts a number. Metrics: rmse, mae (units of the target) and r2 (coefficient of determination)."""

    kind = "regression"
    output = "prediction"
    metrics = {"rmse": False, "mae": False, "r2": True}  # noqa: RUF012

    def __init__(self, primary: str = "rmse") -> None:
        """Use `primary` for gates and champion comparisons."""
        super().__init__(primary)

    @override
    def loss(self, y: np.ndarray) -> str:
        return "mean_squared_error"

    @override
    def score(self, split: Split, prediction: np.ndarray) -> dict[str, float]:
        from sklearn import metrics

        values, weight = prediction.reshape(-1), split.weight
        return {
            "rmse": float(metrics.root_mean_squared_error(split.y, values, sample_weight=weight)),
            "mae": float(metrics.mean_absolute_error(split.y, values, sample_weight=weight)),
            "r2": float(metrics.r2_score(split.y, values, sample_weight=weight)),
        }

    @override
    def baseline(self, train: Split, test: Split) -> tuple[str, np.ndarray]:
        """Predict the mean of the training split."""
        import numpy as np

        mean = np.average(train.y, weights=train.weight)
        return "mean", np.full((len(test), 1), mean)

    @override
    def agreement(self, ours: np.ndarray, theirs: np.ndarray) -> float:
        """Count rows as equal if they differ by at most 1e-4 of the largest value, to allow for rounding."""
        return float((abs(ours - theirs) <= 1e-4 * max(1.0, float(abs(theirs).max()))).mean())

    @override
    def balance(self, features: Features) -> pd.DataFrame:
        import numpy as np
        import pandas as pd

        edges = np.histogram_bin_edges(features.train.y, bins=10)
        inner = np.concatenate([[-np.inf], edges[1:-1], [np.inf]])
        shares = {
            name: np.histogram(split.y, bins=inner, weights=split.weight)[0] / split.weight.sum()
            for name, split in features.splits.items()
        }
        return pd.DataFrame(shares, index=[f"{a:.4g} to {b:.4g}" for a, b in pairwise(edges)])

    @override
    def details(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
        import numpy as np

        residuals = split.y - prediction.reshape(-1)
        quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
        return {
            "residuals": [
                {"quantile": q, "residual": float(r)}
                for q, r in zip(quantiles, np.quantile(residuals, quantiles), strict=True)
            ]
        }

    @override
    def collapsed(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> list[str]:
        import numpy as np

        return ["constant prediction"] if np.ptp(prediction) == 0 and np.ptp(split.y) > 0 else []
