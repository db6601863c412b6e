"""Shapes of images: height, width and channels, as the source declares them."""

from __future__ import annotations

import math

Shape = tuple[int, ...]
"""Height, width and channels of every image of a dataset; 3 channels: red, green, blue; 1: grey."""

CHANNELS = {"rgb": 3, "grey": 1}
"""Number of channels by the setting `color` of the source."""

_CHUNK_BYTES = 12 << 20


def describe(shape: Shape) -> str:
    """Return width, height and colours for messages, for example "32 x 32 RGB"."""
    height, width, channels = shape
    return f"{width} x {height} {'RGB' if channels == CHANNELS['rgb'] else 'grey'}"


def images_per_chunk(shape: Shape) -> int:
    """Return how many images are processed at a time: 12 MiB, which is 4096 images of 32 x 32 RGB."""
    return max(1, _CHUNK_BYTES // math.prod(shape))
