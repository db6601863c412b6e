"""Decides which files of a landing location start a training run. Pure: no Dagster, no clock, no I/O.

A tick has two steps, with the reading of file contents between them: `select` returns the files that are complete
and unknown, `decide` turns their digests into at most one run. A file counts once per content (sha256).
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

from jukebox_orch.sensors.trigger_types import (
    EVENT_ID_TAG,
    EVENT_TAG,
    Decision,
    RunEvent,
    StartedEvent,
    count,
    names,
)

EVENT = "new_data"
SUCCESS_MARKER = "_SUCCESS"
MANIFEST = "SHA256SUMS"
MAX_FILES_IN_RUN = 10_000
"""Dagster checks the run config again in each step, which takes it about a second for these."""
MAX_PATH_LENGTH = 1024

# Letters, digits and the punctuation of ordinary file names. Left out on purpose: `*?[]{}` (fsspec expands
# globs), `\` and control characters, quotes, `$;|&<>` and `%#` (URL escapes).
_SAFE_PATH = re.compile(r"[\w][\w .+=,@():~-]*(/[\w][\w .+=,@():~-]*)*")


class Entry(NamedTuple):
    """One entry of the location.

    `path` is relative to the location, `/`-separated; `size` in bytes; `token` changes whenever the content
    may have changed (ETag, or modification and change time); `changed_at` in seconds since the epoch by the
    store's clock, None where it has none.
    """

    path: str
    size: int
    token: str
    changed_at: float | None
    kind: Literal["file", "symlink", "special"] = "file"


@dataclass(frozen=True)
class Listing:
    """Result of listing the location once.

    `unchanged` are paths whose size and token the state already has; a location may leave them out of `entries`.
    `covered` are the ranges of paths (after, up to) that were listed completely, None meaning the end; a large
    bucket is listed in ranges, and `sweep` is the path after which the next tick continues. `manifests` maps a
    folder to the digests in its `SHA256SUMS`. `unreadable` maps a folder (ending in `/`), an entry or a manifest that
    could not be read to the reason; the rest of the location is listed.
    """

    entries: Sequence[Entry]
    unchanged: Set[str] = frozenset()
    covered: Sequence[tuple[str, str | None]] = (("", None),)
    sweep: str = ""
    manifests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NewDataState:
    """State of the sensor.

    `files`: path -> [size, token, sha256] of files that have been decided, in the order of their arrival. `waiting`:
    path -> [size, token, first seen] of files not yet complete. `gone`: digests of decided contents that are no longer
    listed. `markers`: folder -> time of its `_SUCCESS`.
    """

    files: Mapping[str, Sequence] = field(default_factory=dict)
    waiting: Mapping[str, Sequence] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    markers: Mapping[str, float] = field(default_factory=dict)
    sweep: str = ""

    def knows(self, path: str, size: int, token: str) -> bool:
        """Return whether the file has been decided with this size and token."""
        known = self.files.get(path)
        return known is not None and known[1] == token and known[0] == size

    def decided(self) -> set[str]:
        """Return the digests of all contents that already had a run."""
        return {known[2] for known in self.files.values()} | self.gone


@dataclass(frozen=True)
class Limits:
    """Conditions for a complete file, and limits of one run; the fields of `NewDataTrigger`."""

    patterns: Sequence[str] = ("*",)
    complete_when: Literal["quiet", "success_marker", "manifest"] = "quiet"
    quiet_seconds: float = 30
    include_earlier: bool = False
    max_files_per_run: int = 1_000
    max_file_bytes: int = 2 * 1024**3


@dataclass(frozen=True)
class Selection:
    """Files whose content must be read now (`ready`, oldest first), and the files that wait or are refused."""

    ready: Sequence[Entry]
    waiting: Mapping[str, Sequence]
    markers: Mapping[str, float]
    refused: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Contents:
    """Result of reading files: path -> sha256, and path -> reason why a file could not be read."""

    digests: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)


def select(listing: Listing, state: NewDataState, now: float, limits: Limits) -> Selection:
    """Select the files that are complete, safe and not yet known with their current size and token."""
    markers = {
        **({} if _is_complete(listing) else state.markers),
        **{
            _folder(entry.path): entry.changed_at or now
            for entry in listing.entries
            if entry.path.endswith(SUCCESS_MARKER) and _name(entry.path) == SUCCESS_MARKER
        },
    }
    ready: list[Entry] = []
    waiting: dict[str, Sequence] = {}
    refused: dict[str, list[str]] = {}
    for entry in listing.entries:
        if state.knows(entry.path, entry.size, entry.token):
            continue
        if _name(entry.path) in (SUCCESS_MARKER, MANIFEST) or not _matches(entry.path, limits.patterns):
            continue
        if problem := _refusal(entry, limits):
            refused.setdefault(problem, []).append(entry.path)
            continue
        seen = state.waiting.get(entry.path)
        first_seen = seen[2] if seen and seen[0] == entry.size and seen[1] == entry.token else now
        in_manifest = _name(entry.path) in listing.manifests.get(_folder(entry.path), {})
        ready_by = {
            "quiet": _is_quiet(entry, first_seen, now, limits.quiet_seconds),
            "success_marker": _is_marked(entry, markers),
            "manifest": in_manifest,
        }
        if ready_by[limits.complete_when]:
            ready.append(entry)
        else:
            waiting[entry.path] = [entry.size, entry.token, first_seen]
    if not _is_complete(listing):
        listed = listing.unchanged | {entry.path for entry in listing.entries}
        waiting |= {path: seen for path, seen in state.waiting.items() if path not in listed}
    ready.sort(key=lambda entry: (entry.changed_at or 0, entry.path))
    return Selection(ready, waiting, markers, refused)


def decide(
    listing: Listing,
    state: NewDataState,
    selection: Selection,
    contents: Contents,
    *,
    location: str,
    limits: Limits,
    started: Collection[str] = (),
) -> Decision[NewDataState]:
    """Request at most one run on the new contents.

    Args:
        listing: The listing of this tick.
        state: The sensor's state.
        selection: The files that `select` returned.
        contents: Contents of the selected files that this tick has read, at most `max_files_per_run`; the next ticks
            read the rest.
        location: Prefix of a path that gives the URL a run reads; the run's `source.location`.
        limits: The trigger's settings.
        started: Digests of earlier runs, in addition to those in the state.
    """
    digests, failures = contents.digests, contents.failures
    files, gone = _without_vanished(listing, state)
    new: dict[str, str] = {}
    read = 0
    if digests:
        files, decided = dict(files), state.decided() | set(started)
        for entry in selection.ready:
            digest = digests.get(entry.path)
            if digest is None:
                continue
            expected = listing.manifests.get(_folder(entry.path), {}).get(_name(entry.path))
            if limits.complete_when == "manifest" and digest != expected:
                failures = {**failures, entry.path: f"its content does not match {MANIFEST}"}
                continue
            read += 1
            replaced = files.pop(entry.path, None)  # so that the order of `files` is that of arrival
            if replaced is not None and replaced[2] != digest:
                gone = gone | {replaced[2]}
            files[entry.path] = [entry.size, entry.token, digest]
            if digest not in decided:
                new.setdefault(digest, entry.path)
    after = replace(
        state,
        files=files,
        gone=gone,
        waiting=selection.waiting if selection.waiting != state.waiting else state.waiting,
        markers=selection.markers if limits.complete_when == "success_marker" else {},
        sweep=listing.sweep,
    )
    earlier = _earlier(files, new, selection, digests) if new and limits.include_earlier else {}
    left_out = max(0, len(new) + len(earlier) - MAX_FILES_IN_RUN)
    earlier = dict(list(earlier.items())[left_out:])
    notes, warnings = _reasons(selection, failures, read, new)
    warnings += _not_read(listing.unreadable)
    if left_out:
        warnings.append(
            f"{count(left_out, 'earlier file')} left out of the run, the first that arrived: a run names at most "
            f"{MAX_FILES_IN_RUN:,} files; merge old files into fewer, or set include_earlier: false"
        )
    listed = len(listing.entries) + len(listing.unchanged)
    seen = f"{count(listed, 'entry', 'entries')} listed in {location}"
    requests = [_request(new, earlier, left_out, location)] if new else []
    return Decision(requests, after if after != state else state, seen, notes, warnings)


def rebuilt(started: Iterable[StartedEvent]) -> NewDataState:
    """Return the state in which every content that already had a run is known, so that it starts no second run."""
    return NewDataState(gone=frozenset(started_digests(started)))


def started_digests(started: Iterable[StartedEvent]) -> set[str]:
    """Return the sha256 of every file in the run config of earlier runs."""
    return {
        file["sha256"] for event in started for file in event.run_config.get("source", {}).get("files", [])
    }


def _request(new: Mapping[str, str], earlier: Mapping[str, str], left_out: int, location: str) -> RunEvent:
    key = hashlib.sha256("\n".join(sorted(new)).encode()).hexdigest()
    files = [
        {"url": location + path, "sha256": digest}
        for group in (earlier, new)
        for digest, path in sorted(group.items(), key=lambda item: item[1])
    ]
    shown = [digest[:12] for digest in sorted(new)]
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return RunEvent(
        run_key=f"{EVENT}:{key}",
        # The location names the dataset: the files alone would, differently for each subfolder.
        run_config={"source": {"location": location, "files": files}},
        tags={
            EVENT_TAG: EVENT,
            EVENT_ID_TAG: key[:32],
            "jukebox/file_count": str(len(new)),
            "jukebox/file_digests": ",".join(shown[:8]) + more,
            **({"jukebox/earlier_files_left_out": str(left_out)} if left_out else {}),
        },
    )


def _earlier(
    files: Mapping[str, Sequence],
    new: Mapping[str, str],
    selection: Selection,
    digests: Mapping[str, str],
) -> dict[str, str]:
    """Return digest -> path of the other decided files that still exist unchanged, in order of arrival."""
    changed = {*selection.waiting, *(entry.path for entry in selection.ready if entry.path not in digests)}
    changed.update(*selection.refused.values())
    earlier: dict[str, str] = {}
    for path, known in files.items():
        if known[2] not in new and path not in changed:
            earlier.setdefault(known[2], path)
    return earlier


def _without_vanished(listing: Listing, state: NewDataState) -> tuple[Mapping[str, Sequence], frozenset[str]]:
    """Drop paths that vanished, but keep the digests of contents that already had a run."""
    if len(listing.unchanged) == len(state.files):
        return state.files, state.gone
    missing = state.files.keys() - listing.unchanged - {entry.path for entry in listing.entries}
    if not _is_complete(listing):
        missing = {path for path in missing if _is_covered(path, listing.covered)}
    if not missing:
        return state.files, state.gone
    files = {path: known for path, known in state.files.items() if path not in missing}
    return files, state.gone | {state.files[path][2] for path in missing}


def _reasons(
    selection: Selection, failures: Mapping[str, str], read: int, new: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    notes: list[str] = []
    warnings = [
        f"refused ({problem}): {names(paths)}" for problem, paths in sorted(selection.refused.items())
    ]
    warnings += _not_read(failures)
    if selection.waiting:
        notes.append(f"{count(len(selection.waiting), 'file')} not complete yet: {names(selection.waiting)}")
    if known := read - len(new):
        notes.append(f"{count(known, 'file')} whose content already had a run")
    if left := len(selection.ready) - read - len(failures):
        notes.append(f"{count(left, 'file')} left for the next tick")
    if not new and not notes and not warnings:
        notes.append("nothing new")
    return notes, warnings


def _not_read(failures: Mapping[str, str]) -> list[str]:
    by_failure: dict[str, list[str]] = {}
    for path, failure in failures.items():
        by_failure.setdefault(failure, []).append(path)
    return [f"not read ({failure}): {names(paths)}" for failure, paths in sorted(by_failure.items())]


def _refusal(entry: Entry, limits: Limits) -> str | None:
    parts = entry.path.split("/")
    unsafe_name = (
        len(entry.path) > MAX_PATH_LENGTH or "::" in entry.path or not _SAFE_PATH.fullmatch(entry.path)
    )
    problems = {
        "symbolic link": entry.kind == "symlink",
        "neither a file nor a folder": entry.kind == "special",
        "path with `..` or empty parts": any(part in ("..", ".", "") for part in parts),
        "hidden": any(part.startswith((".", "_")) for part in parts),
        "unsafe name": unsafe_name,
        "empty": entry.size == 0,
        f"larger than max_file_bytes, {limits.max_file_bytes:,}": entry.size > limits.max_file_bytes,
    }
    return next((problem for problem, applies in problems.items() if applies), None)


def _is_quiet(entry: Entry, first_seen: float, now: float, quiet_seconds: float) -> bool:
    # If the store's clock is ahead of ours, its time is not usable; then only the time we saw the file counts.
    changed_at = entry.changed_at if entry.changed_at is not None and entry.changed_at <= now else now
    return now - min(first_seen, changed_at) >= quiet_seconds


def _is_marked(entry: Entry, markers: Mapping[str, float]) -> bool:
    marked = markers.get(_folder(entry.path))
    return marked is not None and (entry.changed_at is None or entry.changed_at <= marked)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) or fnmatchcase(_name(path), pattern) for pattern in patterns)


def _is_complete(listing: Listing) -> bool:
    return list(listing.covered) == [("", None)]


def _is_covered(path: str, covered: Sequence[tuple[str, str | None]]) -> bool:
    return any(path > after and (upto is None or path <= upto) for after, upto in covered)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
