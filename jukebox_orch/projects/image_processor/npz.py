"""Images in a NumPy archive: `images` and `labels`, optionally `classes` and `test`, read without pickle.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. `np.load` would put the whole
array into memory; here its bytes pass through in pieces.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import IO

import numpy as np

from jukebox_orch.contract import InputError
from jukebox_orch.projects.image_processor.spool import CHUNK, SHAPE

_ARRAYS = ("images", "labels", "classes", "test")
# Real images compress a few times; a long run of zeros a thousand times.
_BOMB_RATIO = 100
_BOMB_BYTES = 256 << 20
_CLASSES_LIMIT = 10_000


@dataclass(frozen=True)
class NpzContent:
    """`labels` int64 (n,), `classes` (empty when the file names none), `test` bool (n,), images in pieces."""

    classes: list[str]
    labels: np.ndarray
    test: np.ndarray
    images: Iterator[np.ndarray]


def read_npz(url: str, file: IO[bytes]) -> NpzContent:
    """Open an archive; `images` yields uint8 (<= 4096, 32, 32, 3) while `file` is open.

    Raises:
        InputError: the archive is damaged or hostile, holds Python objects, or an array has another shape
            or type; also raised while `images` is read.
    """
    archive = _open(url, file)
    members = {name.removesuffix(".npy") for name in archive.namelist()}
    for name in ("images", "labels"):
        if name not in members:
            raise InputError(
                f"{url}: array {name!r} is missing; it has {', '.join(sorted(members)) or 'none'}"
            )
    n = _Array(url, archive, "images").shape[0]
    labels = _Array(url, archive, "labels").whole("iu", (n,))
    classes = (
        [str(c) for c in _Array(url, archive, "classes").whole("U", None)] if "classes" in members else []
    )
    test = _Array(url, archive, "test").whole("b", (n,)) if "test" in members else np.zeros(n, bool)
    return NpzContent(classes, labels.astype(np.int64), test, _Array(url, archive, "images").pieces())


def _open(url: str, file: IO[bytes]) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{url}: not a NumPy archive, or damaged or truncated: {error}") from error
    names = archive.namelist()
    for info in archive.infolist():
        if info.filename.removesuffix(".npy") not in _ARRAYS or not info.filename.endswith(".npy"):
            raise InputError(f"{url}: member {info.filename!r} is none of {', '.join(_ARRAYS)}: refused")
        if info.file_size > _BOMB_BYTES and info.file_size > _BOMB_RATIO * info.compress_size:
            raise InputError(
                f"{url}: member {info.filename!r} unpacks from {info.compress_size} to {info.file_size} bytes: "
                "a decompression bomb"
            )
    if len(set(names)) < len(names):
        raise InputError(f"{url}: an array occurs twice")
    return archive


class _Array:
    """One array of the archive, opened and its header read."""

    def __init__(self, url: str, archive: zipfile.ZipFile, name: str) -> None:
        self._where = f"{url}: array {name!r}"
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        try:
            self._stream = archive.open(f"{name}.npy")
            version = np.lib.format.read_magic(self._stream)
            if version not in readers:
                raise InputError(f"{self._where} has the unknown format version {version}")
            self.shape, fortran, self._dtype = readers[version](self._stream)
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            EOFError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise InputError(f"{self._where} is damaged: {error}") from error
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{self._where} is damaged: {error}") from error
        if self._dtype.hasobject:
            raise InputError(f"{self._where} holds Python objects (pickle), which would run code: refused")
        if fortran and len(self.shape) > 1:
            raise InputError(f"{self._where} is in column order; save np.ascontiguousarray(…)")
        if name == "images" and (self._dtype != np.uint8 or self.shape[1:] != SHAPE):
            raise InputError(
                f"{self._where} is {self._dtype} {self.shape}; needed is uint8 (n, 32, 32, 3), values 0..255"
            )

    def whole(self, kinds: str, shape: tuple[int, ...] | None) -> np.ndarray:
        """A small array of one of the NumPy `kinds` and, unless None, of this shape."""
        if shape is None:
            shape = (min(self.shape[0] if len(self.shape) == 1 else -1, _CLASSES_LIMIT),)
        if self._dtype.kind not in kinds or self.shape != shape or self._dtype.itemsize > 1024:
            raise InputError(
                f"{self._where} is {self._dtype} {self.shape}; needed is one of kind {kinds!r} and shape {shape}"
            )
        return np.frombuffer(self._read(prod(shape) * self._dtype.itemsize), self._dtype).reshape(shape)

    def pieces(self) -> Iterator[np.ndarray]:
        """The images, at most 4096 at a time."""
        for start in range(0, self.shape[0], CHUNK):
            n = min(CHUNK, self.shape[0] - start)
            yield np.frombuffer(self._read(n * prod(SHAPE)), np.uint8).reshape(n, *SHAPE)

    def _read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
            raise InputError(f"{self._where} is damaged: {error}") from error
        if len(data) < size:
            raise InputError(f"{self._where} is shorter than its header says: {self.shape} {self._dtype}")
        return data
