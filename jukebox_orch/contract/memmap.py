"""Arrays mapped from files: worked through piece by piece, they cost a process no memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np

_TAKEN_AT_ONCE = 1024


def pieces(array: np.ndarray, entries: int) -> Iterator[tuple[int, np.ndarray]]:
    """Slices of at most `entries` with the index of their first; what was read is released on the way."""
    for start in range(0, len(array), entries):
        yield start, array[start : start + entries]
        release(array)


def take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of the entries at `rows`, without keeping the pages they lie on."""
    taken = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for start, piece in pieces(rows, _TAKEN_AT_ONCE):
        taken[start : start + len(piece)] = array[piece]
        release(array)
    return taken


def release(array: np.ndarray) -> None:
    """Give the pages of a mapped array back; they stay in the page cache. Without effect on other arrays."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
