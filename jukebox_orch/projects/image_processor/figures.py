"""Figure of the misclassified test images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jukebox_orch.contract.figures import PLAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jukebox_orch.contract import Features

_COLUMNS, _ROWS = 6, 4


def mistakes(features: Features, prediction: np.ndarray) -> Figure | None:
    """Plot up to 24 misclassified test images, highest confidence first; return None if there are none."""
    from matplotlib.figure import Figure

    test = features.test
    predicted = prediction.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.y)
    if not len(wrong):
        return None
    worst = wrong[np.argsort(-prediction[wrong, predicted[wrong]], kind="stable")][: _COLUMNS * _ROWS]
    rows = -(-len(worst) // _COLUMNS)
    figure = Figure(figsize=(1.6 * _COLUMNS, 2.0 * rows + 0.6), layout="constrained")
    figure.suptitle(
        f"{len(worst)} of {len(wrong)} mistakes among {len(test)} test images, highest confidence first"
    )
    for axes, row in zip(figure.subplots(rows, _COLUMNS, squeeze=False).flat, worst, strict=False):
        axes.imshow(test.x[row], cmap="gray", vmin=0, vmax=255)  # these settings are for grey images only
        true, guess = features.labels[test.y[row]], features.labels[predicted[row]]
        title = f"{true}, predicted {guess}\n({prediction[row].max():.0%} confidence)"
        axes.set_title(title, fontsize=8, **PLAIN)
    for axes in figure.axes:
        axes.axis("off")
    return figure
