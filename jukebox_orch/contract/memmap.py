"""Arrays mapped from files: worked through piece by piece, they cost a process no memory."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator

import numpy as np

_TAKEN_AT_ONCE = 1024
_DIGEST_ENTRIES = 1 << 22


def iter_chunks(array: np.ndarray, entries: int) -> Iterator[tuple[int, np.ndarray]]:
    """Slices of at most `entries` with the index of their first; what was read is released on the way."""
    for start in range(0, len(array), entries):
        yield start, array[start : start + entries]
        release_pages(array)


def take_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of the entries at `rows`, without keeping the pages they lie on."""
    taken = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for start, piece in iter_chunks(rows, _TAKEN_AT_ONCE):
        taken[start : start + len(piece)] = array[piece]
        release_pages(array)
    return taken


def release_pages(array: np.ndarray) -> None:
    """Give the pages of a mapped array back; they stay in the page cache. Without effect on other arrays."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def array_digest(*arrays: np.ndarray) -> str:
    """Sha256 over dtype, shape and bytes of the arrays, in order."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.dtype.str}{array.shape}".encode())
        for _, piece in iter_chunks(np.ascontiguousarray(array).reshape(-1), _DIGEST_ENTRIES):
            state.update(piece.data)
    return state.hexdigest()
