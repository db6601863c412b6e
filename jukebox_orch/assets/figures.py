"""Figures for the UI and MLflow, made with matplotlib; small enough to store in the event log."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jukebox_orch.contract.blocks import Categories, Columns
from jukebox_orch.contract.figures import BLUE, GREY, ORANGE, PLAIN, axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jukebox_orch.contract import Features

_MAX_LABELS = 40
_MAX_CATEGORIES = 8


def png(figure: Figure) -> bytes:
    """Render as PNG, 90 dots per inch."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name may have characters that the font lacks, such as emoji: they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    return buffer.getvalue()


def learning_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Plot loss and Keras metric per epoch, on train and on validation, and for a refit on both together."""
    metrics = [name for name in history if not name.startswith(("val_", "refit_"))]
    figure, grid = axes(1, len(metrics), (4.2 * len(metrics), 3))
    for axis, name in zip(grid, metrics, strict=True):
        epochs = np.arange(1, len(history[name]) + 1)
        axis.plot(epochs, history[name], color=BLUE, label="train")
        if f"val_{name}" in history:
            axis.plot(epochs, history[f"val_{name}"], color=ORANGE, label="validation")
        if refit := history.get(f"refit_{name}"):
            axis.plot(np.arange(1, len(refit) + 1), refit, color=GREY, label="refit on both")
        if f"val_{name}" in history:
            axis.legend(frameon=False)
        axis.set(title=name, xlabel="epoch")
    return figure


def feature_distributions(features: Features) -> Figure:
    """Plot the values of every input over the training split: a histogram, or the most frequent categories.

    Of an image or another tensor, all values of the first 2,000 entries together.
    """
    plots: list[tuple[str, np.ndarray, tuple[str, ...]]] = []
    for block, x in zip(features.blocks, features.arrays(features.train).values(), strict=True):
        if isinstance(block, Columns):
            plots += [(name, x[:, i], ()) for i, name in enumerate(block.names)]
        elif isinstance(block, Categories):
            plots.append((block.name, x.reshape(-1), (*map(str, block.values), "other")))
        else:
            plots.append((f"values of {block.name}", x[:2000].reshape(-1), ()))
    across = min(5, len(plots))
    down = -(-len(plots) // across)
    figure, grid = axes(down, across, (2.1 * across, 1.6 * down))
    for axis, (name, values, categories) in zip(grid, plots, strict=False):
        axis.set_title(name, fontsize=8, **PLAIN)
        axis.set_yticks([])
        if categories:
            counts = np.bincount(values, minlength=len(categories))
            most = np.argsort(-counts, kind="stable")[:_MAX_CATEGORIES]
            axis.bar(np.arange(len(most)), counts[most], color=BLUE)
            axis.set_xticks(
                np.arange(len(most)), [categories[i] for i in most], fontsize=6, rotation=90, **PLAIN
            )
            continue
        axis.hist(values, bins=24, color=BLUE)
        # Only the ends of the range: a histogram of this size has no room for more.
        ends = sorted({float(values.min()), float(values.max())})
        axis.set_xticks(ends, [f"{end:.4g}" for end in ends], fontsize=6)
    for axis in grid[len(plots) :]:
        axis.set_visible(False)
    return figure


def balance(shares: pd.DataFrame) -> Figure:
    """Plot the share of each class, or of each bin of a numeric target, per split."""
    figure, (axis,) = axes(1, 1, (max(4.5, min(10, 0.16 * len(shares))), 2.8))
    position = np.arange(len(shares))
    for offset, (name, color) in enumerate(zip(shares, (BLUE, GREY, ORANGE), strict=False)):
        axis.bar(position + (offset - 1) * 0.28, shares[name], width=0.28, label=name, color=color)
    axis.set_xticks(
        position,
        [str(i) for i in shares.index],
        rotation=90,
        fontsize=6 if len(shares) > 20 else 8,
        **PLAIN,
    )
    axis.set(ylabel="share", title="target per split")
    axis.legend(frameon=False, fontsize=8)
    return figure


def drift(values: Mapping[str, float], threshold: float) -> Figure:
    """Plot the PSI per column and the threshold."""
    ordered = sorted(values.items(), key=lambda item: item[1])[-_MAX_LABELS:]
    figure, (axis,) = axes(1, 1, (5, 0.22 * len(ordered) + 1))
    colors = [ORANGE if value >= threshold else BLUE for _, value in ordered]
    position = np.arange(len(ordered))
    axis.barh(position, [value for _, value in ordered], color=colors)
    axis.set_yticks(position, [name for name, _ in ordered], **PLAIN)
    axis.axvline(threshold, color=GREY, linestyle="--", linewidth=1)
    axis.tick_params(labelsize=7)
    axis.set(xlabel="population stability index", title="drift against the registered model's data")
    return figure
