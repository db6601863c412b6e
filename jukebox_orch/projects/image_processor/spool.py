"""Image arrays that are written to disk, so that data larger than memory can be read and split."""

from __future__ import annotations

import tempfile
from typing import Self

import numpy as np

from jukebox_orch.contract.memmap import iter_chunks, release_pages

SHAPE = (32, 32, 3)
"""Height, width, channels (red, green, blue) of every image."""

CHUNK = 4096
"""Number of images per chunk: 12 MiB."""


class Spool:
    """Collects images in an unnamed temporary file (below `TMPDIR`); a context manager.

    The file has no directory entry, so its space is freed with the last array that maps it, also after a crash.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, images: np.ndarray) -> None:
        """Add `images`, uint8 (n, 32, 32, 3); release the pages of a mapped array after each chunk."""
        for _, chunk in iter_chunks(images, CHUNK):
            self._file.write(np.ascontiguousarray(chunk, dtype=np.uint8).data)

    def array(self) -> np.ndarray:
        """Return all images as one read-only array, uint8 (n, 32, 32, 3), mapped from the file; outlives the spool."""
        if not self._file.tell():
            return np.empty((0, *SHAPE), np.uint8)
        self._file.flush()
        return np.memmap(self._file, np.uint8, "r").reshape(-1, *SHAPE)


def select(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the images at `rows`, mapped from a file: uint8 (len(rows), 32, 32, 3)."""
    with Spool() as spool:
        for _, chunk in iter_chunks(rows, CHUNK):
            spool.append(images[chunk])
            release_pages(images)
        return spool.array()
