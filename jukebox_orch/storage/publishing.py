"""Publishes folders atomically: they are written under a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upath import UPath

_INCOMING = ".incoming"
_ABANDONED_AFTER_SECONDS = 24 * 3600


@dataclass(frozen=True)
class PublishedFile:
    """Sha256 (hexadecimal) and size of one published file."""

    sha256: str
    bytes: int


def publish(write: Callable[[Path], None], target: UPath, root: UPath) -> dict[str, PublishedFile]:
    """Let `write` fill an empty folder, then publish it as `target`, below `root`.

    On a local file system this is one rename. An object store has no rename: each object is uploaded completely, and
    readers rely on the event log or the registry, which record the folder after the last upload.

    Raises:
        FileExistsError: `target` exists; it is not changed.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    incoming = Path(root.path) / _INCOMING if is_local(root) else Path(tempfile.gettempdir())
    staged = incoming / uuid.uuid4().hex
    staged.mkdir(parents=True)
    try:
        write(staged)
        paths = sorted(staged.iterdir())
        files = {path.name: PublishedFile(file_digest(path), path.stat().st_size) for path in paths}
        if is_local(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.rename(target.path)
            _remove_abandoned(incoming)
        else:
            for path in paths:
                target.fs.put_file(str(path), (target / path.name).path)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return files


def combined_digest(files: Mapping[str, str]) -> str:
    """Return the sha256 of an artifact: that of a single file, otherwise of the output of `sha256sum`."""
    if len(files) == 1:
        return next(iter(files.values()))
    listing = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def file_digest(path: Path | UPath) -> str:
    """Return the sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def is_local(path: UPath) -> bool:
    """Return whether the path is on a mounted file system."""
    return path.protocol in ("", "file", "local")


def _remove_abandoned(incoming: Path) -> None:
    """Delete folders that killed processes left behind."""
    for folder in incoming.iterdir():
        try:
            if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                shutil.rmtree(folder)
        except FileNotFoundError:  # another process deleted it
            continue
