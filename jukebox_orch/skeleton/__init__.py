"""Writes a new model project that can be trained without changes, as a starting point."""

from __future__ import annotations

import importlib.util
import keyword
import re
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from jukebox_orch.contract import InputError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
KINDS = ("table", "regression", "text", "image")
"""Kinds of projects: classes of rows, a number for each row, classes of texts, classes of images."""


def write_project(name: str, folder: Path, kind: str = "table") -> Path:
    """Write the skeleton of one of `KINDS` to `<folder>/<name>` and return that path.

    Raises:
        InputError: the name is not valid or the name of an installed package, or the folder exists.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise InputError(
            f"{name!r} is not a valid project name: use lower-case letters, digits and underscores, a letter first, "
            "at most 40 characters, not a Python keyword"
        )
    if any(entry.name == name for entry in metadata.entry_points(group="jukebox_orch.projects")):
        raise InputError(f"{name!r} is the name of an installed project: choose another one")
    if importlib.util.find_spec(name) is not None:
        raise InputError(f"{name!r} is the name of an installed package: choose another one")
    target = folder / name
    if target.exists():
        raise InputError(f"{target} exists already: choose another name or --folder")
    values = {"name": name, "title": "".join(word.capitalize() for word in name.split("_"))}
    values["distribution"] = name.replace("_", "-").strip("-")
    templates = files("jukebox_orch.skeleton")
    _write(templates.joinpath("project"), target, values)
    _write(templates.joinpath("kinds", kind), target / name, values)
    return target


def _write(template: Traversable, target: Path, values: dict[str, str]) -> None:
    """Copy a folder of templates; replace `__name__` in file names and `$placeholders` in texts."""
    target.mkdir(parents=True)
    for entry in sorted(template.iterdir(), key=lambda item: item.name):
        path = target / entry.name.replace("__name__", values["name"]).removesuffix(".tmpl")
        if entry.is_dir():
            _write(entry, path, values)
        else:
            path.write_text(Template(entry.read_text()).substitute(values))
