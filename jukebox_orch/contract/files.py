"""Read a file by path or fsspec URL and verify its sha256. For use in `ModelProject.load`."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from jukebox_orch.contract.settings import InputError, Source, SourceFile
from jukebox_orch.contract.urls import display_url

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 1 << 20


@contextmanager
def open_verified(file: SourceFile) -> Iterator[IO[bytes]]:
    """Open a private, verified copy of the file, so that it cannot change after it was verified.

    The copy is an unnamed temporary file below `TMPDIR`.

    Raises:
        InputError: the file is missing, not a regular file, not readable, or has another digest.
        OSError: a server or network failed; a retry may succeed.
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
    """Return the file's bytes, verified.

    Raises:
        InputError: as `open_verified`, or the file has more than `limit` bytes.
        OSError: a server or network failed; a retry may succeed.
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


def read_csv(source: Source, sample: Path, **options: Any) -> pd.DataFrame:
    """Return the CSV files of a source as one table: its `files`, else its `location`, else the file `sample`.

    Args:
        source: the source of a run.
        sample: the project's embedded sample.
        options: for `pandas.read_csv`, for example `dtype={"code": "str"}`.

    Raises:
        InputError: a file is not a CSV file; or as `read_bytes`.
        OSError: a server or network failed; a retry may succeed.
    """
    import pandas as pd

    tables = []
    for file in source.files or [SourceFile(url=source.location or str(sample))]:
        try:
            tables.append(pd.read_csv(io.BytesIO(read_bytes(file)), **options))
        except InputError:
            raise
        except ValueError as error:  # all errors of the parser
            raise InputError(f"{display_url(file.url)}: is not a CSV file as expected: {error}") from error
    return pd.concat(tables, ignore_index=True)


def read_error(url: str, error: Exception) -> Exception:
    """Return the exception to raise for `error`: an InputError, or an OSError if a retry may succeed."""
    where = display_url(url)
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # fsspec raises FileNotFoundError for every failure of a web server
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return InputError(f"{where}: not found; check the path or URL")
    if isinstance(error, PermissionError) or status in (401, 403):
        return InputError(f"{where}: access denied; check permissions or credentials")
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return InputError(f"{where}: is not a regular file")
    if isinstance(error, ImportError):
        return InputError(f"{where}: this kind of URL needs another package: {error}")
    reason = f"HTTP status {status}" if status else _reason(url, error)
    if isinstance(error, ValueError) or (status and status < 500):
        return InputError(f"{where}: cannot be read: {reason}; check the path or URL")
    return OSError(f"{where}: cannot be read now: {reason}; try again later")


def _reason(url: str, error: Exception) -> str:
    """Return the text of `error`; only its type if `url` has parts to hide, because the text may repeat them."""
    kind = type(error).__name__
    if display_url(url) != url.removeprefix("file://"):
        return f"{kind} (its text is hidden, it may contain the password or signature of the URL)"
    return str(error) if isinstance(error, ValueError) else f"{kind}: {error}"


def _blocks(url: str) -> Iterator[bytes]:
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(url)
        # Reading a FIFO may block for ever, and a device may never end.
        if fs.info(path)["type"] != "file":
            raise IsADirectoryError(url)
        with fs.open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                yield block
    except Exception as error:  # noqa: BLE001 - every fsspec file system raises its own errors
        # Not chained, because the error text may contain credentials.
        raise read_error(url, error) from None


def _verify(file: SourceFile, digest: str) -> None:
    if file.sha256 and file.sha256.lower() != digest:
        raise InputError(
            f"{display_url(file.url)}: has sha256 {digest}, expected {file.sha256}: the file was changed or replaced; "
            "restore it or set its new digest"
        )
