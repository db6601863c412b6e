"""Labelled images as a reader gives them, and the dataset that is made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from jukebox_orch.contract import Dataset


@dataclass(frozen=True)
class Batch:
    """Images of a file: `images` uint8 (n, 32, 32, 3), `labels` int64 (n,), `test` bool (n,): published for tests."""

    file: str
    images: np.ndarray
    labels: np.ndarray
    test: np.ndarray

    def samples(self) -> pd.DataFrame:
        """One line per image: label (index into the classes), file, row in the file, published test image."""
        rows = np.arange(len(self.labels))
        return pd.DataFrame({"label": self.labels, "file": self.file, "row": rows, "test": self.test})


def as_dataset(images: np.ndarray, samples: pd.DataFrame, classes: Iterable[str]) -> Dataset:
    """The tables of the project; `samples` as of `Batch.samples`, a line per image."""
    return {
        "images": images,
        "samples": samples.astype({"file": "category"}),
        "classes": pd.DataFrame({"name": list(classes)}),
    }
