"""Chooses the pipeline parameters of each task.

Without a config mapping a task takes the fields of its op. With one, any op may depend on any field, so a task takes
all of them and changing any of them is a cache miss, unless the asset declares in its metadata (`kfp/config`) the
fields that its config depends on. A task that always runs takes all of them, even with that declaration: a mapping
that refuses a bad value then does so in the first task, as Dagster does before any task.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from kfp_bridge.dagster_internals import job_assets
from kfp_bridge.names import task_name
from kfp_bridge.pipeline_graph import CONFIG_KEY, MappingRow, Parameter, Step
from kfp_bridge.reading.run_config import op_of, run_config


def with_parameters(
    job: dg.JobDefinition, steps: Sequence[Step], parameters: Sequence[Parameter]
) -> tuple[tuple[Step, ...], list[MappingRow]]:
    """Return the steps with the names of their parameters, and a report row for each declaration."""
    complete, rows = [], []
    for step in steps:
        wanted = tuple(p for p in parameters if op_of(p.path) in (None, step.name))
        fields = _declared(job, step)
        if fields is not None and step.cache and parameters and op_of(parameters[0].path) is None:
            chosen = tuple(p for p in wanted if p.required or _belongs(p, fields))
            rows += _rows(job, step, fields, wanted, chosen)
            wanted = chosen
        complete.append(replace(step, parameters=tuple(p.name for p in wanted)))
    return tuple(complete), rows


def _declared(job: dg.JobDefinition, step: Step) -> list[str] | None:
    """Return the fields that the step's assets declare; None if one of them declares nothing."""
    fields: list[str] = []
    for asset in step.assets:
        node = job_assets(job).asset_graph.get(dg.AssetKey.from_user_string(asset.key))
        declared = node.metadata.get(CONFIG_KEY)
        declared = getattr(declared, "value", declared)
        if declared is None:
            return None
        fields += map(str, declared)
    return sorted(set(fields))


def _belongs(parameter: Parameter, fields: Iterable[str]) -> bool:
    path = ".".join(parameter.path)
    return any(path == field or path.startswith(f"{field}.") for field in fields)


def _rows(
    job: dg.JobDefinition,
    step: Step,
    fields: Sequence[str],
    wanted: Sequence[Parameter],
    chosen: Sequence[Parameter],
) -> list[MappingRow]:
    subject = f"task {task_name(step.name)}"
    rows = [
        MappingRow(subject, CONFIG_KEY, f"the job has no config field {field!r}", "unmapped")
        for field in fields
        if not any(_belongs(p, [field]) for p in wanted)
    ]
    omitted = [p for p in wanted if p not in chosen]
    rows += [
        MappingRow(
            subject, CONFIG_KEY, f"its config also depends on {'.'.join(p.path)}; declare it", "unmapped"
        )
        for p in _dependencies(job, step, omitted)
    ]
    names = ", ".join(p.name for p in chosen) or "no parameter"
    return [*rows, MappingRow(subject, CONFIG_KEY, f"takes {names}")]


def _dependencies(job: dg.JobDefinition, step: Step, parameters: Sequence[Parameter]) -> list[Parameter]:
    """Return the parameters whose change was seen to change the step's config.

    With a declaration that omits one of them, the step would silently compute with its default.
    """
    unchanged = _step_config(job, step, {})
    if unchanged is None:
        return []
    found = []
    for parameter in parameters:
        for value in _other_values(parameter):
            changed = _step_config(job, step, run_config({"": parameter.path}, {"": value}))
            if changed is not None:  # the mapping accepts this value
                if changed != unchanged:
                    found.append(parameter)
                break
    return found


def _step_config(job: dg.JobDefinition, step: Step, config: Mapping[str, Any]) -> Any:
    """Return the step's part of the resolved run config; None if the job refuses the config."""
    try:
        return dg.validate_run_config(job, config)["ops"].get(step.name)
    except Exception:  # noqa: BLE001 - a config mapping is user code and may raise any error
        return None


def _other_values(parameter: Parameter) -> list[Any]:
    default = parameter.default
    match parameter.type:
        case "BOOLEAN":
            return [not default]
        case "NUMBER_INTEGER":
            return [(default or 0) + 1, (default or 0) - 1, 1]
        case "NUMBER_DOUBLE":
            return [(default or 1.0) / 2, (default or 1.0) * 2]
        case "STRING":
            return [f"{default or 'x'}1", f"{default or ''}/x"]
        case "LIST":
            return [[]] if default else [["x"], [1], [{}]]
    return [{}] if default else [{"x": "x"}]
