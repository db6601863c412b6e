"""Paths and URLs: how messages show them, and the folder that they lie in."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

# The last part of a path is a file only with a suffix of data: `charts.v2` is a folder, and so is one that is there.
_FILE_NAME = re.compile(
    r"\.(csv|tsv|txt|jsonl?|ndjson|parquet|feather|arrow|avro|orc|xlsx?|npz|npy|h5|hdf5|tfrecords?|sqlite|db|png|jpe?g|bmp|webp"
    r"|tar|zip|gz|tgz|bz2|xz|zst|7z)$",
    re.IGNORECASE,
)

_WEB = ("http", "https")
_LOCAL = ("file", "local")

# fsspec chains URLs with `::`, as in `simplecache::https://host/a.csv`; an IPv6 address has it too.
_CHAIN = re.compile(r"::(?=[\w+.-]+(?:://|::|$))")

# User name and password, then the part that may be shown: a host name or an address in brackets, and a port.
_AUTHORITY = re.compile(r"(?:.*@)?((?:\[[^\]@]*\]|[^@:\[\]]*)(?::\d*)?)")


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
    shown = display_url(url_path(url))
    # Links are kept: one that points to the newest folder names one dataset.
    shown = shown if "://" in shown else os.path.abspath(shown)  # noqa: PTH100
    host, slash, path = shown.partition("://") if "://" in shown else ("", "", shown)
    parts = path.rstrip("/").split("/")
    is_folder = path.endswith("/") or (not slash and Path(shown).is_dir())
    if len(parts) > 1 and not is_folder and _FILE_NAME.search(parts[-1]):
        parts.pop()
    return f"{host}{slash}{'/'.join(parts)}" or "/"


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
