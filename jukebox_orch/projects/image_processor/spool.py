"""Image arrays that are written to disk, so that data larger than memory can be read and split."""

from __future__ import annotations

import tempfile
from typing import Self

import numpy as np

from jukebox_orch.contract.memmap import iter_chunks, release_pages
from jukebox_orch.projects.image_processor.shapes import Shape, images_per_chunk


class Spool:
    """Collects images of one shape in an unnamed temporary file (below `TMPDIR`); a context manager.

    The file has no directory entry, so its space is freed with the last array that maps it, also after a crash.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, images: np.ndarray) -> None:
        """Add `images`, uint8 (n, *shape); release the pages of a mapped array after each chunk."""
        for _, chunk in iter_chunks(images, images_per_chunk(self._shape)):
            self._file.write(np.ascontiguousarray(chunk, dtype=np.uint8).data)

    def array(self) -> np.ndarray:
        """Return all images as one read-only array, uint8 (n, *shape), mapped from the file; outlives the spool."""
        if not self._file.tell():
            return np.empty((0, *self._shape), np.uint8)
        self._file.flush()
        return np.memmap(self._file, np.uint8, "r").reshape(-1, *self._shape)


def select(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the images at `rows`, mapped from a file: uint8 (len(rows), *shape)."""
    shape = images.shape[1:]
    with Spool(shape) as spool:
        for _, chunk in iter_chunks(rows, images_per_chunk(shape)):
            spool.append(images[chunk])
            release_pages(images)
        return spool.array()
