"""Which pipeline parameters reach which task.

In the ops' own config form a task takes the fields of its op. Under a config mapping any op may depend on any
field, so a task takes all of them, and a change of one takes nothing from KFP's cache; unless the asset declares
in its metadata (`kfp/config`) which fields decide its config. A task that always runs takes all nevertheless:
the mapping that refuses a bad value then does so in the first task, as Dagster does before any.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from kfp_bridge.dagster_internals import job_assets
from kfp_bridge.names import task_name
from kfp_bridge.pipeline_graph import CONFIG_KEY, MappingRow, Parameter, Step
from kfp_bridge.reading.run_config import ops_of, run_config


def with_parameters(
    job: dg.JobDefinition, steps: Sequence[Step], parameters: Sequence[Parameter]
) -> tuple[tuple[Step, ...], list[MappingRow]]:
    """The steps with the names of the parameters they take, and a report row where that was declared."""
    taken, rows = [], []
    for step in steps:
        wanted = tuple(p for p in parameters if ops_of(p.path) in (None, step.name))
        fields = _declared(job, step)
        if fields is not None and step.cache and parameters and ops_of(parameters[0].path) is None:
            chosen = tuple(p for p in wanted if p.required or _belongs(p, fields))
            rows += _rows(job, step, fields, wanted, chosen)
            wanted = chosen
        taken.append(replace(step, parameters=tuple(p.name for p in wanted)))
    return tuple(taken), rows


def _declared(job: dg.JobDefinition, step: Step) -> list[str] | None:
    """Fields that the step's assets declare, None when one of them declares nothing."""
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
    left = [p for p in wanted if p not in chosen]
    rows += [
        MappingRow(
            subject, CONFIG_KEY, f"its config also depends on {'.'.join(p.path)}; declare it", "unmapped"
        )
        for p in _dependencies(job, step, left)
    ]
    names = ", ".join(p.name for p in chosen) or "no parameter"
    return [*rows, MappingRow(subject, CONFIG_KEY, f"takes {names}")]


def _dependencies(job: dg.JobDefinition, step: Step, parameters: Sequence[Parameter]) -> list[Parameter]:
    """Those of the parameters whose change is seen to change the step's config: a declaration that leaves one out
    would compute with its default, unnoticed."""
    usual = _step_config(job, step, {})
    if usual is None:
        return []
    found = []
    for parameter in parameters:
        for value in _other_values(parameter):
            changed = _step_config(job, step, run_config({"": parameter.path}, {"": value}))
            if changed is not None:  # the mapping takes this value
                if changed != usual:
                    found.append(parameter)
                break
    return found


def _step_config(job: dg.JobDefinition, step: Step, config: Mapping[str, Any]) -> Any:
    """The step's part of the resolved run config, None when the job refuses the config."""
    try:
        return dg.validate_run_config(job, config)["ops"].get(step.name)
    except Exception:  # noqa: BLE001 - a config mapping is the user's code and refuses in its own way
        return None


def _other_values(parameter: Parameter) -> list[Any]:
    usual = parameter.default
    match parameter.type:
        case "BOOLEAN":
            return [not usual]
        case "NUMBER_INTEGER":
            return [(usual or 0) + 1, (usual or 0) - 1, 1]
        case "NUMBER_DOUBLE":
            return [(usual or 1.0) / 2, (usual or 1.0) * 2]
        case "STRING":
            return [f"{usual or 'x'}1", f"{usual or ''}/x"]
        case "LIST":
            return [[]] if usual else [["x"], [1], [{}]]
    return [{}] if usual else [{"x": "x"}]
