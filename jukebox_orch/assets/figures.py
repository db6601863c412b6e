"""Figures for the UI and MLflow, made with matplotlib; small enough to store in the event log."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jukebox_orch.contract import Features

_BLUE, _ORANGE, _GREY = "#3b6fb6", "#e08a3c", "#9aa3ad"
_MAX_LABELS = 40


def png(figure: Figure) -> bytes:
    """Render as PNG, 90 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    return buffer.getvalue()


def learning_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Plot loss and Keras metric per epoch, on train and on validation, and for a refit on both together."""
    metrics = [name for name in history if not name.startswith(("val_", "refit_"))]
    figure, axes = _axes(1, len(metrics), (4.2 * len(metrics), 3))
    for axis, name in zip(axes, metrics, strict=True):
        epochs = np.arange(1, len(history[name]) + 1)
        axis.plot(epochs, history[name], color=_BLUE, label="train")
        if f"val_{name}" in history:
            axis.plot(epochs, history[f"val_{name}"], color=_ORANGE, label="validation")
        if refit := history.get(f"refit_{name}"):
            axis.plot(np.arange(1, len(refit) + 1), refit, color=_GREY, label="refit on both")
        if f"val_{name}" in history:
            axis.legend(frameon=False)
        axis.set(title=name, xlabel="epoch")
    return figure


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Figure:
    """Plot the share of each true class (rows) that was predicted as each class (columns)."""
    counts = np.asarray(matrix, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 3.6 if len(labels) <= 12 else 7.5
    figure, (axis,) = _axes(1, 1, (size, size))
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    step = -(-len(labels) // _MAX_LABELS)  # every label if there are few, else every second or third
    ticks = list(range(0, len(labels), step))
    axis.set_xticks(ticks, [labels[i] for i in ticks], rotation=90, fontsize=7)
    axis.set_yticks(ticks, [labels[i] for i in ticks], fontsize=7)
    axis.set(xlabel="predicted", ylabel="true", title="share of the true class")
    figure.colorbar(image, ax=axis, fraction=0.045)
    return figure


def calibration(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Plot accuracy against confidence per bin; a calibrated model lies on the diagonal."""
    table = pd.DataFrame(rows)
    figure, (axis,) = _axes(1, 1, (3.6, 3.6))
    axis.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1)
    size = 10 + 150 * table["rows"] / table["rows"].max()
    axis.scatter(table["confidence"], table["accuracy"], s=size, color=_BLUE, alpha=0.8)
    axis.set(
        xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="calibration (area: rows)"
    )
    return figure


def feature_distributions(features: Features) -> Figure:
    """Plot a histogram of every input over the training split, or of all values of an image or a tensor."""
    x = features.train.x
    columns = [x[:, i] for i in range(x.shape[1])] if features.columns else [x[:2000].reshape(-1)]
    names = features.inputs if features.columns else (f"values of {features.inputs[0]}",)
    across = min(5, len(names))
    down = -(-len(names) // across)
    figure, axes = _axes(down, across, (2.1 * across, 1.6 * down))
    for axis, name, values in zip(axes, names, columns, strict=False):
        axis.hist(values, bins=24, color=_BLUE)
        axis.set_title(name, fontsize=8)
        # Only the ends of the range: a histogram of this size has no room for more.
        ends = sorted({float(values.min()), float(values.max())})
        axis.set_xticks(ends, [f"{end:.4g}" for end in ends], fontsize=6)
        axis.set_yticks([])
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    return figure


def balance(shares: pd.DataFrame) -> Figure:
    """Plot the share of each class, or of each bin of a numeric target, per split."""
    figure, (axis,) = _axes(1, 1, (max(4.5, min(10, 0.16 * len(shares))), 2.8))
    position = np.arange(len(shares))
    for offset, (name, color) in enumerate(zip(shares, (_BLUE, _GREY, _ORANGE), strict=False)):
        axis.bar(position + (offset - 1) * 0.28, shares[name], width=0.28, label=name, color=color)
    axis.set_xticks(
        position, [str(i) for i in shares.index], rotation=90, fontsize=6 if len(shares) > 20 else 8
    )
    axis.set(ylabel="share", title="target per split")
    axis.legend(frameon=False, fontsize=8)
    return figure


def predictions(true: np.ndarray, predicted: np.ndarray) -> Figure:
    """Plot predicted against true values of a regression; at most 5,000 points."""
    index = np.linspace(0, len(true) - 1, min(len(true), 5000)).astype(int)
    figure, (axis,) = _axes(1, 1, (3.6, 3.6))
    limits = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
    axis.plot(limits, limits, color=_GREY, linestyle="--", linewidth=1)
    axis.scatter(true[index], predicted.reshape(-1)[index], s=8, color=_BLUE, alpha=0.5)
    axis.set(xlabel="true", ylabel="predicted", title="test split")
    return figure


def drift(values: Mapping[str, float], threshold: float) -> Figure:
    """Plot the PSI per column and the threshold."""
    ordered = sorted(values.items(), key=lambda item: item[1])[-_MAX_LABELS:]
    figure, (axis,) = _axes(1, 1, (5, 0.22 * len(ordered) + 1))
    colors = [_ORANGE if value >= threshold else _BLUE for _, value in ordered]
    axis.barh([name for name, _ in ordered], [value for _, value in ordered], color=colors)
    axis.axvline(threshold, color=_GREY, linestyle="--", linewidth=1)
    axis.tick_params(labelsize=7)
    axis.set(xlabel="population stability index", title="drift against the registered model's data")
    return figure


def _axes(down: int, across: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    # Figure without pyplot: no global state, nothing to close, no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes: Any = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)
