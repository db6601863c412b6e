"""Files by path or fsspec URL, pinned to the digest that the source names."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from jukebox_orch.project import InputError, SourceFile

_BLOCK = 1 << 20


@contextmanager
def fetched(file: SourceFile) -> Iterator[IO[bytes]]:
    """A private, verified copy of the file: what is read cannot change after its digest was taken.

    Raises:
        InputError: the file is missing, not a regular file, or does not have its digest.
    """
    with tempfile.TemporaryFile() as copy:
        state = hashlib.sha256()
        with _opened(file.url) as stream:
            while block := stream.read(_BLOCK):
                state.update(block)
                copy.write(block)
        _verify(file, state.hexdigest())
        copy.seek(0)
        yield copy


def content(file: SourceFile, limit: int) -> bytes:
    """The bytes of a small file, verified.

    Raises:
        InputError: as `fetched`, or the file has more than `limit` bytes.
    """
    with _opened(file.url) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{file.url}: larger than {limit >> 20} MiB")
    if file.sha256:
        _verify(file, hashlib.sha256(data).hexdigest())
    return data


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(url)
        if fs.info(path)["type"] != "file":  # a FIFO would block for ever, a device never end
            raise InputError(f"{url}: not a regular file")
        stream = fs.open(path, "rb")
    except FileNotFoundError as error:
        raise InputError(f"{url}: there is no such file") from error
    except PermissionError as error:
        raise InputError(f"{url}: this process may not read the file") from error
    except ImportError as error:
        raise InputError(f"{url}: {error}") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{url}: not a path or fsspec URL: {error}") from error
    with stream:
        yield stream


def _verify(file: SourceFile, digest: str) -> None:
    if file.sha256 and file.sha256.lower() != digest:
        raise InputError(
            f"{file.url}: has sha256 {digest}, but {file.sha256} was asked for: the file was changed or is "
            "not the one that was meant"
        )
