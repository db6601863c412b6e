"""Reads images from a CIFAR-10 archive, NumPy archives or a folder of images by class into one dataset."""

from __future__ import annotations

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
    url_path,
)
from jukebox_orch.projects.image_processor.batches import as_dataset
from jukebox_orch.projects.image_processor.cifar import read_cifar
from jukebox_orch.projects.image_processor.npz import read_npz
from jukebox_orch.projects.image_processor.pictures import FILE_LIMIT, decode
from jukebox_orch.projects.image_processor.shapes import Shape, images_per_chunk
from jukebox_orch.projects.image_processor.spool import Spool

_ARCHIVES = {".npz": read_npz, ".tar": read_cifar, ".tar.gz": read_cifar, ".tgz": read_cifar}
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Object stores have high latency, so read files in parallel; the window limits memory.
_THREADS, _WINDOW = 8, 1024
# Report many problems at once, but limit the length of the message.
_PROBLEMS_SHOWN = 5
_PROBLEMS_COUNTED = 100
_NUMBERED_CLASSES = 10_000


def list_files(location: str) -> list[SourceFile]:
    """List the files at a location: the file itself, the archives in a folder, or the images in its class folders.

    Hidden files (a leading dot) are left out.

    Raises:
        InputError: there are no files, a class folder is empty, or an entry is not allowed there (a link, a
            device, a nested folder, a file of another kind).
        OSError: a server or network failed; a retry may succeed.
    """
    import fsspec

    try:
        fs, path = fsspec.url_to_fs(location)
        kind = fs.info(path)["type"]
    except Exception as error:  # noqa: BLE001 - every fsspec file system raises its own errors
        # Not chained, because the error text may contain credentials.
        raise read_error(location, error) from None
    if kind != "directory":
        return [SourceFile(url=location)]

    files: list[SourceFile] = []
    problems: list[str] = []
    for entry in _visible_entries(fs, path):
        is_class = entry["type"] == "directory"
        inside = _visible_entries(fs, entry["name"]) if is_class else [entry]
        if not inside:
            problems.append(f"{display_url(_url(fs, entry['name']))}: class folder without an image")
        for file in inside:
            url = _url(fs, file["name"])
            if problem := _problem_of(file, _PICTURES if is_class else tuple(_ARCHIVES)):
                problems.append(f"{display_url(url)}: {problem}")
            else:
                files.append(SourceFile(url=url))
    if len(set(map(_is_picture, files))) > 1:
        problems.append(f"{display_url(location)}: has archives and class folders; keep one of them")
    if not files and not problems:
        problems.append(f"{display_url(location)}: the folder is empty")
    _raise_if_any(problems)
    return files


def read_files(files: list[SourceFile], shape: Shape, convert: bool) -> Dataset:
    """Read archives, or image files whose folder is their class, in the given order; images are uint8 (n, *shape).

    Raises:
        InputError: a file cannot be read, is of an unknown kind or has images of another shape, or the files cannot
            be combined.
        OSError: a server or network failed; a retry may succeed.
    """
    if all(map(_is_picture, files)):
        return _read_pictures(files, shape, convert)
    return _read_archives(files, shape)


def _read_archives(files: list[SourceFile], shape: Shape) -> Dataset:
    classes: list[str] = []
    previous = ""
    tables: list[pd.DataFrame] = []
    with Spool(shape) as spool:
        for file in files:
            where = display_url(file.url)
            read = next(
                (r for kind, r in _ARCHIVES.items() if url_path(file.url).lower().endswith(kind)), None
            )
            if read is None:
                kinds = ", ".join((*_ARCHIVES, *_PICTURES))
                raise InputError(f"{where}: is not one of {kinds}; image files and archives cannot be mixed")
            with open_verified(file) as archive:
                names, batches = read(where, archive, shape)
            if previous and names != classes:
                raise InputError(f"{where}: has other classes than {previous}: {names} and {classes}")
            previous, classes = where, names
            for batch in batches:
                spool.append(batch.images)
                tables.append(batch.samples())
        images = spool.array()
    samples = pd.concat(tables, ignore_index=True)
    return as_dataset(images, samples, classes or _numbers_as_names(previous, samples["label"]))


def _read_pictures(files: list[SourceFile], shape: Shape, convert: bool) -> Dataset:
    folders = [PurePosixPath(url_path(file.url)).parent.name for file in files]
    classes = sorted(set(folders))
    problems = [
        f"{display_url(file.url)}: the name of the class folder is not UTF-8; rename the folder"
        for file, folder in zip(files, folders, strict=True)
        if folder != folder.encode("utf-8", "replace").decode()
    ]
    _raise_if_any(problems)

    def picture_or_problem(file: SourceFile) -> np.ndarray | str:
        try:
            return decode(display_url(file.url), read_bytes(file, FILE_LIMIT), shape, convert)
        except InputError as error:
            return str(error)

    window = min(_WINDOW, images_per_chunk(shape))
    with Spool(shape) as spool, ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(files), window):
            results = list(pool.map(picture_or_problem, files[start : start + window]))
            problems += [result for result in results if isinstance(result, str)]
            if len(problems) >= _PROBLEMS_COUNTED:
                break
            if not problems:
                spool.append(np.stack(results))
        _raise_if_any(problems)
        images = spool.array()
    labels = np.searchsorted(classes, folders)
    names = [display_url(file.url) for file in files]
    samples = pd.DataFrame({"label": labels, "file": names, "row": 0, "test": False})
    return as_dataset(images, samples, classes)


def _numbers_as_names(where: str, labels: pd.Series) -> list[str]:
    """Return a name for each number up to the largest label."""
    largest = int(labels.max()) if len(labels) else -1
    if largest >= _NUMBERED_CLASSES:
        raise InputError(f"{where}: label {largest} without array 'classes'; name the classes")
    return [str(i) for i in range(largest + 1)]


def _visible_entries(fs: Any, path: str) -> list[dict[str, Any]]:
    """List a folder by name, without hidden entries and the folder itself, which object stores list too."""
    try:
        entries = fs.ls(path, detail=True)
    except Exception as error:  # noqa: BLE001 - as in list_files
        raise read_error(_url(fs, path), error) from None
    shown = [
        entry
        for entry in entries
        if entry["name"].rstrip("/") != path.rstrip("/")
        and not PurePosixPath(entry["name"]).name.startswith(".")
    ]
    return sorted(shown, key=lambda entry: entry["name"])


def _problem_of(entry: dict[str, Any], kinds: tuple[str, ...]) -> str:
    """Return why a folder entry cannot be read as one of `kinds`; empty if it can."""
    if entry.get("islink"):
        return "is a link; only regular files are read"
    if entry["type"] == "directory":
        return "is a folder inside a class folder; put images directly in their class folder"
    if entry["type"] != "file":
        return "is not a regular file"
    if not entry["name"].lower().endswith(kinds):
        return f"is not one of {', '.join(kinds)}"
    return ""


def _url(fs: Any, name: str) -> str:
    return name if fs.protocol[0] == "file" else fs.unstrip_protocol(name)


def _is_picture(file: SourceFile) -> bool:
    return url_path(file.url).lower().endswith(_PICTURES)


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        rest = [f"and {more} more"] if more > 0 else []
        raise InputError("\n".join(problems[:_PROBLEMS_SHOWN] + rest))
