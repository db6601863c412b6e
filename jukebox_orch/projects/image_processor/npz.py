"""Reads a NumPy archive with `images` and `labels`, optionally `classes` and `test`, without pickle.

`np.load` would read a whole array of an archive into memory; here it is mapped from a temporary file.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import zipfile
from typing import IO

import numpy as np

from jukebox_orch.contract import InputError
from jukebox_orch.projects.image_processor.batches import Batch
from jukebox_orch.projects.image_processor.shapes import Shape

_ARRAYS = ("images", "labels", "classes", "test")
# Real images compress by a small factor, long runs of zeros by a factor of 1000.
_BOMB_RATIO = 100
_BOMB_BYTES = 256 << 20
_NAMES_BYTES = 10 << 20


def read_npz(where: str, file: IO[bytes], shape: Shape) -> tuple[list[str], list[Batch]]:
    """Return class names (empty if there are none), and the images as one batch, mapped from a temporary file.

    Raises:
        InputError: the archive is damaged or malicious, has Python objects, or an array has a wrong shape or
            type; images must have `shape`.
    """
    arrays = _map_arrays(where, file)

    def require(name: str, condition: bool, expected: str) -> None:
        if not condition:
            actual = f"{arrays[name].dtype} {arrays[name].shape}"
            raise InputError(f"{where}: array {name!r} is {actual}; expected {expected}; convert it")

    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        expected = f"uint8 (n, {', '.join(map(str, shape))}), values 0..255"
        raise InputError(
            f"{where}: array 'images' is {images.dtype} {images.shape}; expected {expected}; convert it, or set "
            "source.height, source.width and source.color"
        )
    require("images", images.flags.c_contiguous, "row order, not column order: np.ascontiguousarray(images)")
    n = len(images)
    test = arrays.setdefault("test", np.zeros(n, bool))
    require("labels", labels.dtype.kind in "iu" and labels.shape == (n,), f"whole numbers of shape ({n},)")
    require("test", test.dtype == bool and test.shape == (n,), f"bool of shape ({n},)")
    classes = arrays.setdefault("classes", np.empty(0, "U1"))
    is_names = classes.dtype.kind == "U" and classes.ndim == 1 and classes.nbytes <= _NAMES_BYTES
    require("classes", is_names, f"a list of strings, {_NAMES_BYTES >> 20} MiB at most")
    try:
        names = classes.tolist()
        "".join(names).encode()
    except (ValueError, SystemError) as error:
        raise InputError(
            f"{where}: array 'classes' is not text: {error}; save the names as strings"
        ) from error
    return names, [Batch(where, images, labels.astype(np.int64), test)]


def _map_arrays(where: str, file: IO[bytes]) -> dict[str, np.ndarray]:
    """Return the arrays by name. All members are checked by their headers before any is unpacked."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, struct.error, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{where}: not a NumPy archive, or damaged or truncated: {error}") from error
    size = file.seek(0, os.SEEK_END)
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name not in _ARRAYS or name == info.filename:
            raise InputError(
                f"{where}: member {info.filename!r} is not one of {', '.join(_ARRAYS)}; remove it"
            )
        if name in members:
            raise InputError(f"{where}: array {name!r} occurs twice; keep one")
        if info.file_size > max(_BOMB_BYTES, _BOMB_RATIO * size):
            raise InputError(
                f"{where}: member {info.filename!r} unpacks to {info.file_size} bytes, more than {_BOMB_RATIO} "
                f"times the {size} bytes of the archive: a decompression bomb"
            )
        # zipfile decompresses other methods in chunks of unlimited size.
        is_supported = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if not is_supported or not 0 <= info.header_offset < size:
            raise InputError(
                f"{where}: member {info.filename!r} is damaged, or not written by np.savez or np.savez_compressed"
            )
        members[name] = info
    for name in ("images", "labels"):
        if name not in members:
            raise InputError(f"{where}: array {name!r} is missing; it has {', '.join(members) or 'none'}")
    return {name: _map_array(f"{where}: array {name!r}", archive, info) for name, info in members.items()}


def _map_array(where: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return a read-only array, mapped from an unnamed temporary file of at most `info.file_size` bytes."""
    with tempfile.NamedTemporaryFile() as copy:
        try:
            with archive.open(info) as member:
                shutil.copyfileobj(member, copy)
            copy.flush()
            # Unlike `np.load`, this opens .npy files only, and it refuses Python objects.
            return np.lib.format.open_memmap(copy.name, mode="r")
        except OSError:  # no space or no file handles: the archive may be valid
            raise
        except Exception as error:  # zipfile and numpy raise many types of errors for damaged headers
            raise InputError(
                f"{where} cannot be read: {error!r}; save it again with np.savez, without Python objects"
            ) from error
