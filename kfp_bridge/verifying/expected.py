"""The facts that an exported YAML must have, from Dagster's graph: one flat name and value each.

Neither these facts nor those of the YAML (`found.py`) use the compiler, so that its mistakes become differences.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from kfp_bridge.names import task_name
from kfp_bridge.pipeline_graph import (
    COMMAND,
    CONFUSION_MATRIX,
    METRICS,
    RECORD,
    REPORT,
    REPORT_HTML,
    STEP_VERSION,
    Parameter,
    PipelineGraph,
    Pod,
    Step,
)

Facts = dict[str, Any]


def graph_facts(graph: PipelineGraph, image: str) -> Facts:
    """Return the facts that a faithful export of the graph with this image has."""
    producers = {asset.key: step for step in graph.steps for asset in step.assets}
    facts: Facts = {
        "pipeline: name": graph.name,
        "pipeline: description": graph.description or f"Dagster job {graph.job or graph.name}",
        "pipeline: job": graph.job,
        "pipeline: selection": graph.select,
        "pipeline: definitions": _defined(vars(graph.source)),
        "pipeline: service account": graph.service_account,
        "pipeline: schedules": _canonical([vars(schedule) for schedule in graph.schedules]),
        "pipeline: tasks": sorted(
            [task_name(s.name) for s in graph.steps] + [f"import {i.key}" for i in graph.imports]
        ),
    }
    for parameter in graph.parameters:
        facts |= _parameter_facts(parameter)
    if graph.partitioned:
        facts |= _parameter_facts(
            Parameter("partition_key", (), "STRING", None, True, "partition to materialize")
        )
    for item in graph.imports:
        facts |= {
            f"import {item.key}: uri": item.uri,
            f"import {item.key}: type": item.artifact_type,
            f"import {item.key}: reimport": False,
        }
    for step in graph.steps:
        facts |= _step_facts(graph, step, producers, image)
    return facts


def _step_facts(graph: PipelineGraph, step: Step, producers: Mapping[str, Step], image: str) -> Facts:
    task = f"task {task_name(step.name)}"
    imports = {item.key: item for item in graph.imports}
    waits = {task_name(producers[key].name) for key in step.inputs if key in producers}
    waits |= {task_name(gate) for gate in step.after} | {
        f"import {key}" for key in step.inputs if key in imports
    }
    parameters = {p.name: p for p in graph.parameters if p.name in step.parameters}
    version = ",".join(f"{a.key}={a.code_version}" for a in step.assets if a.code_version)
    records = {RECORD: "Artifact", METRICS: "Metrics", REPORT: "Markdown", REPORT_HTML: "HTML"}
    matrix = {CONFUSION_MATRIX: "ClassificationMetrics"} if step.assets else {}
    facts: Facts = {
        f"{task}: image": image,
        f"{task}: command": [*COMMAND, "--executor-input", "{{$}}", "--step"],
        f"{task}: display name": _display_name(step),
        f"{task}: definitions": _defined(vars(graph.source)),
        f"{task}: job": graph.job,
        f"{task}: version of its argument": STEP_VERSION,
        f"{task}: name in its argument": task_name(step.name),
        f"{task}: assets": sorted(asset.key for asset in step.assets),
        f"{task}: checks": sorted(str(check) for check in step.checks),
        f"{task}: waits for": sorted(waits),
        f"{task}: inputs": sorted(step.inputs),
        f"{task}: run config": sorted(parameters),
        f"{task}: partitioned": graph.partitioned,
        f"{task}: code_version": version or None,
        f"{task}: caching": step.cache,
        f"{task}: environment in its cache key": step.pod.environment if step.cache else None,
        f"{task}: retry": (step.retry.count, step.retry.delay, step.retry.factor, 3600)
        if step.retry and step.retry.count
        else None,
        f"{task}: imported records": _canonical(
            [dict(imports[k].record) for k in sorted(imports) if k in step.inputs]
        ),
        f"{task}: reports": _canonical({**records, **matrix}),
    }
    for asset in step.assets:
        facts[f"{task}: asset {asset.key} type"] = asset.artifact_type
        facts[f"{task}: asset {asset.key} code_version"] = asset.code_version
        facts[f"{task}: asset {asset.key} digest"] = "STRING"
    for check in step.checks:
        facts[f"{task}: check {check} blocking"] = check.blocking
    for key in step.inputs:
        producer = task_name(producers[key].name) if key in producers else f"import {key}"
        types = (
            [a.artifact_type for a in producers[key].assets if a.key == key]
            if key in producers
            else [imports[key].artifact_type]
        )
        facts[f"{task}: input {key}"] = [types[0], producer if types[0] else None]
        facts[f"{task}: record of {key}"] = producer if key in producers else None
        facts[f"{task}: digest of {key}"] = producer if key in producers else None
    for name, parameter in parameters.items():
        facts[f"{task}: parameter {name}"] = [list(parameter.path), parameter.type, name]
    return facts | {
        f"{task}: pod {field.name}": _pod_value(getattr(step.pod, field.name)) for field in fields(Pod)
    }


def _parameter_facts(parameter: Parameter) -> Facts:
    subject = f"parameter {parameter.name}"
    return {
        f"{subject}: type": parameter.type,
        f"{subject}: default": parameter.default,
        f"{subject}: required": parameter.required,
        f"{subject}: description": parameter.description,
    }


def _display_name(step: Step) -> str:
    if len(step.assets) == 1:
        return step.assets[0].key
    return str(step.checks[0]) if not step.assets and len(step.checks) == 1 else step.name


def _pod_value(value: Any) -> Any:
    return (
        [list(item) if isinstance(item, tuple) else item for item in value]
        if isinstance(value, tuple)
        else value
    )


def _defined(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _canonical(value: Any) -> Any:
    return json.loads(json.dumps(value, sort_keys=True))
