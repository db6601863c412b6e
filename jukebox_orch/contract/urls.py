"""Paths and URLs: how messages show them, and the folder that they lie in."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

# A last part such as `songs.parquet` or `cifar-10.tar.gz` is a file; `v1.2` is a folder.
_FILE_NAME = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}$")


def display_url(url: str) -> str:
    """Return `url` for messages: without user name, password and query (which may hold a signature)."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}".removeprefix("file://")


def common_folder(urls: Sequence[str]) -> str:
    """Return the folder that contains all paths or URLs; a local one absolute, a URL as `display_url` shows it.

    Without a common host or bucket, all folders are named.

    Raises:
        ValueError: no URL is given.
    """
    if not urls:
        raise ValueError("no path or URL is given")
    folders = sorted({_folder(url) for url in urls})
    # In sorted order, what the first and the last one share is shared by all.
    same = [a == b for a, b in zip(folders[0].split("/"), folders[-1].split("/"), strict=False)]
    shared = folders[0].split("/")[: same.index(False) if False in same else len(same)]
    if folders[0].startswith("/"):
        return "/".join(shared) or "/"
    return "/".join(shared) if len(shared) > 2 else ", ".join(folders)


def _folder(url: str) -> str:
    shown = display_url(url)
    # Links are kept: one that points to the newest folder names one dataset.
    shown = shown if "://" in shown else os.path.abspath(shown)  # noqa: PTH100
    host, slash, path = shown.partition("://") if "://" in shown else ("", "", shown)
    parts = path.rstrip("/").split("/")
    if len(parts) > 1 and _FILE_NAME.search(parts[-1]):
        parts.pop()
    return f"{host}{slash}{'/'.join(parts)}" or "/"
