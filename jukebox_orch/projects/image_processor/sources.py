"""Reads images from a CIFAR-10 archive, NumPy archives or a folder of images by class into one dataset."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from jukebox_orch.contract import (
    Dataset,
    InputError,
    SourceFile,
    display_url,
    open_verified,
    read_bytes,
    read_error,
)
from jukebox_orch.projects.image_processor.cifar import read_cifar
from jukebox_orch.projects.image_processor.npz import read_npz
from jukebox_orch.projects.image_processor.pictures import FILE_LIMIT, decode
from jukebox_orch.projects.image_processor.spool import Spool

_ARCHIVES = (".tar", ".tar.gz", ".tgz")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# A person wants all that is wrong at once, but not a million lines.
_PROBLEMS_SHOWN = 5
_PROBLEMS_COUNTED = 100


def read_files(files: list[SourceFile], convert: bool) -> Dataset:
    """Read archives, or image files whose folder is their class, in the order given.

    Raises:
        InputError: a file cannot be read, is of an unknown kind, or the files do not go together.
    """
    if all(file.url.lower().endswith(_PICTURES) for file in files):
        return _read_pictures(files, convert)
    with Spool() as spool:
        return _read_archives(files, _Collected(spool))


def list_files(location: str) -> list[SourceFile]:
    """What a location holds: the file itself, the archives of a folder, or the images of its class folders.

    Hidden files (a leading dot) are left out.

    Raises:
        InputError: there is nothing, a class folder is empty, or an entry has no place there (a link, a
            device, a nested folder, a file of zero bytes or of another kind).
    """
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(location)
        info = fs.info(path)
    except Exception as error:  # noqa: BLE001 - every file system of fsspec has errors of its own
        # Their texts may show credentials, so they are not chained.
        raise read_error(location, error) from None
    if info["type"] != "directory":
        return [SourceFile(url=location)]

    files: list[SourceFile] = []
    problems: list[str] = []
    folders = 0
    for entry in _entries(fs, path):
        url = _url(fs, entry["name"])
        if entry["type"] == "directory":
            folders += 1
            inside = _entries(fs, entry["name"])
            if not inside:
                problems.append(f"{display_url(url)}: class folder without an image")
            for image in inside:
                _sort_in(_url(fs, image["name"]), image, _PICTURES, files, problems)
        else:
            _sort_in(url, entry, (".npz", *_ARCHIVES), files, problems)
    if folders and any(not f.url.lower().endswith(_PICTURES) for f in files):
        problems.append(f"{display_url(location)}: has archives and class folders; keep one of them")
    if not files and not problems:
        problems.append(f"{display_url(location)}: the folder is empty")
    _raise(problems)
    return files


def sample_table(labels: np.ndarray, files: np.ndarray, rows: np.ndarray, test: np.ndarray) -> pd.DataFrame:
    """One line per image: label (index into the classes), file, row in the file, published test image."""
    frame = pd.DataFrame({"label": labels, "file": files, "row": rows, "test": test})
    return frame.astype({"file": "category"})


def _read_archives(files: list[SourceFile], collected: _Collected) -> Dataset:
    for file in files:
        name, where = file.url.lower(), display_url(file.url)
        if name.endswith(".npz"):
            with open_verified(file) as stream:
                npz = read_npz(where, stream)
                collected.add(where, npz.images, npz.labels, npz.test)
                collected.name_classes(where, npz.classes)
        elif name.endswith(_ARCHIVES):
            with open_verified(file) as stream:
                classes, batches = read_cifar(where, stream)
            for batch in batches:
                test = np.full(len(batch.labels), batch.test)
                collected.add(f"{where}: {batch.name}", iter([batch.images]), batch.labels, test)
            collected.name_classes(where, classes)
        else:
            kinds = ", ".join((".npz", *_ARCHIVES, *_PICTURES))
            raise InputError(f"{where}: is none of {kinds}; image files and archives cannot be mixed")
    return collected.dataset()


def _read_pictures(files: list[SourceFile], convert: bool) -> Dataset:
    classes = sorted({_class_of(file) for file in files})
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index[_class_of(file)] for file in files], np.int64)
    problems: list[str] = []

    def picture(file: SourceFile) -> np.ndarray | str:
        try:
            return decode(display_url(file.url), read_bytes(file, FILE_LIMIT), convert)
        except InputError as error:
            return str(error)

    # Threads hide the latency of an object store; a window of files keeps memory bounded.
    window = 1024
    with Spool() as spool, ThreadPoolExecutor(8) as pool:
        for start in range(0, len(files), window):
            results = list(pool.map(picture, files[start : start + window]))
            problems += [result for result in results if isinstance(result, str)]
            if len(problems) >= _PROBLEMS_COUNTED:
                break
            pictures = [result for result in results if not isinstance(result, str)]
            if not problems:
                spool.append(np.stack(pictures))
        _raise(problems)
        images = spool.array()
    n = len(files)
    samples = sample_table(
        labels,
        np.array([display_url(file.url) for file in files], object),
        np.zeros(n, int),
        np.zeros(n, bool),
    )
    return {"images": images, "samples": samples, "classes": pd.DataFrame({"name": classes})}


class _Collected:
    """Images and labels of several archives that name the same classes."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._parts: list[pd.DataFrame] = []
        self._classes: list[str] = []
        self._named_by = ""

    def add(self, where: str, images: Iterator[np.ndarray], labels: np.ndarray, test: np.ndarray) -> None:
        for piece in images:
            self._spool.append(piece)
        n = len(labels)
        self._parts.append(sample_table(labels, np.full(n, where, object), np.arange(n), test))

    def name_classes(self, url: str, classes: list[str]) -> None:
        if self._named_by and classes != self._classes:
            raise InputError(f"{url}: has other classes than {self._named_by}: {classes} and {self._classes}")
        self._named_by, self._classes = url, classes

    def dataset(self) -> Dataset:
        samples = pd.concat(self._parts, ignore_index=True)
        samples["file"] = samples["file"].astype("category")
        names = self._classes or self._numbered(samples)
        return {"images": self._spool.array(), "samples": samples, "classes": pd.DataFrame({"name": names})}

    def _numbered(self, samples: pd.DataFrame) -> list[str]:
        largest = int(samples["label"].max()) if len(samples) else -1
        if largest >= 10_000:
            raise InputError(f"{self._named_by}: label {largest} without array 'classes'; name the classes")
        return [str(i) for i in range(largest + 1)]


def _entries(fs: Any, path: str) -> list[dict[str, Any]]:
    """Visible entries of a folder by name; object stores list the folder itself as an entry, left out."""
    entries = [e for e in fs.ls(path, detail=True) if e["name"].rstrip("/") != path.rstrip("/")]
    return sorted(
        (e for e in entries if not PurePosixPath(e["name"]).name.startswith(".")), key=lambda e: e["name"]
    )


def _sort_in(
    url: str, entry: dict[str, Any], kinds: tuple[str, ...], files: list[SourceFile], problems: list[str]
) -> None:
    """Accept an entry of a folder as a file to read, or say what is wrong with it."""
    where = display_url(url)
    if entry.get("islink"):
        problems.append(f"{where}: is a link; only regular files are read")
    elif entry["type"] == "directory":
        problems.append(
            f"{where}: is a folder inside a class folder; images lie directly in their class folder"
        )
    elif entry["type"] != "file":
        problems.append(f"{where}: is not a regular file")
    elif not url.lower().endswith(kinds):
        problems.append(f"{where}: is none of {', '.join(kinds)}")
    elif entry.get("size") == 0:
        problems.append(f"{where}: has zero bytes")
    else:
        files.append(SourceFile(url=url))


def _url(fs: Any, name: str) -> str:
    return name if fs.protocol[0] == "file" else fs.unstrip_protocol(name)


def _class_of(file: SourceFile) -> str:
    return PurePosixPath(file.url).parent.name


def _raise(problems: list[str]) -> None:
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        rest = [f"and {more} more"] if more > 0 else []
        raise InputError("\n".join(problems[:_PROBLEMS_SHOWN] + rest))
