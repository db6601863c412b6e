"""Reads the binary version of CIFAR-10: a tar archive of batches; an image is 1 label byte and 3 x 1024 colour bytes.

Format: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version". No member is written under its own name:
known members are mapped from an unnamed temporary file, others are refused.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import tempfile
import zlib
from pathlib import PurePosixPath
from typing import IO

import numpy as np
from typing_extensions import override

from jukebox_orch.contract import InputError
from jukebox_orch.projects.image_processor.batches import Batch
from jukebox_orch.projects.image_processor.shapes import Shape, describe

_SHAPE = (32, 32, 3)
_RECORD = 1 + 3 * 32 * 32
# The published archive unpacks to 185 MB, with 4 KB of headers and 88 bytes of class names.
_UNPACKED_LIMIT = 512 << 20
_TEXT_LIMIT = 64 << 10
_CLASSES = "batches.meta.txt"
_KNOWN = re.compile(r"data_batch_\d+\.bin|test_batch\.bin|batches\.meta\.txt|readme\.html")
_PYTHON = re.compile(r"data_batch_\d+|test_batch|batches\.meta|.*\.(pkl|pickle)")


def read_cifar(where: str, archive: IO[bytes], shape: Shape) -> tuple[list[str], list[Batch]]:
    """Return class names and batches of a `.tar` or `.tar.gz`.

    Raises:
        InputError: the archive is damaged, malicious, the pickled python version, or not CIFAR-10; or `shape` is
            not 32 x 32 RGB.
    """
    if shape != _SHAPE:
        raise InputError(
            f"{where}: CIFAR-10's images are {describe(_SHAPE)}, the source declares {describe(shape)}; "
            "set source.width: 32, source.height: 32 and source.color: rgb"
        )
    try:
        with tempfile.TemporaryFile() as unpacked:
            _unpack(where, archive, unpacked)
            members = _members(where, unpacked)
        # A label is one byte, so this is enough text for the names of all classes.
        classes = members.pop(_CLASSES, np.empty(0, np.uint8))[:_TEXT_LIMIT].tobytes().decode().split()
    except InputError:
        raise
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise InputError(
            f"{where}: the archive is damaged or truncated: {error}; download it again"
        ) from error
    if not classes:
        raise InputError(f"{where}: {_CLASSES} with the class names is missing or empty")
    members.pop("readme.html", None)
    batches = [_batch(f"{where}: {name}", members[name]) for name in sorted(members)]
    if all(batch.test.all() for batch in batches):
        raise InputError(f"{where}: no data_batch_N.bin: there are no training images")
    return classes, batches


def _unpack(where: str, archive: IO[bytes], unpacked: IO[bytes]) -> None:
    """Copy the decompressed tar archive. Read to the end, because gzip's checksum is there."""
    compressed = archive.read(2) == b"\x1f\x8b"
    archive.seek(0)
    stream = gzip.GzipFile(fileobj=archive) if compressed else archive
    while block := stream.read(1 << 20):
        unpacked.write(block)
        if unpacked.tell() > _UNPACKED_LIMIT:
            raise InputError(
                f"{where}: unpacks to more than {_UNPACKED_LIMIT >> 20} MiB: not CIFAR-10, or a "
                "decompression bomb"
            )


def _members(where: str, unpacked: IO[bytes]) -> dict[str, np.ndarray]:
    """Return the bytes of each member by file name, mapped from `unpacked`."""
    content = np.memmap(unpacked, np.uint8, "r")
    unpacked.seek(0)
    known: dict[str, np.ndarray] = {}
    with tarfile.open(fileobj=_Headers(unpacked.fileno(), closefd=False), mode="r:") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if _PYTHON.fullmatch(path.name):
                raise InputError(
                    f"{where}: member {member.name!r} belongs to the python version of CIFAR-10, which is pickled: "
                    "reading it would run code from the file. Use the binary version, cifar-10-binary.tar.gz"
                )
            if member.isdir():
                continue
            outside = path.is_absolute() or ".." in path.parts
            if outside or not member.isreg() or member.issparse():
                raise InputError(
                    f"{where}: member {member.name!r} is a link, device or sparse file, or "
                    "points outside of the archive; keep only files"
                )
            if not _KNOWN.fullmatch(path.name):
                raise InputError(
                    f"{where}: member {member.name!r} is not part of CIFAR-10's binary version "
                    f"(data_batch_N.bin, test_batch.bin, {_CLASSES})"
                )
            if path.name in known:
                raise InputError(f"{where}: member {path.name!r} occurs twice; keep one")
            known[path.name] = content[member.offset_data :][: max(0, member.size)]
            if len(known[path.name]) != member.size:
                raise tarfile.ReadError(f"it ends inside of member {member.name!r}")
        # tarfile treats a damaged header, or the end of the file, as the end of the archive.
        if content[tar.offset : tar.offset + 1024].tobytes() != bytes(1024):
            raise tarfile.ReadError("it has a damaged header, or no end mark")
    return known


def _batch(where: str, data: np.ndarray) -> Batch:
    if not len(data) or len(data) % _RECORD:
        raise InputError(
            f"{where}: has {len(data)} bytes, not a multiple of {_RECORD} (1 label and 32 x 32 x 3 colour bytes)"
        )
    records = data.reshape(-1, _RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = records[:, 0].astype(np.int64)
    return Batch(where, images, labels, np.full(len(labels), where.endswith("test_batch.bin")))


class _Headers(io.FileIO):
    """Lets tarfile read at most 64 KiB of an archive: its headers.

    This limits their size, number and depth, and stops on negative sizes, with which tarfile would loop for ever.
    """

    _left = _TEXT_LIMIT

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= self._left:
            raise tarfile.ReadError(f"its headers have more than {_TEXT_LIMIT} bytes")
        self._left -= size
        return super().read(size)
