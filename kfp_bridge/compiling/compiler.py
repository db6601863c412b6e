"""Writes a `PipelineGraph` as a KFP v2 pipeline: IR YAML, or Kubernetes manifests for GitOps.

Every task is a container component that runs `python -m kfp_bridge.step` in the project's image. One JSON argument
holds everything that the step needs (assets, checks, positions of parameters in the run config), so the YAML is
complete; `pipeline_spec.py` reads the argument back.
"""

import graphlib
import inspect
import json
import keyword
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Optional

from kfp_bridge.compiling.pods import apply_pod
from kfp_bridge.errors import BridgeError, ExportError
from kfp_bridge.names import identifier, task_name
from kfp_bridge.pipeline_graph import (
    COMMAND,
    CONFUSION_MATRIX,
    INFO_MARK,
    METRICS,
    RECORD,
    REPORT,
    REPORT_HTML,
    STEP_VERSION,
    ImportedAsset,
    Parameter,
    PipelineGraph,
    Step,
)

if TYPE_CHECKING:
    from kfp import dsl

PYTHON_TYPES = MappingProxyType(
    {
        "STRING": str,
        "NUMBER_INTEGER": int,
        "NUMBER_DOUBLE": float,
        "BOOLEAN": bool,
        "LIST": list,
        "STRUCT": dict,
    }
)


def export(
    graph: PipelineGraph, image: str, output: Path, *, strict: bool = True, manifest: bool = False
) -> None:
    """Write the pipeline to `output` (.yaml or .yml), completely or not at all; the same graph gives the same bytes.

    Args:
        graph: the graph to export.
        image: the image of every task; it contains the code location and kfp_bridge.
        output: the file to write.
        strict: fail if anything in the graph has no counterpart in KFP.
        manifest: write Kubernetes manifests (Pipeline and PipelineVersion) instead of IR YAML.

    Raises:
        ExportError: strict and something does not map; the message lists all of it.
        BridgeError: the output does not end in .yaml or .yml, or its folder does not exist.
    """
    if strict:
        refuse_unmapped(graph)
    if output.suffix not in (".yaml", ".yml"):
        raise BridgeError(f"--output {output}: the name must end in .yaml or .yml")
    if not output.parent.is_dir():
        raise BridgeError(f"--output {output}: folder {output.parent} does not exist")
    pipeline = build_pipeline(graph, image)
    # Write to a folder beside the output, so that the final rename is atomic.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".kfp-bridge-") as folder:
        draft = Path(folder) / output.name
        if manifest:
            _write_manifest(graph, pipeline, draft)
        else:
            _write_ir(pipeline, draft)
        draft.replace(output)


def refuse_unmapped(graph: PipelineGraph) -> None:
    """Raise ExportError with one line for each thing that has no counterpart in KFP."""
    if graph.unmapped:
        lines = "\n".join(f"  {row.subject}: {row.field}: {row.becomes}" for row in graph.unmapped)
        raise ExportError(f"{len(graph.unmapped)} things in the graph do not map to KFP:\n{lines}")


def build_pipeline(graph: PipelineGraph, image: str) -> Any:
    """Return the graph as a KFP pipeline object, ready to compile."""
    from kfp import dsl

    steps = {step.name: step for step in graph.steps}
    producers = {asset.key: step for step in graph.steps for asset in step.assets}
    components = {step.name: _component(graph, step, producers, image) for step in graph.steps}

    def pipeline(*args: Any, **kwargs: Any) -> None:
        channels = {**dict(zip(signature.parameters, args, strict=False)), **kwargs}
        tasks: dict[str, dsl.PipelineTask] = {}
        imported = {item.key: _importer(item) for item in graph.imports}
        for name in _order(graph.steps, producers):
            step = steps[name]
            artifacts = _Upstream(producers, tasks, imported)
            task = components[name](**_arguments(graph, step, artifacts, channels))
            task.after(*(tasks[gate] for gate in step.after))
            _configure(task, step)
            tasks[name] = task

    signature = inspect.Signature([_pipeline_parameter(p) for p in pipeline_parameters(graph)])
    pipeline.__dict__["__signature__"] = signature
    pipeline.__doc__ = _docstring(pipeline_parameters(graph))
    return dsl.pipeline(name=graph.name, description=pipeline_description(graph))(pipeline)


def pipeline_parameters(graph: PipelineGraph) -> tuple[Parameter, ...]:
    """Return the pipeline's parameters: those of the run config and, for a partitioned job, the partition."""
    if not graph.partitioned:
        return graph.parameters
    partition = Parameter("partition_key", (), "STRING", None, True, "partition to materialize")
    return tuple(sorted((*graph.parameters, partition), key=lambda parameter: parameter.name))


def pipeline_description(graph: PipelineGraph) -> str:
    """Return the pipeline's description; its last line holds the fields for which a pipeline spec has no place."""
    info = {
        "version": 1,
        "job": graph.job,
        "select": graph.select,
        "source": vars(graph.source),
        "service_account": graph.service_account,
        "schedules": [vars(schedule) for schedule in graph.schedules],
    }
    text = graph.description or f"Dagster job {graph.job or graph.name}"
    return f"{text}\n{INFO_MARK}{json.dumps(info, sort_keys=True)}"


def step_argument(graph: PipelineGraph, step: Step, producers: Mapping[str, Step]) -> str:
    """Return the argument of `kfp_bridge.step` for one task, as canonical JSON."""
    parameters = {
        p.name: {"path": list(p.path), "type": p.type} for p in graph.parameters if p.name in step.parameters
    }
    inputs = [
        {
            "asset": key,
            "value": _input_name(key) if _artifact_type(graph, producers, key) else None,
            "record": _record_name(producers[key]) if key in producers else None,
        }
        for key in step.inputs
    ]
    content = {
        "version": STEP_VERSION,
        "source": {key: value for key, value in vars(graph.source).items() if value is not None},
        "job": graph.job,
        "task": task_name(step.name),
        "assets": [
            {
                "asset": a.key,
                "value": identifier(a.key) if a.artifact_type else None,
                "code_version": a.code_version,
            }
            for a in step.assets
        ],
        "checks": [{"asset": c.asset, "check": c.name, "blocking": c.blocking} for c in step.checks],
        "inputs": inputs,
        "parameters": parameters,
        "partitioned": graph.partitioned,
    }
    if step.cache and step.pod.environment:
        content["environment"] = step.pod.environment  # the step's arguments are part of KFP's cache key
    return json.dumps(content, sort_keys=True)


def code_version(step: Step) -> str:
    """Return the code versions of the step's assets as one parameter, so that KFP's cache sees a change of code."""
    return ",".join(f"{asset.key}={asset.code_version}" for asset in step.assets if asset.code_version)


def display_name(step: Step) -> str:
    """Return the task's name in the KFP UI: its only asset, its only check, or else the step's name."""
    if len(step.assets) == 1:
        return step.assets[0].key
    if not step.assets and len(step.checks) == 1:
        return str(step.checks[0])
    return step.name


def outputs(step: Step) -> dict[str, str]:
    """Return the output artifacts of a task with their types."""
    values = {identifier(asset.key): asset.artifact_type for asset in step.assets if asset.artifact_type}
    reports = {RECORD: "Artifact", METRICS: "Metrics", REPORT: "Markdown", REPORT_HTML: "HTML"}
    matrix = {CONFUSION_MATRIX: "ClassificationMetrics"} if step.assets else {}
    return {**values, **reports, **matrix}


def _component(
    graph: PipelineGraph, step: Step, producers: Mapping[str, Step], image: str
) -> Callable[..., "dsl.PipelineTask"]:
    from kfp import dsl

    def run(*_: Any, **__: Any) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(
            image=image,
            command=list(COMMAND),
            args=[
                "--executor-input",
                dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER,
                "--step",
                step_argument(graph, step, producers),
            ],
        )

    parameters: list[inspect.Parameter] = []

    def declare(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> None:
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, annotation=annotation, default=default))

    for key in step.inputs:
        if artifact_type := _artifact_type(graph, producers, key):
            declare(_input_name(key), dsl.Input[getattr(dsl, artifact_type)])
        if key in producers:
            declare(_digest_name(key), str)
    for producer in _record_producers(step, producers):
        declare(_record_name(producer), dsl.Input[dsl.Artifact])
    for parameter in pipeline_parameters(graph):
        if parameter.name in step.parameters or not parameter.path:
            declare(parameter.name, *_annotation(parameter))
    if code_version(step):
        declare("code_version", str)
    if _imported(graph, step):
        declare("imports", str)
    for name, artifact_type in outputs(step).items():
        declare(name, dsl.Output[getattr(dsl, artifact_type)])
    for asset in step.assets:
        declare(f"{identifier(asset.key)}_digest", dsl.OutputPath(str))
    run.__dict__["__signature__"] = inspect.Signature(parameters, return_annotation=dsl.ContainerSpec)
    run.__name__ = task_name(step.name)
    # The decorator passes `run` one positional argument per parameter; only the signature describes them.
    return dsl.container_component(run)


@dataclass(frozen=True)
class _Upstream:
    producers: Mapping[str, Step]
    tasks: Mapping[str, "dsl.PipelineTask"]
    imported: Mapping[str, "dsl.PipelineTask"]


def _arguments(
    graph: PipelineGraph, step: Step, upstream: _Upstream, channels: Mapping[str, Any]
) -> dict[str, Any]:
    producers = upstream.producers
    arguments: dict[str, Any] = {}
    for key in step.inputs:
        if key in upstream.imported:
            arguments[_input_name(key)] = upstream.imported[key].output
            continue
        outputs_of = upstream.tasks[producers[key].name].outputs
        if _artifact_type(graph, producers, key):
            arguments[_input_name(key)] = outputs_of[identifier(key)]
        arguments[_digest_name(key)] = outputs_of[f"{identifier(key)}_digest"]
    for producer in _record_producers(step, producers):
        arguments[_record_name(producer)] = upstream.tasks[producer.name].outputs[RECORD]
    for parameter in pipeline_parameters(graph):
        if parameter.name in step.parameters or not parameter.path:
            arguments[parameter.name] = channels[parameter.name]
    if code_version(step):
        arguments["code_version"] = code_version(step)
    if records := _imported(graph, step):
        arguments["imports"] = json.dumps(records, sort_keys=True)
    return arguments


def _configure(task: "dsl.PipelineTask", step: Step) -> None:
    task.set_display_name(display_name(step))
    task.set_caching_options(step.cache)
    if step.retry is not None and step.retry.count:
        task.set_retry(
            step.retry.count, backoff_duration=f"{step.retry.delay}s", backoff_factor=step.retry.factor
        )
    apply_pod(task, step.pod)


def _importer(item: ImportedAsset) -> "dsl.PipelineTask":
    from kfp import dsl

    task = dsl.importer(
        artifact_uri=item.uri, artifact_class=getattr(dsl, item.artifact_type), reimport=False
    )
    return task.set_display_name(item.key)


def _imported(graph: PipelineGraph, step: Step) -> list[dict[str, Any]]:
    return [dict(item.record) for item in graph.imports if item.key in step.inputs]


def _order(steps: tuple[Step, ...], producers: Mapping[str, Step]) -> list[str]:
    upstream = {
        step.name: {producers[key].name for key in step.inputs if key in producers} | set(step.after)
        for step in steps
    }
    return list(
        graphlib.TopologicalSorter({name: sorted(upstream[name]) for name in sorted(upstream)}).static_order()
    )


def _record_producers(step: Step, producers: Mapping[str, Step]) -> list[Step]:
    found = {producers[key].name: producers[key] for key in step.inputs if key in producers}
    return [found[name] for name in sorted(found)]


def _artifact_type(graph: PipelineGraph, producers: Mapping[str, Step], key: str) -> str | None:
    if key in producers:
        return next(asset.artifact_type for asset in producers[key].assets if asset.key == key)
    return next(item.artifact_type for item in graph.imports if item.key == key)


def _input_name(key: str) -> str:
    return f"from_{identifier(key)}"


def _digest_name(key: str) -> str:
    return f"from_{identifier(key)}_digest"


def _record_name(producer: Step) -> str:
    return f"from_{identifier(producer.name)}_record"


def _pipeline_parameter(parameter: Parameter) -> inspect.Parameter:
    if not parameter.name.isidentifier() or keyword.iskeyword(parameter.name):
        raise BridgeError(
            f"config field {'.'.join(parameter.path)}: {parameter.name!r} cannot be a KFP parameter"
        )
    annotation, *default = _annotation(parameter)
    return inspect.Parameter(
        parameter.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=annotation,
        default=parameter.default
        if parameter.default is not None
        else next(iter(default), inspect.Parameter.empty),
    )


def _annotation(parameter: Parameter) -> tuple[Any, ...]:
    """Return the type and, if the parameter may be empty, the default None; KFP requires Optional for that."""
    python_type = PYTHON_TYPES[parameter.type]
    if parameter.required or parameter.default is not None:
        return (python_type,)
    return (Optional[python_type], None)  # noqa: UP045 - KFP reads typing.Optional only


def _docstring(parameters: tuple[Parameter, ...]) -> str:
    described = [
        f"    {parameter.name}: {parameter.description}" for parameter in parameters if parameter.description
    ]
    # docstring_parser reads the first line as the summary, so there must be one before the arguments.
    return "\n".join(["Pipeline parameters.", "", "Args:", *described]) if described else ""


def _write_ir(pipeline: Any, path: Path) -> None:
    """Write what `Compiler.compile` writes, but without comments and with libyaml: half the time for 500 assets."""
    import yaml
    from google.protobuf import json_format

    documents = [json_format.MessageToDict(spec) for spec in (pipeline.pipeline_spec, pipeline.platform_spec)]
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump_all([document for document in documents if document], stream, Dumper=dumper, sort_keys=True)


def _write_manifest(graph: PipelineGraph, pipeline: Any, path: Path) -> None:
    from kfp.compiler import Compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    options = KubernetesManifestOptions(
        pipeline_name=graph.name, pipeline_version_name=graph.name, include_pipeline_manifest=True
    )
    Compiler().compile(
        pipeline, str(path), kubernetes_manifest_options=options, kubernetes_manifest_format=True
    )
