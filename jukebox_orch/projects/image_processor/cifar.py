"""The binary version of CIFAR-10: a tar archive of batches, each image 1 label byte and 3 x 1024 colour bytes.

Format: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version". Nothing is extracted to disk: members
are read in passing and only those that the format knows.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, cast

import numpy as np

from jukebox_orch.contract import InputError

_RECORD = 1 + 3 * 32 * 32
# The published archive unpacks to 185 MB. More than this is something else, or an attack.
_UNPACKED_LIMIT = 512 << 20
_BATCH = re.compile(r"data_batch_\d+\.bin|test_batch\.bin")
_META = "batches.meta.txt"
_PYTHON = re.compile(r"data_batch_\d+|test_batch|batches\.meta|.*\.(pkl|pickle)")


@dataclass(frozen=True)
class Batch:
    """One batch: `images` uint8 (n, 32, 32, 3), `labels` int64 (n,), `test`: the published test batch."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    test: bool


def read_cifar(url: str, archive: IO[bytes]) -> tuple[list[str], list[Batch]]:
    """Class names and batches of a `.tar` or `.tar.gz`.

    Raises:
        InputError: the archive is damaged, hostile, the pickled python version, or not CIFAR-10.
    """
    classes: list[str] = []
    batches: list[Batch] = []
    try:
        for name, data in _members(url, archive):
            if name == _META:
                classes = data.decode().split()
            else:
                batches.append(_batch(f"{url}: {name}", name, data))
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise InputError(f"{url}: the archive is damaged or truncated: {error}") from error
    if not classes:
        raise InputError(f"{url}: {_META} with the class names is missing")
    if all(batch.test for batch in batches):
        raise InputError(f"{url}: there is no data_batch_N.bin with images to learn from")
    return classes, sorted(batches, key=lambda batch: batch.name)


def _members(url: str, archive: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the members that the format knows; the rest is refused before it is read."""
    compressed = archive.read(2) == b"\x1f\x8b"
    archive.seek(0)
    plain = gzip.GzipFile(fileobj=archive) if compressed else archive
    seen: set[str] = set()
    stream = _Limited(url, plain)
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f"{url}: member {member.name!r} points outside of the archive: refused")
            if _PYTHON.fullmatch(path.name):
                raise InputError(
                    f"{url}: member {member.name!r} belongs to the python version of CIFAR-10, which is pickle: "
                    "reading it would run code from the file. Use the binary version, cifar-10-binary.tar.gz"
                )
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise InputError(f"{url}: member {member.name!r} is a link, device or sparse file: refused")
            if path.name == "readme.html":
                continue
            if not (_BATCH.fullmatch(path.name) or path.name == _META):
                raise InputError(
                    f"{url}: member {member.name!r} is not part of CIFAR-10's binary version "
                    f"(data_batch_N.bin, test_batch.bin, {_META})"
                )
            if path.name in seen:
                raise InputError(f"{url}: member {path.name!r} occurs twice")
            seen.add(path.name)
            content = tar.extractfile(member)
            yield path.name, content.read() if content else b""
    # A tar ends before its gzip stream does: only the rest has the checksum.
    while stream.read(1 << 20):
        pass
    if stream.tail != bytes(len(stream.tail)):
        raise InputError(f"{url}: the archive is damaged or truncated: it has no end mark")


def _batch(where: str, name: str, data: bytes) -> Batch:
    if not data or len(data) % _RECORD:
        raise InputError(
            f"{where}: has {len(data)} bytes, not a multiple of {_RECORD} (1 label and 32 x 32 x 3 colour bytes)"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Batch(name, images, records[:, 0].astype(np.int64), name == "test_batch.bin")


class _Limited:
    """A stream that ends with an error, not with the machine's memory, when it is a decompression bomb."""

    def __init__(self, url: str, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._url = url
        self._stream = stream
        self._left = _UNPACKED_LIMIT
        self.tail = b""
        """The last 1024 bytes read; a tar archive ends with as many zeros."""

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left + 1))
        self._left -= len(data)
        self.tail = (self.tail + data)[-1024:]
        if self._left < 0:
            raise InputError(
                f"{self._url}: unpacks to more than {_UNPACKED_LIMIT >> 20} MiB: not CIFAR-10, or a "
                "decompression bomb"
            )
        return data
