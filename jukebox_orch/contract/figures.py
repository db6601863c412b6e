"""Figures of the tasks, made with matplotlib; small enough to store in the event log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#3b6fb6", "#e08a3c", "#9aa3ad"
PLAIN: dict[str, Any] = {"parse_math": False}
"""For every text that is not ours: without it, matplotlib reads `$` as the start of a formula."""
_MAX_LABELS = 40


def axes(down: int, across: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with `down` x `across` axes; `size` in inches."""
    # Figure without pyplot: no global state, nothing to close, no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    grid: Any = figure.subplots(down, across, squeeze=False)
    for axis in grid.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(grid.flat)


def confusion_matrix(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> Figure:
    """Plot the share of each true class (rows) that was predicted as each class (columns)."""
    counts = np.asarray(matrix, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 3.6 if len(labels) <= 12 else 7.5
    figure, (axis,) = axes(1, 1, (size, size))
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    step = -(-len(labels) // _MAX_LABELS)  # every label if there are few, else every second or third
    ticks = list(range(0, len(labels), step))
    axis.set_xticks(ticks, [labels[i] for i in ticks], rotation=90, fontsize=7, **PLAIN)
    axis.set_yticks(ticks, [labels[i] for i in ticks], fontsize=7, **PLAIN)
    axis.set(xlabel="predicted", ylabel="true", title="share of the true class")
    figure.colorbar(image, ax=axis, fraction=0.045)
    return figure


def calibration(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Plot accuracy against confidence per bin; a calibrated model lies on the diagonal."""
    table = pd.DataFrame(rows)
    figure, (axis,) = axes(1, 1, (3.6, 3.6))
    axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    size = 10 + 150 * table["rows"] / table["rows"].max()
    axis.scatter(table["confidence"], table["accuracy"], s=size, color=BLUE, alpha=0.8)
    axis.set(
        xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="calibration (area: rows)"
    )
    return figure


def per_label(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot precision, recall and F1 of each label, the weakest 40 of them."""
    table = pd.DataFrame(rows).sort_values("f1", ascending=False).tail(_MAX_LABELS)
    figure, (axis,) = axes(1, 1, (5, 0.3 * len(table) + 1))
    position = np.arange(len(table))
    for offset, (metric, color) in enumerate((("precision", GREY), ("recall", ORANGE), ("f1", BLUE))):
        axis.barh(position + (offset - 1) * 0.26, table[metric], height=0.26, label=metric, color=color)
    axis.set_yticks(position, list(table["label"]), fontsize=7, **PLAIN)
    axis.set(xlim=(0, 1), title="test split")
    axis.legend(frameon=False, fontsize=8)
    return figure


def predictions(true: np.ndarray, predicted: np.ndarray, names: Sequence[str] = ()) -> Figure:
    """Plot predicted against true values (n, outputs) of a regression; at most 5,000 points and 12 outputs."""
    outputs = min(true.shape[1], 12)
    index = np.linspace(0, len(true) - 1, min(len(true), 5000)).astype(int)
    across = min(4, outputs)
    down = -(-outputs // across)
    figure, grid = axes(down, across, (3.6 * across, 3.6 * down))
    for output, axis in enumerate(grid):
        if output >= outputs:
            axis.set_visible(False)
            continue
        ours, theirs = predicted[:, output], true[:, output]
        limits = [float(min(theirs.min(), ours.min())), float(max(theirs.max(), ours.max()))]
        axis.plot(limits, limits, color=GREY, linestyle="--", linewidth=1)
        axis.scatter(theirs[index], ours[index], s=8, color=BLUE, alpha=0.5)
        axis.set(xlabel="true", ylabel="predicted")
        axis.set_title(names[output] if names else "test split", **PLAIN)
    return figure
