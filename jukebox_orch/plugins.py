"""Finds the installed model projects and checks them against the contract before they are used."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from jukebox_orch.contract import Gates, Hyperparameters, ModelProject, Settings, Source, SourceFile, Task

GROUP = "jukebox_orch.projects"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_OWNER = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+|team:[\w-]+")
# Checks of `validated_data` that every project has in addition to its rules.
_PRODUCT_CHECKS = ("invalid_share", "invalid_rows")
_SETTINGS: dict[str, type[BaseModel]] = {
    "source": Source,
    "split": Settings,
    "hyperparameters": Hyperparameters,
    "gates": Gates,
}


class ProjectError(TypeError):
    """A plugin is broken. The message names its distribution, the object and what is missing."""


@dataclass(frozen=True)
class DiscoveredProjects:
    """Valid projects by name, and the problems of the others by entry point."""

    projects: dict[str, ModelProject]
    problems: dict[str, str]


def load_projects() -> DiscoveredProjects:
    """Return all installed projects.

    Raises:
        ProjectError: one message with all problems.
    """
    found = discover()
    if found.problems:
        raise ProjectError("broken model projects:\n" + "\n".join(f"- {p}" for p in found.problems.values()))
    return found


def discover(entry_points: Iterable[metadata.EntryPoint] | None = None) -> DiscoveredProjects:
    """Load and check every entry point of the group, sorted by name."""
    projects: dict[str, ModelProject] = {}
    problems: dict[str, str] = {}
    origin: dict[str, str] = {}
    entries = metadata.entry_points(group=GROUP) if entry_points is None else entry_points
    for entry in sorted(entries, key=lambda e: (e.name, e.value)):
        label = f"{entry.dist.name if entry.dist else 'unknown distribution'}: {entry.value!r}"
        try:
            project = check_project(entry.load(), label)
            if project.name in projects:
                raise ProjectError(
                    f"{label} has the name {project.name!r}, which {origin[project.name]} already has"
                )
        except Exception as error:  # noqa: BLE001 - a plugin's import can raise anything
            text = (
                str(error)
                if isinstance(error, ProjectError)
                else f"{label} cannot be imported: {type(error).__name__}: {error}"
            )
            # Two distributions may use the same name, and both may be broken.
            problems[entry.name] = "; ".join(filter(None, [problems.get(entry.name), text]))
        else:
            projects[project.name] = project
            origin[project.name] = label
    return DiscoveredProjects(projects, problems)


def check_project(candidate: object, label: str) -> ModelProject:
    """Return an instance of the project if it fulfils the contract.

    Args:
        candidate: the object that an entry point names.
        label: distribution and object, for the message.

    Raises:
        ProjectError: with everything that is missing or wrong.
    """
    if not (inspect.isclass(candidate) and issubclass(candidate, ModelProject)):
        raise ProjectError(f"{label} is not a subclass of jukebox_orch.contract.ModelProject")
    problems = [f"lacks {name}()" for name in sorted(candidate.__abstractmethods__)]
    problems += _attribute_problems(candidate) + _signature_problems(candidate)
    if problems:
        raise ProjectError(f"{label} {', '.join(problems)}")
    try:
        return candidate()
    except Exception as error:  # a project's own __init__
        raise ProjectError(f"{label} cannot be created without arguments: {error}") from error


def _attribute_problems(project: type[ModelProject]) -> list[str]:
    problems = []
    name = getattr(project, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(
            f"has the illegal name {name!r} (lower-case letters, digits, underscores, at most 40)"
        )
    if not isinstance(getattr(project, "description", None), str):
        problems.append("lacks description")
    if not isinstance(getattr(project, "task", None), Task):
        problems.append("lacks task (Classification(), Regression() or another jukebox_orch.contract.Task)")
    problems += [
        f"lacks {name}, a mapping"
        for name in ("rules", "tables")
        if not isinstance(getattr(project, name, None), Mapping)
    ]
    rules = getattr(project, "rules", None)
    for rule in rules if isinstance(rules, Mapping) else ():
        if not isinstance(rule, str) or not _NAME.fullmatch(rule):
            problems.append(f"has the illegal rule name {rule!r}")
        elif rule in _PRODUCT_CHECKS:
            problems.append(f"has the rule name {rule!r}, which is a check of the product")
    return problems + _optional_attribute_problems(project) + _settings_problems(project)


def _optional_attribute_problems(project: type[ModelProject]) -> list[str]:
    problems = []
    if not isinstance(project.limitations, str):
        problems.append(f"has limitations {project.limitations!r}, not a text")
    tolerance = project.parity_tolerance
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance >= 0:
        problems.append(f"has the parity_tolerance {tolerance!r}, not a number of 0 or more")
    if not isinstance(project.owners, list | tuple):
        return [*problems, "has owners that are not a list"]
    return problems + [
        f"has the illegal owner {owner!r} (an e-mail address or team:name)"
        for owner in project.owners
        if not isinstance(owner, str) or not _OWNER.fullmatch(owner)
    ]


def _settings_problems(project: type[ModelProject]) -> list[str]:
    problems: list[str] = []
    for attribute, base in _SETTINGS.items():
        settings = getattr(project, attribute, None)
        if not (inspect.isclass(settings) and issubclass(settings, base)):
            problems.append(f"lacks {attribute}, a subclass of {base.__name__}")
        elif required := [n for n, info in settings.model_fields.items() if info.is_required()]:
            problems.append(f"has no default for {attribute}.{', '.join(required)}")
        else:
            problems += _schema_problems(attribute, settings) + _default_problems(attribute, settings)
            problems += [] if attribute == "source" else _unpinned(attribute, settings)
    return problems


def _schema_problems(attribute: str, settings: type[BaseModel]) -> list[str]:
    """Return the settings that the launchpad cannot show."""
    from jukebox_orch.assets.run_config import config_schema

    try:
        config_schema(settings)
    except TypeError as error:
        return [f"has {attribute} that the launchpad cannot show: {error}"]
    return []


def _default_problems(attribute: str, settings: type[BaseModel]) -> list[str]:
    """Return the defaults that are out of their own bounds: pydantic does not check a default."""
    try:
        settings.model_validate(settings().model_dump())
    except ValidationError as error:
        return [
            f"has the default {attribute}.{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}"
            for e in error.errors(include_url=False)
        ]
    return []


def _unpinned(where: str, annotation: Any) -> list[str]:
    """Return the settings that are files of any content: a stored result would be reused though the file changed."""
    if annotation is SourceFile:
        return [f"has the SourceFile {where}: use a PinnedFile, whose sha256 is required"]
    if inspect.isclass(annotation) and issubclass(annotation, Settings):
        inner = {name: info.annotation for name, info in annotation.model_fields.items()}
        return [problem for name, kind in inner.items() for problem in _unpinned(f"{where}.{name}", kind)]
    return [problem for argument in get_args(annotation) for problem in _unpinned(where, argument)]


def _signature_problems(project: type[ModelProject]) -> list[str]:
    problems = []
    for name, method in inspect.getmembers(ModelProject, inspect.isfunction):
        own = getattr(project, name)
        if name.startswith("_") or own is method:
            continue
        if not callable(own):
            problems.append(f"has {name} = {own!r}, expected a method")
            continue
        expected, given = inspect.signature(method), inspect.signature(own)
        arguments = [p.name for p in expected.parameters.values()]
        try:
            given.bind(**dict.fromkeys(arguments))
        except TypeError:
            problems.append(f"has {name}{given}, expected {name}({', '.join(arguments)})")
    return problems
