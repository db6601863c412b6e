"""Converts the run config of a job to pipeline parameters, and parameters back to run config.

The schema is the one that Dagster's launchpad shows: that of the job's config mapping or, without one, of its ops.
Groups are flattened: a leaf keeps its name if that is unambiguous, else the names of its groups come first
(`training_epochs`, `evaluation_epochs`).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from kfp_bridge.dagster_internals import config_schema
from kfp_bridge.pipeline_graph import MappingRow, Parameter, ParameterType

_SCALARS: dict[str, ParameterType] = {
    "INT": "NUMBER_INTEGER",
    "FLOAT": "NUMBER_DOUBLE",
    "STRING": "STRING",
    "BOOL": "BOOLEAN",
}
_LAUNCH_ONLY = {"execution", "loggers", "resources"}
_STRUCTURE = {"ops", "config"}
_MISSING = object()


def read_parameters(job: dg.JobDefinition) -> tuple[tuple[Parameter, ...], list[MappingRow]]:
    """Return the job's parameters by name, with a report row each; fields that KFP cannot express are `unmapped`."""
    schema, root = config_schema(job)
    reader = _SchemaReader(schema, has_ops_form=not is_mapped(job))
    reader.shape(root, (), _MISSING)
    names = _parameter_names([leaf.path for leaf in reader.leaves])
    parameters = [
        Parameter(name, leaf.path, leaf.type, leaf.default, leaf.required, leaf.description)
        for name, leaf in zip(names, reader.leaves, strict=True)
    ]
    rows = reader.rows + [
        MappingRow(f"config {'.'.join(p.path)}", "field", f"parameter {p.name}: {p.type} = {p.default!r}")
        for p in parameters
    ]
    for name, count in Counter(names).items():
        if count > 1:
            paths = " and ".join(".".join(p.path) for p in parameters if p.name == name)
            reason = f"the config fields {paths} have this name; rename one"
            rows.append(MappingRow(f"parameter {name}", "name", reason, "unmapped"))
    return tuple(sorted(parameters, key=lambda parameter: parameter.name)), rows


def is_mapped(job: dg.JobDefinition) -> bool:
    """Return whether the job takes the config of a config mapping; a dict as config only sets defaults of the ops."""
    return job.config_mapping is not None and job.run_config is None


def run_config(paths: Mapping[str, Sequence[str]], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested run config: each value at its parameter's path; parameters without a value are omitted."""
    config: dict[str, Any] = {}
    for name, path in paths.items():
        if values.get(name) is None:
            continue
        group = config
        for part in path[:-1]:
            group = group.setdefault(part, {})
        group[path[-1]] = values[name]
    return config


def parameter_values(parameters: Sequence[Parameter], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a run config sets; the inverse of `run_config`.

    Raises:
        KeyError: the config sets a field that is not a pipeline parameter; the message is its path.
    """
    by_path = {parameter.path: parameter.name for parameter in parameters}
    values: dict[str, Any] = {}

    def visit(value: Any, path: tuple[str, ...]) -> None:
        if path in by_path:
            values[by_path[path]] = value
        elif isinstance(value, Mapping) and (value or not path):
            for key, item in value.items():
                visit(item, (*path, key))
        elif value not in ({}, None):
            raise KeyError(".".join(path))

    visit(config, ())
    return values


def op_of(path: Sequence[str]) -> str | None:
    """Return the name of the op that a path of the ops' config configures; None for other paths."""
    return path[1] if len(path) > 2 and path[0] == "ops" else None


@dataclass(frozen=True)
class _Leaf:
    path: tuple[str, ...]
    type: ParameterType
    default: Any
    required: bool
    description: str


class _SchemaReader:
    """Collects the leaves of a config schema; the default of an outer group overrides those within it."""

    def __init__(self, schema: Any, *, has_ops_form: bool) -> None:
        self.schema = schema
        self.has_ops_form = has_ops_form
        self.leaves: list[_Leaf] = []
        self.rows: list[MappingRow] = []

    def shape(self, shape: Any, path: tuple[str, ...], inherited: Any) -> None:
        for field in shape.fields or ():
            here = (*path, field.name)
            if self.has_ops_form and not path and field.name in _LAUNCH_ONLY:
                self.launch_only(field)
                continue
            default = _field_default(field, inherited)
            config_type, nullable = self.unwrap(self.schema.get_config_snap(field.type_key))
            if config_type.kind.name == "STRICT_SHAPE":
                self.shape(config_type, here, default)
            else:
                self.leaf(here, field, config_type, default, nullable)

    def leaf(self, path: tuple[str, ...], field: Any, config_type: Any, default: Any, nullable: bool) -> None:
        parameter_type = self.parameter_type(config_type)
        if parameter_type is None:
            if (
                self.has_ops_form
                and field.name == "config"
                and default in (_MISSING, None)
                and not field.is_required
            ):
                return  # an op without config: Dagster gives it the type Any
            reason = f"config type {config_type.kind.name} has no KFP parameter type"
            self.rows.append(MappingRow(f"config {'.'.join(path)}", "type", reason, "unmapped"))
            return
        if _refers_to_environment(default):
            reason = "default is an environment variable; bind it in a resource instead of the run config"
            self.rows.append(MappingRow(f"config {'.'.join(path)}", "default", reason, "unmapped"))
            return
        known = default is not _MISSING and default is not None
        description = " ".join((field.description or "").split())
        if config_type.kind.name == "ENUM":
            choices = ", ".join(value.value for value in config_type.enum_values)
            description = f"{description} (one of {choices})".strip()
        required = not known and default is _MISSING and field.is_required
        self.leaves.append(_Leaf(path, parameter_type, default if known else None, required, description))

    def unwrap(self, config_type: Any) -> tuple[Any, bool]:
        nullable = False
        while config_type.kind.name in ("NONEABLE", "SCALAR_UNION"):
            nullable = nullable or config_type.kind.name == "NONEABLE"
            key = (
                config_type.inner_type_key
                if config_type.kind.name == "NONEABLE"
                else config_type.scalar_type_key
            )
            config_type = self.schema.get_config_snap(key)
        return config_type, nullable

    def parameter_type(self, config_type: Any) -> ParameterType | None:
        match config_type.kind.name:
            case "SCALAR":
                return _SCALARS.get(config_type.scalar_kind.name)
            case "ENUM":
                return "STRING"
            case "ARRAY":
                return "LIST"
            case "MAP" | "PERMISSIVE_SHAPE" | "SELECTOR":
                return "STRUCT"
        return None

    def launch_only(self, field: Any) -> None:
        if field.name == "resources" and field.is_required:
            reason = "a resource needs config at launch; bind it in the Definitions"
            self.rows.append(MappingRow("config resources", "required", reason, "unmapped"))


def _parameter_names(paths: Sequence[tuple[str, ...]]) -> list[str]:
    short = Counter(path[-1] for path in paths)
    return [
        path[-1] if short[path[-1]] == 1 else "_".join(part for part in path if part not in _STRUCTURE)
        for path in paths
    ]


def _field_default(field: Any, inherited: Any) -> Any:
    if isinstance(inherited, Mapping) and field.name in inherited:
        return inherited[field.name]
    if field.default_value_as_json_str is None:
        return _MISSING
    return json.loads(field.default_value_as_json_str)


def _refers_to_environment(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"env"}
