"""Code versions and fingerprints, which decide whether a stored result can be reused.

Files are not listed by hand. The product's part is every source file of `contract/` and `ml/`; the layer rule
ensures that these import nothing else of the product. The project's part is every file of its top-level package,
including data files. What a project imports from elsewhere is part of the fingerprint: an installed package by its
version, everything else by its content.
"""

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jukebox_orch
from jukebox_orch.contract import InputError, ModelProject
from jukebox_orch.ml import LIBRARIES

_PACKAGE = Path(jukebox_orch.__file__).parent
_PRODUCT_FOLDERS = (_PACKAGE / "contract", _PACKAGE / "ml")
_BUILT_IN_PROJECTS = ["jukebox_orch", "projects"]
_INSTALLED = {"site-packages", "dist-packages"}


def code_version(project: ModelProject) -> str:
    """Return the digest of the sources of the product's computation and of the project.

    Raises:
        InputError: the project was not defined in a file.
    """
    product = (file for folder in _PRODUCT_FOLDERS for file in _files(folder) if file[0].endswith(".py"))
    project_files = (file for root in _project_roots(type(project)) for file in _files(root))
    return _digest([*product, *project_files])[:16]


def fingerprint(project: ModelProject, **parts: Any) -> str:
    """Return the digest of `parts` and the dependencies, for `ArtifactStore.find_reusable`."""
    everything = {"dependencies": dependencies(type(project)), **parts}
    return hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).hexdigest()


@cache
def dependencies(project: type[ModelProject]) -> Mapping[str, str]:
    """Return what the product's computation and the project import: distribution -> version, or module -> digest.

    A module outside the installed packages (on `PYTHONPATH`, or an editable install) has no version that changes
    with it. Its content counts, and so do the modules that it imports.
    """
    found = {name: metadata.version(name) for name in LIBRARIES.values()}
    roots = _project_roots(project)
    known = {"jukebox_orch", *LIBRARIES, *(root.stem for root in roots)}
    todo = [name for root in roots for name in _imports(root)]
    while todo:
        name = todo.pop()
        if name in known:
            continue
        known.add(name)
        for path in _locate(name):
            if _INSTALLED & set(path.parts):
                found |= {
                    distribution: metadata.version(distribution) for distribution in _distributions(name)
                }
            else:
                found[name] = _digest(_files(path))
                todo += _imports(path)
    return found


def _project_roots(project: type[ModelProject]) -> list[Path]:
    """Return the paths of the project's top-level package or module and of the built-in project that it extends."""
    roots: list[Path] = []
    for extended in project.__mro__:
        parts = extended.__module__.split(".")
        if parts[:2] == _BUILT_IN_PROJECTS:
            roots.append(_PACKAGE.joinpath(*parts[1:3]))
        elif extended is project:
            roots += _locate(parts[0])
    if not roots:
        raise InputError(
            f"{project.__module__}.{project.__qualname__}: has no source file, so changes cannot be detected; "
            "define the project in a module"
        )
    return list(dict.fromkeys(roots))


def _locate(name: str) -> list[Path]:
    """Return the folders of a top-level package or the file of a module; nothing for the standard library."""
    if name in sys.stdlib_module_names:
        return []
    module = sys.modules.get(name)
    if module is not None:  # it may have been imported from another path than a new search would find
        folders, file = getattr(module, "__path__", None), getattr(module, "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        folders = spec.submodule_search_locations if spec else None
        file = spec.origin if spec and spec.has_location else None
    return [Path(folder) for folder in folders] if folders else [Path(file)] if file else []


def _files(root: Path) -> list[tuple[str, Path]]:
    """Return each file's name relative to the root's parent, and its path. Caches and hidden files are left out."""
    paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    named = [(path.relative_to(root.parent), path) for path in paths]
    return [
        (name.as_posix(), path)
        for name, path in named
        if not any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    ]


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    """Return the sha256 over names and contents."""
    state = hashlib.sha256()
    for name, path in files:
        content = path.read_bytes()
        state.update(f"{name}\0{len(content)}\0".encode())
        state.update(content)
    return state.hexdigest()


def _imports(root: Path) -> Iterator[str]:
    """Yield the top-level names that the source files import, anywhere in a file."""
    for name, path in _files(root):
        if not name.endswith(".py"):
            continue
        try:
            tree = ast.parse(path.read_bytes(), str(path))
        except SyntaxError:  # for example a template, which cannot be imported
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.split(".")[0]


def _distributions(name: str) -> list[str]:
    """Return the distributions that installed this top-level module. Most have its name; a full search takes 0.3 s."""
    try:
        return [metadata.distribution(name).name]
    except metadata.PackageNotFoundError:
        return metadata.packages_distributions().get(name, [])
