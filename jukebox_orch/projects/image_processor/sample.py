"""The embedded sample: handwritten digits, converted to the image format of the project."""

from __future__ import annotations

import numpy as np

from jukebox_orch.contract import Dataset
from jukebox_orch.projects.image_processor.batches import Batch, as_dataset
from jukebox_orch.projects.image_processor.shapes import Shape


def digits(shape: Shape) -> Dataset:
    """Return scikit-learn's 1797 digits (8 x 8 grey, 0..16), resized to uint8 of `shape`; not photographs."""
    from PIL import Image
    from sklearn.datasets import load_digits

    small, labels = map(np.asarray, load_digits(return_X_y=True))
    grey = np.round(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    height, width, channels = shape
    resized = [Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR) for image in grey]
    images = np.repeat(np.stack([*map(np.asarray, resized)])[..., None], channels, axis=3)
    batch = Batch("scikit-learn digits", images, labels.astype(np.int64), np.zeros(len(labels), bool))
    return as_dataset(images, batch.samples(), map(str, range(10)))
