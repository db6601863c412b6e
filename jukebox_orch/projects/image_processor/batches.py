"""Batches of labelled images, and the dataset built from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from jukebox_orch.contract import Dataset


@dataclass(frozen=True)
class Batch:
    """Images of a file: `images` uint8 (n, *shape), `labels` int64 (n,), `test` bool (n,): published test image."""

    file: str
    images: np.ndarray
    labels: np.ndarray
    test: np.ndarray

    def samples(self) -> pd.DataFrame:
        """Return one row per image: label (index into the classes), file, row in the file, published test image."""
        rows = np.arange(len(self.labels))
        return pd.DataFrame({"label": self.labels, "file": self.file, "row": rows, "test": self.test})


def as_dataset(images: np.ndarray, samples: pd.DataFrame, classes: Iterable[str]) -> Dataset:
    """Build the project's dataset; `samples` has one row per image, as returned by `Batch.samples`."""
    return {
        "images": images,
        "samples": samples.astype({"file": "category"}),
        "classes": pd.DataFrame({"name": list(classes)}),
    }
