"""Files by path or fsspec URL, pinned to the digest that a source names; for every project's `load`."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO
from urllib.parse import urlsplit

from jukebox_orch.contract.settings import InputError, SourceFile

_BLOCK = 1 << 20


@contextmanager
def open_verified(file: SourceFile) -> Iterator[IO[bytes]]:
    """A private, verified copy of the file: what is read cannot change after its digest was taken.

    The copy is an unnamed temporary file below `TMPDIR`.

    Raises:
        InputError: the file is missing, not a regular file, not readable, or does not have its digest.
        OSError: a server or network failed; trying again may help.
    """
    with tempfile.TemporaryFile() as copy:
        state = hashlib.sha256()
        for block in _blocks(file.url):
            state.update(block)
            copy.write(block)
        _verify(file, state.hexdigest())
        copy.seek(0)
        yield copy


def read_bytes(file: SourceFile, limit: int = 1 << 30) -> bytes:
    """The file's bytes, verified.

    Raises:
        InputError: as `open_verified`, or the file has more than `limit` bytes.
        OSError: a server or network failed; trying again may help.
    """
    buffer = io.BytesIO()
    for block in _blocks(file.url):
        buffer.write(block)
        if buffer.tell() > limit:
            raise InputError(f"{display_url(file.url)}: larger than {limit >> 20} MiB; split it")
    data = buffer.getvalue()
    if file.sha256:
        _verify(file, hashlib.sha256(data).hexdigest())
    return data


def display_url(url: str) -> str:
    """`url` for messages: without user name, password and signed query."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}".removeprefix("file://")


def read_error(url: str, error: Exception) -> Exception:
    """What to raise for `error`: an InputError, or an OSError where trying again may help."""
    where = display_url(url)
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # fsspec says "not found" for every failure of a web server
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return InputError(f"{where}: not found; check the path or URL")
    if isinstance(error, PermissionError) or status in (401, 403):
        return InputError(f"{where}: access denied; check permissions or credentials")
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return InputError(f"{where}: is not a regular file")
    if isinstance(error, ImportError):
        return InputError(f"{where}: this kind of URL needs another package: {error}")
    if isinstance(error, ValueError) or (status and status < 500):
        return InputError(f"{where}: cannot be read: {error or status}")
    reason = f"HTTP status {status}" if status else f"{type(error).__name__}: {error}"
    return OSError(f"{where}: cannot be read now: {reason}; try again later")


def _blocks(url: str) -> Iterator[bytes]:
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(url)
        # A FIFO would block for ever, a device never end.
        if fs.info(path)["type"] != "file":
            raise IsADirectoryError(url)
        with fs.open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                yield block
    except Exception as error:  # noqa: BLE001 - every file system of fsspec has errors of its own
        # Their texts may show credentials, so they are not chained.
        raise read_error(url, error) from None


def _verify(file: SourceFile, digest: str) -> None:
    if file.sha256 and file.sha256.lower() != digest:
        raise InputError(
            f"{display_url(file.url)}: has sha256 {digest}, expected {file.sha256}: the file was changed or is another "
            "one; restore it or give its present digest"
        )
