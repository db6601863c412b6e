"""Locations that receive new files: local folders, buckets, other fsspec locations, one http(s) file."""

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from jukebox_orch.sensors.new_data.decision import Entry, Listing, NewDataState
from jukebox_orch.sensors.new_data.http_file import HttpFile
from jukebox_orch.sensors.new_data.s3_listing import Range, join_ranges, parse_quickly, split_ranges

SWEEP_SECONDS = 0.5
"""Time in which one tick lists a bucket, besides its newest keys; a large bucket is listed over several ticks."""
_LISTERS = 8
_CHUNK = 1024 * 1024


class Location(Protocol):
    """A location that receives new files. `prefix` plus an entry's path is the URL that a run reads."""

    prefix: str

    def scan(self, state: NewDataState) -> Listing:
        """List the entries. May raise any error of the source."""
        ...

    def entry(self, path: str) -> Entry | None:
        """Return the entry of one path; None if it does not exist."""
        ...

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """Read exactly this version of a listed file. Raise ValueError if the file has changed."""
        ...


def open_location(url: str) -> Location:
    """Return the location of an absolute path, an fsspec URL or an http(s) URL, without accessing it."""
    if urlsplit(url).scheme in ("http", "https"):
        return HttpFile(url)
    options: dict[str, Any] = {}
    if urlsplit(url).scheme in ("s3", "s3a"):
        options = {
            "use_listings_cache": False,
            "config_kwargs": {"connect_timeout": 5, "read_timeout": 10, "retries": {"max_attempts": 2}},
        }
    filesystem, root = fsspec.core.url_to_fs(url, **options)
    if isinstance(filesystem, LocalFileSystem):
        return LocalFolder(Path(root))
    if "s3" in filesystem.protocol:
        return Bucket(filesystem, root)
    return RemoteFolder(filesystem, root)


class LocalFolder:
    """A folder or mounted volume. Symbolic links are listed but never followed."""

    def __init__(self, root: Path):
        self._root = root
        self.prefix = f"{root}/"

    def scan(self, state: NewDataState) -> Listing:
        """List the whole tree."""
        entries: list[Entry] = []
        unchanged: set[str] = set()
        unreadable: dict[str, str] = {}
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self._root / folder) as opened:
                    found = list(opened)
            except OSError as error:
                _note_unreadable(unreadable, folder, error)
                continue
            for item in found:
                path = f"{folder}/{item.name}" if folder else item.name
                try:
                    status = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # deleted between the two calls
                except OSError as error:
                    unreadable[path] = error_text(error)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(path)
                elif state.knows(path, status.st_size, _local_token(status)):
                    unchanged.add(path)
                else:
                    entries.append(_local_entry(path, status))
        return Listing(entries, unchanged, unreadable=unreadable)

    def entry(self, path: str) -> Entry | None:
        """Return the entry of one path without following a link."""
        try:
            return _local_entry(path, os.lstat(self._root / path))
        except FileNotFoundError:
            return None

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """Read without following a link and without waiting for a FIFO's writer."""
        handle = os.open(self._root / entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb", buffering=0) as file:
            _refuse_other_version(entry, _local_entry(entry.path, os.fstat(handle)))
            while chunk := file.read(_CHUNK):
                yield chunk
            _refuse_other_version(entry, _local_entry(entry.path, os.fstat(handle)))


class RemoteFolder:
    """Any other fsspec location."""

    def __init__(self, filesystem: Any, root: str):
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self.prefix = filesystem.unstrip_protocol(self._root) + "/"

    def scan(self, state: NewDataState) -> Listing:
        """List everything below the root."""
        self._filesystem.invalidate_cache()
        unreadable: dict[str, str] = {}
        found = (
            self._filesystem.find(self._root, detail=True)
            if _lists_without_folders(self._filesystem)
            else self._walk(unreadable)
        )
        return Listing([self._entry(name, info) for name, info in found.items()], unreadable=unreadable)

    def _walk(self, unreadable: dict[str, str]) -> dict[str, Mapping[str, Any]]:
        # fsspec's own walk leaves out what it cannot list without a word, even the root.
        found: dict[str, Mapping[str, Any]] = {}
        folders = [self._root]
        while folders:
            folder = folders.pop()
            try:
                listed = self._filesystem.ls(folder, detail=True)
            except OSError as error:
                _note_unreadable(unreadable, folder.removeprefix(self._root).lstrip("/"), error)
                continue
            for info in listed:
                name = info["name"].rstrip("/")
                if info["type"] != "directory":
                    found[name] = info
                elif name != folder:  # some stores list a folder in itself
                    folders.append(name)
        return found

    def entry(self, path: str) -> Entry | None:
        """Return the entry of one path."""
        name = f"{self._root}/{path}"
        try:
            return self._entry(name, self._filesystem.info(name))
        except FileNotFoundError:
            return None

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """Read the file sequentially."""
        name = f"{self._root}/{entry.path}"
        with self._filesystem.open(name, "rb", block_size=8 * _CHUNK) as file:
            info = getattr(file, "details", None) or self._filesystem.info(name)
            _refuse_other_version(entry, self._entry(name, info))
            while chunk := file.read(_CHUNK):
                yield bytes(chunk)

    def _entry(self, name: str, info: Mapping[str, Any]) -> Entry:
        version = next((info[key] for key in ("ETag", "etag", "md5Hash") if info.get(key)), "")
        changed = next(
            (info[k] for k in ("LastModified", "mtime", "updated", "created") if info.get(k)), None
        )
        kind: Literal["file", "symlink", "special"] = "file"
        if info.get("islink") or info.get("type") == "link":
            kind = "symlink"
        elif info.get("type") != "file":
            kind = "special"
        path = name.removeprefix(self._root).lstrip("/")
        return Entry(path, int(info.get("size") or 0), f"{version}:{changed}", _timestamp(changed), kind)


class Bucket(RemoteFolder):
    """An S3 prefix. It is listed in ranges in parallel; a large one over several ticks."""

    def scan(self, state: NewDataState) -> Listing:
        """List the keys after the last known one, then continue where the last tick stopped until the time is over."""
        parse_quickly(self._filesystem.s3)
        deadline = time.monotonic() + SWEEP_SECONDS
        newest, *sweep = split_ranges(state.files, state.sweep)
        always = (newest, *sweep[:1])  # even if the store is slow
        entries: list[Entry] = []
        unchanged: set[str] = set()

        def scan_range(key_range: Range) -> Range:
            after, upto = key_range
            position = after
            while (key_range in always and position == after) or time.monotonic() < deadline:
                items, reached = self._page(position)
                for path, item in items:
                    if upto is not None and path > upto:
                        break
                    size, changed = item["Size"], item["LastModified"]
                    token = f"{item['ETag']}:{changed}"
                    if state.knows(path, size, token):
                        unchanged.add(path)
                    elif path and not path.endswith("/"):
                        entries.append(Entry(path, size, token, changed.timestamp()))
                if reached is None or (upto is not None and reached >= upto):
                    return after, upto
                position = reached
            return after, position

        with ThreadPoolExecutor(_LISTERS) as listers:
            covered = join_ranges(listers.map(scan_range, (newest, *sweep)))
        swept = next(upto for after, upto in covered if after == state.sweep)
        return Listing(entries, unchanged, covered, swept or "")

    def _page(self, after: str) -> tuple[list[tuple[str, Mapping[str, Any]]], str | None]:
        """Return up to 1,000 objects after a path, and the last of their paths, or None if there are no more."""
        bucket, _, key = self._root.partition("/")
        base = f"{key}/" if key else ""
        start = {"StartAfter": base + after} if after else {}
        page = self._filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=base, **start)
        items = [(item["Key"][len(base) :], item) for item in page.get("Contents", [])]
        if not page.get("IsTruncated"):
            return items, None
        if not items or items[-1][0] <= after:
            raise ValueError("the store reports more objects but does not list them")
        return items, items[-1][0]


def _local_entry(path: str, status: os.stat_result) -> Entry:
    mode = status.st_mode
    kind = "file" if stat.S_ISREG(mode) else "symlink" if stat.S_ISLNK(mode) else "special"
    changed_at = max(status.st_mtime, status.st_ctime)
    return Entry(path, status.st_size, _local_token(status), changed_at, kind)


def _local_token(status: os.stat_result) -> str:
    # Programs cannot set the change time, unlike the modification time, which `cp -p` and `tar` restore.
    return f"{status.st_mtime_ns}:{status.st_ctime_ns}"


def error_text(error: Exception) -> str:
    """Return the error in one line; for an OSError without the path, so that equal reasons are grouped."""
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "symbolic link"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300] or type(error).__name__


def _note_unreadable(unreadable: dict[str, str], folder: str, error: OSError) -> None:
    """Note a folder that cannot be listed, unless it was deleted or replaced meanwhile. Raise for the root."""
    if not folder:
        raise error
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        unreadable[f"{folder}/"] = error_text(error)


def _lists_without_folders(filesystem: Any) -> bool:
    """Return whether the store lists all keys below a prefix itself. Object stores do: they have no folders."""
    kind = type(filesystem)
    own_async = getattr(kind, "_find", AsyncFileSystem._find) is not AsyncFileSystem._find
    return own_async or kind.find is not AbstractFileSystem.find


def _refuse_other_version(listed: Entry, found: Entry | None) -> None:
    if found != listed:
        raise ValueError("changed during the tick")


def _timestamp(moment: object) -> float | None:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment) if isinstance(moment, int | float) else None
