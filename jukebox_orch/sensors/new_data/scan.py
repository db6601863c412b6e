"""Lists a landing location and reads file contents, in bounded time."""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import httpx

from jukebox_orch.sensors.new_data.decision import MANIFEST, Contents, Entry, Listing, NewDataState
from jukebox_orch.sensors.new_data.locations import Location, error_text
from jukebox_orch.sensors.trigger_types import SourceUnavailableError

SCAN_SECONDS = 20.0
READ_SECONDS = 25.0
"""Both together are below the 60 s that Dagster allows for one sensor evaluation."""
_READERS = 8
_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "fsspec", "s3fs")
_MANIFEST_BYTES = 16 * 1024**2

T = TypeVar("T")


def scan(
    location: Location, state: NewDataState, with_manifests: bool = False, seconds: float = SCAN_SECONDS
) -> Listing:
    """List a location and, with `with_manifests`, read the manifests of folders with unknown files.

    Raises:
        SourceUnavailableError: It does not exist, refuses, or does not answer within `seconds`.
    """

    def list_all() -> Listing:
        listing = location.scan(state)
        if not with_manifests:
            return listing
        folders = {e.path.rpartition("/")[0] for e in listing.entries if e.path not in state.files}
        manifests, unreadable = _manifests(location, folders)
        return replace(listing, manifests=manifests, unreadable={**listing.unreadable, **unreadable})

    return _within(seconds, location.prefix, list_all)


def read_digests(
    location: Location, entries: Sequence[Entry], limit: int, seconds: float = READ_SECONDS
) -> Contents:
    """Read files in order until `limit` were read or the time is over. Files in neither result were not reached."""
    digests: dict[str, str] = {}
    failures: dict[str, str] = {}
    deadline = time.monotonic() + seconds

    def read(entry: Entry) -> None:
        try:
            digests[entry.path] = _digest(location, entry, deadline)
        except TimeoutError:
            if entry in entries[:_READERS]:  # it had all of the time; later files are read in the next tick
                failures[entry.path] = f"reading takes longer than the {seconds:.0f} s of a tick"
        except Exception as error:
            if not _is_source_error(error):
                raise
            failures[entry.path] = error_text(error)

    position = 0
    with ThreadPoolExecutor(_READERS) as readers:
        while position < len(entries) and len(digests) < limit and time.monotonic() < deadline:
            batch = entries[position : position + min(_READERS, limit - len(digests))]
            list(readers.map(read, batch))
            position += len(batch)
    return Contents(digests, failures)


def _within(seconds: float, label: str, function: Callable[[], T]) -> T:
    """Call the function in a thread and stop waiting after `seconds`: a hanging mount cannot be interrupted.

    Raises:
        SourceUnavailableError: The time is over, or the source raised an error.
    """
    outcome: list[T] = []
    problems: list[Exception] = []

    def call() -> None:
        try:
            outcome.append(function())
        except Exception as error:  # noqa: BLE001 - raised again below
            problems.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if outcome:
        return outcome[0]
    if not problems:
        raise SourceUnavailableError(f"{label} did not answer within {seconds:.0f} s")
    error = problems[0]
    if isinstance(error, SourceUnavailableError):
        raise error
    if _is_source_error(error):
        raise SourceUnavailableError(f"{label} cannot be listed: {error_text(error)}") from error
    raise error


def _digest(location: Location, entry: Entry, deadline: float) -> str:
    sha256 = hashlib.sha256()
    for chunk in location.chunks(entry):
        sha256.update(chunk)
        if time.monotonic() > deadline:
            raise TimeoutError
    return sha256.hexdigest()


def _manifests(
    location: Location, folders: Collection[str]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Read the SHA256SUMS of folders, in the format of the `sha256sum` command.

    Returns:
        folder -> file name -> sha256, and path of a manifest that cannot be read -> reason.
    """
    manifests: dict[str, dict[str, str]] = {}
    unreadable: dict[str, str] = {}
    for folder in sorted(folders):
        path = f"{folder}/{MANIFEST}" if folder else MANIFEST
        try:
            entry = location.entry(path)
            if entry is None or entry.kind != "file" or entry.size > _MANIFEST_BYTES:
                continue
            text = b"".join(location.chunks(entry)).decode(errors="replace")
        except Exception as error:
            if not _is_source_error(error):
                raise
            unreadable[path] = error_text(error)
            continue
        lines = re.finditer(r"^([0-9a-f]{64}) [ *](?:\./)?(.+?)\r?$", text, re.MULTILINE)
        manifests[folder] = {line[2]: line[1] for line in lines}
    return manifests, unreadable


def _is_source_error(error: Exception) -> bool:
    """Return whether the source failed, not our code, without importing the optional client libraries."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | ValueError | httpx.HTTPError | ImportError) or library in _CLIENTS
