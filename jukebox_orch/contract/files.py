"""Read a file by path or fsspec URL and verify its sha256. For use in `ModelProject.load`."""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from jukebox_orch.contract.settings import InputError, SourceFile

_BLOCK = 1 << 20

_WEB = ("http", "https")
_LOCAL = ("file", "local")

# fsspec chains URLs with `::`, as in `simplecache::https://host/a.csv`; an IPv6 address has it too.
_CHAIN = re.compile(r"::(?=[\w+.-]+(?:://|::|$))")

# User name and password, then the part that may be shown: a host name or an address in brackets, and a port.
_AUTHORITY = re.compile(r"(?:.*@)?((?:\[[^\]@]*\]|[^@:\[\]]*)(?::\d*)?)")


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


def display_url(url: str) -> str:
    """Return `url` for messages: without user name, password, query and fragment, which may hold a signature.

    A local path is shown as it is, because `?` and `#` are part of its name. A name that is not UTF-8 is escaped, so
    that it can be printed and stored.
    """
    shown = "::".join(_without_secrets(link) for link in _CHAIN.split(url))
    return shown.encode("utf-8", "backslashreplace").decode()


def url_path(url: str) -> str:
    """Return the part of `url` that names the file, to take its suffix or folder from.

    A web URL loses its query and fragment. Any other URL or path is returned unchanged: `?` and `#` are part of its
    name.
    """
    links = _CHAIN.split(url)
    named = next((link for link in links if "://" in link), links[0])
    web = named.partition("://")[0].lower() in _WEB
    return re.split("[?#]", named, maxsplit=1)[0] if web else named


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


def _without_secrets(link: str) -> str:
    scheme, separator, rest = link.partition("://")
    if not separator:
        return link
    if scheme in _LOCAL:
        return rest
    authority, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    shown = _AUTHORITY.fullmatch(authority)
    # No match: the password has a `/`, `?` or `#`, so the rest of it is in what looks like the path.
    return f"{scheme}://{shown[1]}{slash}{path}" if shown else f"{scheme}://…"


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
