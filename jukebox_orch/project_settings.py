"""What a deployment sets for one model project, and the reader of its projects file."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import yaml
from pydantic import Field, ValidationError

from jukebox_orch.contract import InputError, ModelProject
from jukebox_orch.sensors import Triggers

_GROUPS = ("source", "split", "hyperparameters", "gates")
# Triggers whose runs have no source of their own.
_NEED_SOURCE = ("git_tags", "model_alerts", "schedule")


class ProjectSettings(dg.Model, dg.Resolvable):
    """Defaults of a project's runs, and what starts them: one section of the projects file.

    They are the defaults of the launchpad, and what a run started by a trigger uses.
    """

    # Dagster shows the description of a component's field with a default only if a Resolver sets it.
    source: Annotated[
        dict[str, Any],
        dg.Resolver.default(
            description="Where the data comes from, for example {location: s3://bucket/charts}"
        ),
    ] = Field(default_factory=dict)
    split: Annotated[
        dict[str, Any], dg.Resolver.default(description="How the data is divided into the splits")
    ] = Field(default_factory=dict)
    hyperparameters: Annotated[
        dict[str, Any], dg.Resolver.default(description="Defaults of the training, for example {epochs: 20}")
    ] = Field(default_factory=dict)
    gates: Annotated[
        dict[str, Any], dg.Resolver.default(description="Thresholds, for example {metric_floor: 0.9}")
    ] = Field(default_factory=dict)
    settings: Annotated[
        dict[str, Any],
        dg.Resolver.default(
            description="Other defaults of a run, for example {dataset_name: charts, seed: 7, stage: canary}"
        ),
    ] = Field(default_factory=dict)
    triggers: Annotated[
        dict[str, Any],
        dg.Resolver.default(description="What starts a run: new_data, git_tags, model_alerts, schedule"),
    ] = Field(default_factory=dict)

    def defaults(self) -> dict[str, Any]:
        """Return the run settings that differ from the project's, by name."""
        return {group: getattr(self, group) for group in _GROUPS if getattr(self, group)} | self.settings

    def or_else(self, other: "ProjectSettings") -> "ProjectSettings":
        """Return these settings; each group that is empty is that of `other`."""
        names = ProjectSettings.model_fields
        return ProjectSettings(**{name: getattr(self, name) or getattr(other, name) for name in names})

    def checked_triggers(self, project: ModelProject, name: str) -> Triggers:
        """Return the triggers of the project `name`.

        Raises:
            InputError: a field is unknown or has a bad value, or runs would train on the embedded sample.
        """
        try:
            triggers = Triggers.model_validate(self.triggers)
        except ValidationError as error:
            raise InputError(f"{name}: " + "; ".join(_problems(error, "triggers"))) from None
        started = [kind for kind in _NEED_SOURCE if getattr(triggers, kind)]
        if started and project.source.model_validate(self.source).is_sample:
            raise InputError(
                f"{name}: triggers.{', triggers.'.join(started)}: their runs have no source and would train on the "
                f"embedded sample: add `source: {{location: …}}` to the settings of {name}"
            )
        return triggers


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping with the same key twice, of which YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if repeated := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(repeated)} occurs more than once: keep one", node.start_mark
            )
        return super().construct_mapping(node, deep)


def load_project_settings(
    path: str | Path, projects: Collection[str] | None = None
) -> dict[str, ProjectSettings]:
    """Read a YAML file: project name -> `ProjectSettings`.

    Args:
        path: the file.
        projects: the installed projects; if given, any other name in the file is an error.

    Raises:
        InputError: the file cannot be read, or has an unknown project or field or a bad value; the message names
            file, field, value and what is expected.
    """
    where = f"projects file {path}"
    try:
        content = yaml.load(Path(path).read_text(), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{where}: must map project names to their settings, not {type(content).__name__}")
    problems: list[str] = []
    found: dict[str, ProjectSettings] = {}
    for name, settings in content.items():
        if projects is not None and name not in projects:
            problems.append(f"{name}: no such project; installed: {', '.join(sorted(projects)) or 'none'}")
            continue
        try:
            found[name] = ProjectSettings.model_validate(settings or {})
            Triggers.model_validate(found[name].triggers)
        except ValidationError as error:
            inside = ("triggers",) if error.title == Triggers.__name__ else ()
            problems += _problems(error, name, *inside)
    if problems:
        raise InputError(f"{where}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return found


def _problems(error: ValidationError, *where: str) -> list[str]:
    return [
        f"{'.'.join(str(part) for part in (*where, *problem['loc']))}: "
        f"{problem['msg'].removeprefix('Value error, ')} (got {_shown(problem['input'])})"
        for problem in error.errors()
    ]


def _shown(value: object) -> str:
    """Return a bad value for a message, without the password or query secret that it may contain."""
    return re.sub(r"\?[^']*", "?***", re.sub(r"//[^/@\s]*@", "//***@", repr(value)))[:200]
