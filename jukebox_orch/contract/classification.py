"""The task classification: its loss, metrics, baseline and tables.

An entry may represent many rows (`Split.weight`) and have a distribution over the labels instead of one label.
"""

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

# A probability of 0 would make the log loss infinite. scikit-learn uses this bound for float32.
_SMALLEST_PROBABILITY = 2.0**-23


class Classification(Task):
    """Predicts one of `Features.labels`; the model's output is a probability per label.

    Metrics: accuracy, top_5_accuracy, macro_f1 (mean F1 over the labels that occur), log_loss (natural log),
    calibration_error (expected calibration error over 15 bins, Guo et al. 2017, arXiv 1706.04599).
    """

    kind = "classification"
    output = "probabilities"
    metrics = {  # noqa: RUF012
        "accuracy": True,
        "top_5_accuracy": True,
        "macro_f1": True,
        "log_loss": False,
        "calibration_error": False,
    }
    keras_metrics = ("accuracy",)
    variety = CheckText(
        "class_collapse",
        "Every class in the test split is predicted at least once.",
        "every class is predicted",
    )

    def __init__(self, primary: str = "accuracy") -> None:
        """Use `primary` for gates and champion comparisons."""
        super().__init__(primary)

    @override
    def outputs(self, split: Split, labels: tuple[str, ...]) -> int:
        return len(labels)

    @override
    def target_problems(self, split: Split, labels: tuple[str, ...]) -> list[str]:
        import numpy as np

        y, classes = split.y, len(labels)
        problem = ""
        if classes < 2:
            problem = f"{classes} labels: a classification needs two or more"
        elif y.ndim == 1 and not np.issubdtype(y.dtype, np.integer):
            problem = f"y is {y.dtype}: give the position of each label in `labels` as integers"
        elif y.ndim == 1 and (y.min() < 0 or y.max() >= classes):
            problem = f"y has values {y.min()}..{y.max()}: positions in `labels` are 0..{classes - 1}"
        elif y.ndim != 1 and y.shape[1:] != (classes,):
            problem = f"y has shape {y.shape}: use (n,) positions in `labels`, or (n, {classes}) shares of each label"
        elif y.ndim == 2 and y.dtype != np.float32:
            problem = f"y is {y.dtype}: shares of each label are float32"
        elif y.ndim == 2:
            sums = y.sum(axis=1, dtype=np.float64)
            if y.min() < 0 or np.abs(sums - 1).max() > 1e-3:
                problem = (
                    f"shares of y are from {y.min():.3g}, and rows sum to {sums.min():.3g}..{sums.max():.3g}"
                )
        return [problem] if problem else []

    @override
    def prediction_problem(self, prediction: np.ndarray) -> str:
        import numpy as np

        sums = prediction.sum(axis=1)
        if prediction.min() >= 0 and np.abs(sums - 1).max() <= 1e-3:
            return ""
        return (
            f"the model's outputs are not probabilities ({prediction.min():.3g} to {prediction.max():.3g}, rows sum to "
            f"{sums.min():.3g}..{sums.max():.3g}): end build_model() with a softmax layer"
        )

    @override
    def loss(self, y: np.ndarray) -> str:
        return "sparse_categorical_crossentropy" if y.ndim == 1 else "categorical_crossentropy"

    @override
    def score(self, split: Split, prediction: np.ndarray) -> dict[str, float]:
        import numpy as np

        rows = row_counts(split, prediction.shape[1])
        total = rows.sum()
        k = min(5, prediction.shape[1])
        # A stable sort, as in scikit-learn: argpartition leaves open which of equal probabilities it takes.
        top = np.argsort(prediction, axis=1, kind="stable")[:, -k:]
        hits = np.take_along_axis(rows, prediction.argmax(axis=1)[:, None], axis=1)
        calibration = _calibration(split, prediction)
        gaps = (calibration["confidence"] - calibration["accuracy"]).abs()
        table = per_class(confusion(split, prediction))
        return {
            "accuracy": float(hits.sum() / total),
            "top_5_accuracy": float(np.take_along_axis(rows, top, axis=1).sum() / total),
            "macro_f1": float(table.loc[table["rows"] > 0, "f1"].mean()),
            "log_loss": float(-(rows * np.log(np.maximum(prediction, _SMALLEST_PROBABILITY))).sum() / total),
            "calibration_error": float((gaps * calibration["rows"]).sum() / total),
        }

    @override
    def baseline(self, train: Split, test: Split) -> tuple[str, np.ndarray]:
        """Predict the label shares of the training split, so always its most frequent class."""
        import numpy as np

        classes = int(max(train.y.max(), test.y.max())) + 1 if train.y.ndim == 1 else train.y.shape[1]
        counts = row_counts(train, classes).sum(axis=0)
        return "majority_class", np.tile(counts / counts.sum(), (len(test), 1))

    @override
    def perfect(self, split: Split, labels: tuple[str, ...]) -> np.ndarray:
        import numpy as np

        return np.eye(len(labels))[split.y] if split.y.ndim == 1 else split.y

    @override
    def agreement(self, ours: np.ndarray, theirs: np.ndarray, tolerance: float = 0.0) -> float:
        return float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())

    @override
    def balance(self, features: Features) -> pd.DataFrame:
        import pandas as pd

        counts = {
            name: row_counts(split, len(features.labels)).sum(axis=0)
            for name, split in features.splits.items()
        }
        return pd.DataFrame({name: c / c.sum() for name, c in counts.items()}, index=list(features.labels))

    @override
    def details(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
        matrix = confusion(split, prediction)
        table = per_class(matrix)
        table.insert(0, "label", labels)
        return {
            "per_class": table.to_dict("records"),
            "confusion_matrix": {"labels": list(labels), "matrix": matrix.round().astype(int).tolist()},
            "calibration": _calibration(split, prediction).to_dict("records"),
        }

    @override
    def tables(self, details: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        return {"weakest classes": sorted(details["per_class"], key=lambda row: row["f1"])[:10]}

    @override
    def figures(self, split: Split, prediction: np.ndarray, details: Mapping[str, Any]) -> dict[str, Figure]:
        from jukebox_orch.contract import figures

        return {
            "confusion matrix plot": figures.confusion_matrix(**details["confusion_matrix"]),
            "calibration": figures.calibration(details["calibration"]),
        }

    @override
    def collapsed(self, split: Split, prediction: np.ndarray, labels: tuple[str, ...]) -> list[str]:
        matrix = confusion(split, prediction)
        missed = (matrix.sum(axis=1) > 0) & (matrix.sum(axis=0) == 0)
        return [label for label, is_missed in zip(labels, missed, strict=True) if is_missed]


def row_counts(split: Split, classes: int) -> np.ndarray:
    """Return (n, classes) float64: number of source rows of each label that every entry represents."""
    import numpy as np

    if split.y.ndim == 1:
        counts = np.zeros((len(split), classes))
        counts[np.arange(len(split)), split.y.astype(np.int64)] = split.weight
        return counts
    return split.y.astype(np.float64) * split.weight[:, None]


def confusion(split: Split, prediction: np.ndarray) -> np.ndarray:
    """Return (classes, classes) float64 row counts: true label down, predicted label across."""
    import numpy as np

    classes = prediction.shape[1]
    matrix = np.zeros((classes, classes))
    np.add.at(matrix, prediction.argmax(axis=1), row_counts(split, classes))
    return matrix.T


def per_class(matrix: np.ndarray) -> pd.DataFrame:
    """Return precision, recall, F1 and rows of each class, from the confusion matrix."""
    import numpy as np
    import pandas as pd
    from sklearn.metrics import precision_recall_fscore_support

    true, predicted = np.nonzero(matrix)
    precision, recall, f1, rows = precision_recall_fscore_support(
        true,
        predicted,
        labels=np.arange(len(matrix)),
        sample_weight=matrix[true, predicted],
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    return pd.DataFrame({"precision": precision, "recall": recall, "f1": f1, "rows": rows})


def _calibration(split: Split, prediction: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """Return mean confidence and accuracy of the predicted class per confidence bin, without empty bins."""
    import numpy as np
    import pandas as pd

    confidence = prediction.max(axis=1)
    rows = row_counts(split, prediction.shape[1])
    hits = np.take_along_axis(rows, prediction.argmax(axis=1)[:, None], axis=1)[:, 0]
    total = rows.sum(axis=1)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(index, total, bins)
    used = counts > 0
    return pd.DataFrame(
        {
            "confidence": np.bincount(index, confidence * total, bins)[used] / counts[used],
            "accuracy": np.bincount(index, hits, bins)[used] / counts[used],
            "rows": counts[used],
        }
    )
