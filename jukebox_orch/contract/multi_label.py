"""The task of several labels at once: its loss, metrics, baseline and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from jukebox_orch.contract.task import CheckText, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from jukebox_orch.contract.features import Features, Split

_DECISION = 0.5
_SMALLEST_PROBABILITY = 2.0**-23


class MultiLabel(Task):
    """Predicts for each of `Features.labels` whether it applies; any number of them may.

    The model's output is a probability per label; a label is predicted from 0.5 on. Metrics: macro_f1 (mean F1 over the
    labels that occur), micro_f1 (F1 over all decisions), exact_match (share of rows whose label set is right),
    label_accuracy (share of right decisions) and log_loss (natural log, mean over the labels).
    """

    kind = "multi_label"
    output = "probabilities"
    metrics = {  # noqa: RUF012
        "macro_f1": True,
        "micro_f1": True,
        "exact_match": True,
        "label_accuracy": True,
        "log_loss": False,
    }
    keras_metrics = ("binary_accuracy",)
    variety = CheckText(
        "label_collapse",
        "Every label in the test split is predicted at least once.",
        "every label is predicted",
    )
    balance_check = CheckText(
        "class_balance", "Every label is frequent enough in every split.", "no label is rare"
    )

    def __init__(self, primary: str = "macro_f1") -> None:
        """Use `primary` for gates and champion comparisons."""
        super().__init__(primary)

    @override
    def outputs(self, split: Split, labels: tuple[str, ...]) -> int:
        return len(labels)

    @override
    def target_problems(self, split: Split, labels: tuple[str, ...]) -> list[str]:
        import numpy as np

        y = split.y
        if not labels:
            return ["no labels: name what the model may predict"]
        if y.shape != (len(split), len(labels)):
            return [f"y has shape {y.shape}: use (n, {len(labels)}), 1 where the label applies, else 0"]
        if y.dtype != np.float32:
            return [f"y is {y.dtype}: use float32"]
        if not np.isin(y, (0, 1)).all():
            return [f"y has values {y.min():.3g}..{y.max():.3g}: use 1 where the label applies, else 0"]
        return []

    @override
    def prediction_problem(self, prediction: np.ndarray) -> str:
        if prediction.min() >= 0 and prediction.max() <= 1:
            return ""
        return (
            f"the model's outputs are not probabilities ({prediction.min():.3g} to {prediction.max():.3g}): end "
            "build_model() with a sigmoid layer"
        )

    @override
    def loss(self, y: np.ndarray) -> str:
        return "binary_crossentropy"

    @override
    def score(self, split: Split, prediction: np.ndarray) -> dict[str, float]:
        import numpy as np
        from sklearn.metrics import f1_score

        true, predicted, weight = split.y > 0, prediction >= _DECISION, split.weight
        occurring = true.any(axis=0)
        p = np.clip(prediction.astype(np.float64), _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
        losses = -(np.where(true, np.log(p), np.log1p(-p))).mean(axis=1)
        per_label: Any = f1_score(true, predicted, average=None, sample_weight=weight, zero_division=0)  # pyright: ignore[reportArgumentType]
        micro = f1_score(true, predicted, average="micro", sample_weight=weight, zero_division=0)  # pyright: ignore[reportArgumentType]
        right = true == predicted
        return {
            "macro_f1": float(np.mean(per_label[occurring])) if occurring.any() else 0.0,
            "micro_f1": float(micro),
            "exact_match": float(np.average(right.all(axis=1), weights=weight)),
            "label_accuracy": float(np.average(right.mean(axis=1), weights=weight)),
            "log_loss": float(np.average(losses, weights=weight)),
        }

    @override
    def baseline(self, train: Split, test: Split) -> tuple[str, np.ndarray]:
        """Predict the share of each label in the training split."""
        import numpy as np

        return "label_shares", np.tile(np.average(train.y, axis=0, weights=train.weight), (len(test), 1))

    @override
    def perfect(self, split: Split, labels: tuple[str, ...]) -> np.ndarray:
        return split.y

    @override
    def agreement(self, ours: np.ndarray, theirs: np.ndarray, tolerance: float = 0.0) -> float:
        return float(((ours >= _DECISION) == (theirs >= _DECISION)).all(axis=1).mean())

    @override
    def balance(self, features: Features) -> pd.DataFrame:
        import numpy as np
        import pandas as pd

        shares = {
            name: np.average(split.y, axis=0, weights=split.weight) for name, split in features.splits.items()
        }
        return pd.DataFrame(shares, index=list(features.labels))

    @override
    def details(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
        import pandas as pd
        from sklearn.metrics import precision_recall_fscore_support

        precision, recall, f1, _ = precision_recall_fscore_support(
            split.y > 0,
            prediction >= _DECISION,
            sample_weight=split.weight,
            zero_division=0,  # pyright: ignore[reportArgumentType]
        )
        rows = (split.y * split.weight[:, None]).sum(axis=0)
        table = pd.DataFrame(
            {"label": labels, "precision": precision, "recall": recall, "f1": f1, "rows": rows}
        )
        return {"per_label": table.to_dict("records")}

    @override
    def tables(self, details: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        return {"weakest labels": sorted(details["per_label"], key=lambda row: row["f1"])[:10]}

    @override
    def figures(self, split: Split, prediction: np.ndarray, details: Mapping[str, Any]) -> dict[str, Figure]:
        from jukebox_orch.contract import figures

        return {"quality per label": figures.per_label(details["per_label"])}

    @override
    def collapsed(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> list[str]:
        import numpy as np

        missed = np.any(split.y > 0, axis=0) & ~np.any(prediction >= _DECISION, axis=0)
        return [labels[i] for i in np.flatnonzero(missed)]
