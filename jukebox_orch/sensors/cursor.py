"""Packs what a sensor remembers into a small versioned cursor.

A cursor is one JSON object: format version, kind of trigger, the watched source, small `head` values, and the
body, compressed. A body that would make the cursor large goes into an immutable snapshot file named by its
sha256, and the cursor holds that name: the daemon commits the cursor together with the run ids it reserves, so
a crash leaves either the old cursor with the old snapshot or the new one with the new.
"""

import base64
import hashlib
import json
import re
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from jukebox_orch.sensors.decisions import SourceUnavailableError

FORMAT_VERSION = 1
INLINE_BYTES = 32 * 1024
"""The largest body inside the cursor; a cursor stays below 64 KiB."""
MAX_BODY_BYTES = 1024**3
_ORPHAN_SECONDS = 24 * 3600

State = TypeVar("State")


class CursorError(Exception):
    """The cursor cannot be used; the message says why. The sensor rebuilds it from the runs that exist."""


class CursorCodec:
    """The cursors of one sensor: of one kind of trigger that watches one source."""

    def __init__(self, kind: str, source: str, root: str):
        """Keep bodies that are too large for a cursor below `root`, a folder or fsspec URL."""
        self._kind = kind
        self._source = source
        self._store = SnapshotStore(root)

    def encode(self, head: Mapping[str, Any], body: dict[str, Any], previous: str | None = None) -> str:
        """Return the cursor of this state.

        Args:
            head: Values that change without the body changing.
            body: The state, as JSON values.
            previous: The cursor this one replaces; its snapshot stays until this one is committed.

        Raises:
            SourceUnavailableError: A large body cannot be written.
        """
        packed = zlib.compress(json.dumps(body, separators=(",", ":")).encode(), 1)
        cursor: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "kind": self._kind,
            "source": self._source,
            "head": dict(head),
        }
        if len(packed) <= INLINE_BYTES:
            cursor["body"] = base64.b64encode(packed).decode()
        else:
            cursor["snapshot"] = self._store.write(packed, body)
            self._store.prune((cursor["snapshot"], *_snapshot_names(previous)), time.time())
        return json.dumps(cursor)

    def decode(self, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return head and body of a cursor.

        Raises:
            CursorError: Not a cursor of this trigger and source, damaged, of an unknown version, or its
                snapshot is missing or changed.
            SourceUnavailableError: Its snapshot cannot be read now.
        """
        try:
            cursor = json.loads(text)
        except ValueError:
            raise CursorError("it is not JSON") from None
        if not isinstance(cursor, dict) or not isinstance(cursor.get("version"), int):
            raise CursorError("it has no format version")
        if cursor["version"] != FORMAT_VERSION:
            raise CursorError(
                f"its format version {cursor['version']} is unknown here (this is {FORMAT_VERSION})"
            )
        if cursor.get("kind") != self._kind or cursor.get("source") != self._source:
            raise CursorError(f"it belongs to {cursor.get('kind')} of {cursor.get('source')}")
        head = cursor.get("head")
        if not isinstance(head, dict):
            raise CursorError("it has no head")
        if isinstance(snapshot := cursor.get("snapshot"), str):
            return head, self._store.read(snapshot)
        try:
            packed = base64.b64decode(cursor["body"], validate=True)
        except (KeyError, TypeError, ValueError):
            raise CursorError("its body is damaged") from None
        return head, _unpack(packed)

    def decode_or_none(
        self, cursor: str | None, state_of: Callable[[dict[str, Any], dict[str, Any]], State]
    ) -> tuple[State | None, str | None]:
        """Return the state in the cursor and None; None and None before the first tick; or None and the problem.

        Args:
            state_of: Makes the state of head and body.
        """
        if not cursor:
            return None, None
        try:
            head, body = self.decode(cursor)
            return state_of(head, body), None
        except CursorError as error:
            return None, f"the cursor could not be used ({error}) and was rebuilt from the runs that exist"
        except (KeyError, TypeError, AttributeError) as error:
            return (
                None,
                f"the cursor holds no such state ({error!r}) and was rebuilt from the runs that exist",
            )


def with_head(cursor: str, head: Mapping[str, Any]) -> str:
    """Return the cursor with other head values and the same body."""
    return json.dumps({**json.loads(cursor), "head": dict(head)})


class SnapshotStore:
    """Immutable bodies too large for a cursor, in a folder of any fsspec location."""

    def __init__(self, root: str):
        from upath import UPath

        self._root = UPath(root)
        self._last: tuple[str, dict[str, Any]] | None = None

    def write(self, packed: bytes, body: dict[str, Any]) -> str:
        """Write compressed JSON under its sha256, whole or not at all, and return the sha256."""
        digest = hashlib.sha256(packed).hexdigest()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            partial = self._root / f"{digest}.partial-{time.time_ns()}"
            partial.write_bytes(packed)
            partial.rename(self._root / digest)
        except OSError as error:
            raise SourceUnavailableError(
                f"the sensor's memory in {self._root} cannot be written: {error}"
            ) from error
        self._last = (digest, body)
        return digest

    def read(self, digest: str) -> dict[str, Any]:
        """Return a body, from memory when it is the one last used.

        Raises:
            CursorError: The snapshot is missing or does not have that sha256.
            SourceUnavailableError: The store does not answer.
        """
        if self._last and self._last[0] == digest:
            return self._last[1]
        try:
            packed = (self._root / digest).read_bytes()
        except FileNotFoundError:
            raise CursorError(f"its snapshot {digest[:12]} is missing from {self._root}") from None
        except OSError as error:
            raise SourceUnavailableError(
                f"the sensor's memory in {self._root} cannot be read: {error}"
            ) from error
        if hashlib.sha256(packed).hexdigest() != digest:
            raise CursorError(f"its snapshot {self._root / digest} was changed")
        body = _unpack(packed)
        self._last = (digest, body)
        return body

    def prune(self, keep: Collection[str], now: float) -> None:
        """Delete snapshots that no cursor can name any more: none of `keep`, and older than a day."""
        for path in self._root.iterdir():
            if path.name not in keep and now - path.stat().st_mtime > _ORPHAN_SECONDS:
                path.unlink()


def _snapshot_names(text: str | None) -> list[str]:
    """Find snapshot names in any text, also in a damaged cursor."""
    return re.findall(r"\b[0-9a-f]{64}\b", text or "")


def _unpack(packed: bytes) -> dict[str, Any]:
    unzip = zlib.decompressobj()
    try:
        body = json.loads(unzip.decompress(packed, MAX_BODY_BYTES))
    except (zlib.error, ValueError):
        raise CursorError("its body is damaged") from None
    if not isinstance(body, dict):
        raise CursorError("its body is damaged")
    return body
