"""Finds the installed model projects and checks them against the contract before anything is built on them."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

from pydantic import BaseModel

from jukebox_orch.contract import Gates, Hyperparameters, ModelProject, Settings, Source, Task

GROUP = "jukebox_orch.projects"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_OWNER = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+|team:[\w-]+")
# Checks of `validated_data` that every project has beside its rules.
_OWN_RULES = ("invalid_share", "invalid_rows")
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
    """The projects that keep the contract, by name, and what is wrong with the others, by entry point."""

    projects: dict[str, ModelProject]
    problems: dict[str, str]


def load_projects() -> DiscoveredProjects:
    """All installed projects.

    Raises:
        ProjectError: one message for all that is broken.
    """
    found = discover()
    if found.problems:
        raise ProjectError("broken model projects:\n" + "\n".join(f"- {p}" for p in found.problems.values()))
    return found


def discover(entry_points: Iterable[metadata.EntryPoint] | None = None) -> DiscoveredProjects:
    """Load and check every entry point of the group, in the order of their names."""
    projects: dict[str, ModelProject] = {}
    problems: dict[str, str] = {}
    origin: dict[str, str] = {}
    entries = metadata.entry_points(group=GROUP) if entry_points is None else entry_points
    for entry in sorted(entries, key=lambda e: (e.name, e.value)):
        who = f"{entry.dist.name if entry.dist else 'unknown distribution'}: {entry.value!r}"
        try:
            project = check_project(entry.load(), who)
            if project.name in projects:
                raise ProjectError(
                    f"{who} has the name {project.name!r}, which {origin[project.name]} has already"
                )
        except Exception as error:  # noqa: BLE001 - a plugin's import can raise anything
            text = (
                str(error)
                if isinstance(error, ProjectError)
                else f"{who} cannot be imported: {type(error).__name__}: {error}"
            )
            # Two distributions may use one name, and both be broken.
            problems[entry.name] = "; ".join(filter(None, [problems.get(entry.name), text]))
        else:
            projects[project.name] = project
            origin[project.name] = who
    return DiscoveredProjects(projects, problems)


def check_project(candidate: object, who: str) -> ModelProject:
    """An instance of the project, if it keeps the contract.

    Raises:
        ProjectError: naming everything that is missing or wrong.
    """
    if not (inspect.isclass(candidate) and issubclass(candidate, ModelProject)):
        raise ProjectError(f"{who} is not a subclass of jukebox_orch.contract.ModelProject")
    problems = [f"lacks {name}()" for name in sorted(candidate.__abstractmethods__)]
    problems += _attribute_problems(candidate) + _signature_problems(candidate)
    if problems:
        raise ProjectError(f"{who} {', '.join(problems)}")
    try:
        return candidate()
    except Exception as error:  # a project's own __init__
        raise ProjectError(f"{who} cannot be created without arguments: {error}") from error


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
        elif rule in _OWN_RULES:
            problems.append(f"has the rule name {rule!r}, which is a check of the product")
    if not isinstance(project.owners, list | tuple):
        problems.append("has owners that are not a list")
    else:
        problems += [
            f"has the illegal owner {owner!r} (an e-mail address or team:name)"
            for owner in project.owners
            if not isinstance(owner, str) or not _OWNER.fullmatch(owner)
        ]
    for attribute, base in _SETTINGS.items():
        settings = getattr(project, attribute, None)
        if not (inspect.isclass(settings) and issubclass(settings, base)):
            problems.append(f"lacks {attribute}, a subclass of {base.__name__}")
        elif required := [n for n, info in settings.model_fields.items() if info.is_required()]:
            problems.append(f"has no default for {attribute}.{', '.join(required)}")
        else:
            problems += _form_problems(attribute, settings)
    return problems


def _form_problems(attribute: str, settings: type[BaseModel]) -> list[str]:
    """What of the settings has no field in the launchpad's form."""
    from jukebox_orch.assets.run_config import config_schema

    try:
        config_schema(settings)
    except TypeError as error:
        return [f"has {attribute} that make no form: {error}"]
    return []


def _signature_problems(project: type[ModelProject]) -> list[str]:
    problems = []
    for name, method in inspect.getmembers(ModelProject, inspect.isfunction):
        own = getattr(project, name)
        if name.startswith("_") or own is method:
            continue
        if not callable(own):
            problems.append(f"has {name} = {own!r} in place of a method")
            continue
        wanted, given = inspect.signature(method), inspect.signature(own)
        arguments = [p.name for p in wanted.parameters.values()]
        try:
            given.bind(**dict.fromkeys(arguments))
        except TypeError:
            problems.append(f"has {name}{given} in place of {name}({', '.join(arguments)})")
    return problems
