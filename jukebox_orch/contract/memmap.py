"""Read memory-mapped arrays in chunks and release the pages, so memory use stays flat."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Mapping

import numpy as np

_CHUNK_ROWS = 1024
_DIGEST_CHUNK_ENTRIES = 1 << 22


def iter_chunks(array: np.ndarray, entries: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield chunks of at most `entries`, each with its first index; release the pages after each chunk."""
    for start in range(0, len(array), entries):
        yield start, array[start : start + entries]
        release_pages(array)


def iter_entries(arrays: Mapping[str, np.ndarray], entries: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield chunks of at most `entries` of arrays of equal length; release the pages after each chunk."""
    length = max(map(len, arrays.values()))
    for start in range(0, length, entries):
        yield {name: array[start : start + entries] for name, array in arrays.items()}
        for array in arrays.values():
            release_pages(array)


def take_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a copy of the entries at `rows` and release the pages that were read."""
    taken = np.empty((len(rows), *array.shape[1:]), array.dtype)
    for start, chunk in iter_chunks(rows, _CHUNK_ROWS):
        taken[start : start + len(chunk)] = array[chunk]
        release_pages(array)
    return taken


def release_pages(array: np.ndarray) -> None:
    """Release the pages of a mapped array; they stay in the page cache. Does nothing for other arrays."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def array_digest(*arrays: np.ndarray) -> str:
    """Return the sha256 over dtype, shape and bytes of the arrays, in order."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(f"{array.dtype.str}{array.shape}".encode())
        for _, chunk in iter_chunks(np.ascontiguousarray(array).reshape(-1), _DIGEST_CHUNK_ENTRIES):
            state.update(chunk.view(np.uint8).data)  # as bytes: datetime64 has no buffer
    return state.hexdigest()
