"""Writes a new model project that trains as it is: the first hour of a project is changing it."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from jukebox_orch.contract import InputError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def write_project(name: str, folder: Path) -> Path:
    """Write the skeleton to `<folder>/<name>` and return that path.

    Raises:
        InputError: the name cannot be a project's, or the folder is there already.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise InputError(
            f"{name!r} cannot be a project's name: lower-case letters, digits and underscores, a letter first, "
            "at most 40, and no word of Python"
        )
    target = folder / name
    if target.exists():
        raise InputError(f"{target} exists already: choose another name or --folder")
    words = {"name": name, "title": "".join(word.capitalize() for word in name.split("_"))}
    words["distribution"] = name.replace("_", "-").strip("-")
    _write(files("jukebox_orch.skeleton").joinpath("project"), target, words)
    return target


def _write(template: Traversable, target: Path, words: dict[str, str]) -> None:
    """Copy a folder of templates; `__name__` in a file name and `$word` in a text are filled in."""
    target.mkdir(parents=True)
    for entry in sorted(template.iterdir(), key=lambda item: item.name):
        path = target / entry.name.replace("__name__", words["name"]).removesuffix(".tmpl")
        if entry.is_dir():
            _write(entry, path, words)
        else:
            path.write_text(Template(entry.read_text()).substitute(words))
