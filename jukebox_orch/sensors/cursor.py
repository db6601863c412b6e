"""Encodes the state of a sensor as a small versioned cursor.

A cursor is one JSON object: format version, kind of trigger, the watched source, small `head` values, and the
compressed body. A body that would make the cursor large is stored in an immutable snapshot file named by its
sha256, and the cursor contains that name. The daemon commits the cursor together with the run ids it reserves, so
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

from jukebox_orch.sensors.trigger_types import SourceUnavailableError

FORMAT_VERSION = 1
INLINE_BYTES = 32 * 1024
"""Size limit of a body inside the cursor, which keeps a cursor below 64 KiB."""
MAX_BODY_BYTES = 1024**3
_ORPHAN_SECONDS = 24 * 3600

State = TypeVar("State")


class CursorError(Exception):
    """The cursor cannot be used; the message is the reason. The sensor rebuilds it from the existing runs."""


class CursorCodec:
    """Encodes and decodes the cursors of one sensor, which has one kind of trigger and watches one source."""

    def __init__(self, kind: str, source: str, root: str):
        """Store bodies that are too large for a cursor below `root`, a folder or fsspec URL."""
        self._kind = kind
        self._source = source
        self._store = SnapshotStore(root)

    def encode(self, head: Mapping[str, Any], body: dict[str, Any], previous: str | None = None) -> str:
        """Return the cursor of this state.

        Args:
            head: Values that may change while the body stays the same.
            body: The state, as JSON values.
            previous: The cursor that this one replaces; its snapshot is kept until this one is committed.

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
            CursorError: The text is not a cursor of this trigger and source, is damaged or of an unknown version,
                or its snapshot is missing or changed.
            SourceUnavailableError: The snapshot cannot be read now.
        """
        try:
            cursor = json.loads(text)
        except ValueError:
            raise CursorError("it is not JSON") from None
        if not isinstance(cursor, dict) or not isinstance(cursor.get("version"), int):
            raise CursorError("it has no format version")
        if cursor["version"] != FORMAT_VERSION:
            raise CursorError(
                f"its format version {cursor['version']} is unknown (supported: {FORMAT_VERSION})"
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
            state_of: Builds the state from head and body.
        """
        if not cursor:
            return None, None
        try:
            head, body = self.decode(cursor)
            return state_of(head, body), None
        except CursorError as error:
            return None, f"the cursor could not be used ({error}) and was rebuilt from the existing runs"
        except (KeyError, TypeError, AttributeError) as error:
            return (
                None,
                f"the state in the cursor is invalid ({error!r}) and was rebuilt from the existing runs",
            )


def with_head(cursor: str, head: Mapping[str, Any]) -> str:
    """Return the cursor with other head values and the same body."""
    return json.dumps({**json.loads(cursor), "head": dict(head)})


class SnapshotStore:
    """Stores immutable bodies that are too large for a cursor, in a folder of any fsspec location."""

    def __init__(self, root: str):
        from upath import UPath

        self._root = UPath(root)
        self._last: tuple[str, dict[str, Any]] | None = None

    def write(self, packed: bytes, body: dict[str, Any]) -> str:
        """Write compressed JSON atomically under its sha256, and return the sha256."""
        digest = hashlib.sha256(packed).hexdigest()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            partial = self._root / f"{digest}.partial-{time.time_ns()}"
            partial.write_bytes(packed)
            partial.rename(self._root / digest)
        except OSError as error:
            raise SourceUnavailableError(
                f"the sensor state in {self._root} cannot be written: {error}"
            ) from error
        self._last = (digest, body)
        return digest

    def read(self, digest: str) -> dict[str, Any]:
        """Return a body. The last one used is cached.

        Raises:
            CursorError: The snapshot is missing or does not have that sha256.
            SourceUnavailableError: The store cannot be read.
        """
        if self._last and self._last[0] == digest:
            return self._last[1]
        try:
            packed = (self._root / digest).read_bytes()
        except FileNotFoundError:
            raise CursorError(f"its snapshot {digest[:12]} is missing from {self._root}") from None
        except OSError as error:
            raise SourceUnavailableError(
                f"the sensor state in {self._root} cannot be read: {error}"
            ) from error
        if hashlib.sha256(packed).hexdigest() != digest:
            raise CursorError(f"its snapshot {self._root / digest} was changed")
        body = _unpack(packed)
        self._last = (digest, body)
        return body

    def prune(self, keep: Collection[str], now: float) -> None:
        """Delete snapshots that are not in `keep` and older than a day: no cursor refers to them."""
        for path in self._root.iterdir():
            if path.name not in keep and now - path.stat().st_mtime > _ORPHAN_SECONDS:
                path.unlink()


def _snapshot_names(text: str | None) -> list[str]:
    """Return the snapshot names in any text, for example a damaged cursor."""
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
