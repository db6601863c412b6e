"""`kfp-bridge`: the command line.

Exit code 0; 1 for a difference, something unmapped or a failed run; 2 for input that is not usable.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kfp_bridge.errors import BridgeError
from kfp_bridge.pipeline_graph import Source

if TYPE_CHECKING:
    from kfp_bridge.pipeline_graph import PipelineGraph
    from kfp_bridge.service.client import KfpHost

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Export a Dagster asset graph as a Kubeflow pipeline, prove that it is the same graph, and run it.

    Start: `kfp-bridge export -m my_project.definitions --job training --image registry/project:1.0 -o pipeline.yaml`,
    then `kfp-bridge verify pipeline.yaml -m my_project.definitions --job training --image registry/project:1.0`,
    `kfp-bridge run-local pipeline.yaml` and `kfp-bridge submit pipeline.yaml --host http://…`.

    Exit codes: 0 done, 1 a difference, something that does not map or a failed run, 2 input that is not usable.""",
)

Module = Annotated[str | None, typer.Option("-m", "--module-name", help="Module that holds the Definitions.")]
File = Annotated[
    str | None, typer.Option("-f", "--python-file", help="Python file that holds them, as the image has it.")
]
Attribute = Annotated[
    str | None, typer.Option("-a", "--attribute", help="Name of the Definitions, if there are several.")
]
Job = Annotated[str | None, typer.Option("--job", "-j", help="Asset job to export; without it all assets.")]
Select = Annotated[
    str | None, typer.Option(help="Dagster asset selection, e.g. 'key:\"jukebox/onnx_model\"+'.")
]
Image = Annotated[
    str,
    typer.Option(help="Image of every task: the project with kfp_bridge, tagged with anything but latest."),
]
PodConfig = Annotated[
    Path | None,
    typer.Option(
        help="YAML in the form of the dagster-k8s/config tag for every task's pod; an asset's own tag wins."
    ),
]
Name = Annotated[str | None, typer.Option(help="Pipeline name; by default the job's.")]
Pipeline = Annotated[Path, typer.Argument(help="Exported YAML.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", help="NAME=VALUE, as often as wanted; lists and structs in JSON."),
]
Host = Annotated[str, typer.Option(envvar="KFP_HOST", help="URL of the KFP API server.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(envvar="KFP_TOKEN_FILE", help="File with the bearer token; or KFP_TOKEN holds the token."),
]
Namespace = Annotated[str | None, typer.Option(envvar="KFP_NAMESPACE", help="Namespace on a multi-user KFP.")]
Experiment = Annotated[str, typer.Option(help="KFP experiment; created if it is not there.")]


def _reported(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a BridgeError into its message and exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except BridgeError as error:
            print(f"kfp-bridge: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error

    return run


@app.command()
@_reported
def export(
    image: Image,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .yaml.")],
    module: Module = None,
    file: File = None,
    attribute: Attribute = None,
    job: Job = None,
    select: Select = None,
    name: Name = None,
    pod_config: PodConfig = None,
    strict: Annotated[bool, typer.Option(help="Stop at anything that KFP cannot express.")] = True,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Write Kubernetes manifests instead of IR YAML.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Show what became what.")] = False,
    report_json: Annotated[Path | None, typer.Option(help="Write what became what as JSON.")] = None,
) -> None:
    """Write a job or a selection of assets as a KFP pipeline; byte-identical while nothing changes."""
    from kfp_bridge.compiling import compiler

    graph = _graph(Source(module, file, attribute), job, select, name, pod_config)
    if report:
        _show_report(graph)
    if report_json is not None:
        rows = [asdict(row) for row in graph.report]
        report_json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    compiler.export(graph, image, output, strict=strict, manifest=manifest)
    print(f"{output}: {len(graph.steps)} tasks, {len(graph.parameters)} parameters, image {image}")


@app.command()
@_reported
def verify(
    pipeline: Pipeline,
    image: Image,
    module: Module = None,
    file: File = None,
    attribute: Attribute = None,
    job: Job = None,
    select: Select = None,
    name: Name = None,
    pod_config: PodConfig = None,
) -> None:
    """Read an exported YAML back and compare every promise in it with Dagster's graph; exit 1 on any difference."""
    from kfp_bridge.pipeline_spec import load_spec
    from kfp_bridge.verifying import verify as verifier

    spec = load_spec(pipeline)
    differences = verifier.verify(
        _graph(Source(module, file, attribute), job, select, name, pod_config), image, spec
    )
    _show_differences(differences, "Dagster's graph", str(pipeline))
    print(f"{pipeline}: the same graph, {len(spec.tasks)} tasks")


@app.command()
@_reported
def diff(
    old: Annotated[Path, typer.Argument(help="Exported YAML.")],
    new: Annotated[Path, typer.Argument(help="Exported YAML.")],
) -> None:
    """Show what changed between two exports; exit 1 on any difference."""
    from kfp_bridge.pipeline_spec import load_spec
    from kfp_bridge.verifying import verify as verifier

    _show_differences(verifier.diff(load_spec(old), load_spec(new)), str(old), str(new))
    print("no difference")


@app.command("run-local")
@_reported
def run_local(
    pipeline: Pipeline,
    parameter: Parameters = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New folder for artifacts and logs.")
    ] = None,
    processes: Annotated[
        bool,
        typer.Option("--processes", help="Run the container commands as processes even where an engine is."),
    ] = False,
) -> None:
    """Run an exported YAML on this machine: in containers, or as isolated processes where no engine is."""
    from kfp_bridge.pipeline_spec import load_spec
    from kfp_bridge.running import local

    spec = load_spec(pipeline)
    values = dict(local.parse_value(spec, assignment) for assignment in parameter or [])
    root = output or Path(tempfile.mkdtemp(prefix=f"{spec.name}-"))
    if processes or not local.has_container_engine():
        print(
            f"no containers: running the container commands of {spec.name} as processes of this environment in {root}"
        )
        local.run_as_processes(spec, values, root)
    else:
        print(f"running {spec.name} in containers; artifacts in {root}")
        local.run_in_containers(spec, pipeline, values, root)
    print(f"{spec.name}: succeeded; artifacts in {root}")


@app.command()
@_reported
def upload(pipeline: Pipeline, host: Host, token_file: TokenFile = None, namespace: Namespace = None) -> None:
    """Upload an exported YAML; the same file twice is one version, named by its content."""
    version = _host(host, token_file, namespace).upload(pipeline)
    print(f"{version.name}: {'uploaded' if version.created else 'already there'} ({version.version_id})")


@app.command()
@_reported
def submit(
    pipeline: Pipeline,
    host: Host,
    parameter: Parameters = None,
    run_name: Annotated[
        str | None,
        typer.Option(help="Name of the run; a run of this name in the experiment is not started again."),
    ] = None,
    experiment: Experiment = "Default",
    pipeline_root: Annotated[
        str | None, typer.Option(help="Where KFP puts the artifacts of this run.")
    ] = None,
    wait: Annotated[
        float | None, typer.Option(help="Wait this many seconds for the end; exit 1 unless it succeeds.")
    ] = None,
    token_file: TokenFile = None,
    namespace: Namespace = None,
) -> None:
    """Upload if needed and start a run."""
    from kfp_bridge.pipeline_spec import load_spec
    from kfp_bridge.running.local import parse_value, pipeline_values

    spec = load_spec(pipeline)
    values = dict(parse_value(spec, assignment) for assignment in parameter or [])
    pipeline_values(spec, values)
    api = _host(host, token_file, namespace)
    version = api.upload(pipeline)
    name = run_name or f"{version.name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    run, started = api.submit(
        version,
        name,
        values,
        experiment=experiment,
        service_account=spec.info.get("service_account"),
        pipeline_root=pipeline_root,
    )
    print(f"{run.run_id}: {'started' if started else 'already there'} as {name}")
    if wait is not None:
        ended = api.wait(run.run_id, wait)
        print(f"{run.run_id}: {ended.state}")
        if ended.state != "SUCCEEDED":
            raise typer.Exit(1)


@app.command()
@_reported
def schedule(
    pipeline: Pipeline,
    host: Host,
    experiment: Experiment = "Default",
    controller_timezone: Annotated[
        str, typer.Option(help="CRON_SCHEDULE_TIMEZONE of the KFP controller.")
    ] = "UTC",
    token_file: TokenFile = None,
    namespace: Namespace = None,
) -> None:
    """Make KFP recurring runs of the job's Dagster schedules; the same again changes nothing."""
    from kfp_bridge.pipeline_spec import load_spec

    spec = load_spec(pipeline)
    api = _host(host, token_file, namespace)
    lines = api.schedule(
        api.upload(pipeline), spec, controller_timezone=controller_timezone, experiment=experiment
    )
    print("\n".join(lines) or f"{pipeline}: its job has no schedule")


@app.command()
@_reported
def sync(
    pipeline: Pipeline,
    host: Host,
    artifact_root: Annotated[
        str | None,
        typer.Option(help="Pipeline root of runs that name none; default minio://mlpipeline/v2/artifacts."),
    ] = None,
    token_file: TokenFile = None,
    namespace: Namespace = None,
) -> None:
    """Bring the ended KFP runs of a pipeline into the instance at DAGSTER_HOME, each event once."""
    import dagster as dg

    from kfp_bridge.pipeline_spec import load_spec
    from kfp_bridge.service.sync import DEFAULT_ROOT
    from kfp_bridge.service.sync import sync as synchronize

    name = load_spec(pipeline).name
    api = _host(host, token_file, namespace)
    if "DAGSTER_HOME" not in os.environ:
        raise BridgeError("DAGSTER_HOME is not set: it says which Dagster instance gets the events")
    with dg.DagsterInstance.get() as instance:
        for run in synchronize(api, name, instance, artifact_root or DEFAULT_ROOT):
            print(
                f"{run.run_id}: {run.state}: {run.materializations} materializations and {run.checks} checks are new"
            )


def _graph(
    source: Source, job: str | None, select: str | None, name: str | None, pod_config: Path | None
) -> "PipelineGraph":
    import dagster as dg

    from kfp_bridge.reading.definitions import load_definitions
    from kfp_bridge.reading.graph import read_graph

    if (source.module is None) == (source.file is None):
        raise BridgeError("name the code location with either -m MODULE or -f FILE")
    defs = load_definitions(source)
    pods = _pod_config(pod_config)
    if "DAGSTER_HOME" not in os.environ:
        return read_graph(defs, source, job=job, select=select, name=name, pod_config=pods)
    with dg.DagsterInstance.get() as instance:
        return read_graph(defs, source, job=job, select=select, name=name, instance=instance, pod_config=pods)


def _pod_config(path: Path | None) -> dict[str, Any]:
    import yaml

    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise BridgeError(f"--pod-config {path}: {error}") from error
    if not isinstance(content, dict):
        raise BridgeError(f"--pod-config {path}: expected a mapping such as {{container_config: …}}")
    return content


def _host(host: str, token_file: Path | None, namespace: str | None) -> "KfpHost":
    from kfp_bridge.service.client import KfpHost

    return KfpHost(host, token=os.environ.get("KFP_TOKEN"), token_file=token_file, namespace=namespace)


def _show_report(graph: "PipelineGraph") -> None:
    table = Table("Dagster", "field", "KFP", "", title=f"{graph.job or graph.name} as pipeline {graph.name}")
    for row in graph.report:
        table.add_row(row.subject, row.field, row.becomes, "" if row.outcome == "mapped" else row.outcome)
    Console().print(table)


def _show_differences(differences: list[Any], old: str, new: str) -> None:
    if differences:
        print(f"--- {old}\n+++ {new}")
        print("\n".join(str(difference) for difference in differences))
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
