"""`kfp-bridge`: the command line.

Exit codes: 0 done; 1 a difference, something that does not map, or a failed run; 2 unusable input.
"""

import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kfp_bridge.errors import BridgeError
from kfp_bridge.pipeline_graph import CodeLocation

if TYPE_CHECKING:
    from kfp_bridge.pipeline_graph import PipelineGraph
    from kfp_bridge.service.client import KfpHost

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Export a Dagster asset graph as a Kubeflow pipeline, verify that it is the same graph, and run it.

    Start: `kfp-bridge export -m my_project.definitions --job training --image registry/project:1.0 -o pipeline.yaml`,
    then `kfp-bridge verify pipeline.yaml -m my_project.definitions --job training --image registry/project:1.0`,
    `kfp-bridge run-local pipeline.yaml` and `kfp-bridge submit pipeline.yaml --host http://…`.

    Exit codes: 0 done, 1 a difference, something that does not map or a failed run, 2 unusable input.""",
)

Pipeline = Annotated[Path, typer.Argument(help="Exported YAML.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", "--parameter", help="NAME=VALUE, repeatable; lists and structs as JSON."),
]
Experiment = Annotated[str, typer.Option(help="KFP experiment; created if missing.")]


@dataclass(frozen=True)
class GraphOptions:
    """Options that select the graph to export, its image and its name."""

    image: Annotated[
        str,
        typer.Option(
            help="Image of every task, with the project and kfp_bridge; use a tag other than latest."
        ),
    ]
    module: Annotated[
        str | None, typer.Option("-m", "--module-name", help="Module that holds the Definitions.")
    ] = None
    file: Annotated[
        str | None,
        typer.Option("-f", "--python-file", help="Python file that holds them, at its path in the image."),
    ] = None
    attribute: Annotated[
        str | None, typer.Option("-a", "--attribute", help="Name of the Definitions, if there are several.")
    ] = None
    job: Annotated[
        str | None, typer.Option("--job", "-j", help="Asset job to export; default: all assets.")
    ] = None
    select: Annotated[
        str | None, typer.Option(help="Dagster asset selection, e.g. 'key:\"jukebox/onnx_model\"+'.")
    ] = None
    name: Annotated[str | None, typer.Option(help="Pipeline name; default: the job's.")] = None
    pod_config: Annotated[
        Path | None,
        typer.Option(
            help="YAML in the format of the dagster-k8s/config tag, for every task's pod; an asset's tag overrides it."
        ),
    ] = None

    def read(self) -> "PipelineGraph":
        """Load the code location and return its graph; with DAGSTER_HOME set, imports come from that instance."""
        import dagster as dg

        from kfp_bridge.reading.code_location import load_definitions
        from kfp_bridge.reading.graph import read_graph

        if (self.module is None) == (self.file is None):
            raise BridgeError("name the code location with either -m MODULE or -f FILE")
        location = CodeLocation(self.module, self.file, self.attribute)
        selection: dict[str, Any] = {"job": self.job, "select": self.select, "name": self.name}
        pods = _pod_config(self.pod_config)
        defs = load_definitions(location)
        if "DAGSTER_HOME" not in os.environ:
            return read_graph(defs, location, **selection, pod_config=pods)
        with dg.DagsterInstance.get() as instance:
            return read_graph(defs, location, **selection, instance=instance, pod_config=pods)


@dataclass(frozen=True)
class HostOptions:
    """Options that select the KFP API server and the credentials."""

    host: Annotated[str, typer.Option(envvar="KFP_HOST", help="URL of the KFP API server.")]
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="KFP_TOKEN_FILE",
            help="File with the bearer token; alternatively, set KFP_TOKEN to the token.",
        ),
    ] = None
    namespace: Annotated[
        str | None, typer.Option(envvar="KFP_NAMESPACE", help="Namespace on a multi-user KFP.")
    ] = None

    def connect(self) -> "KfpHost":
        """Return a client of the server."""
        from kfp_bridge.service.client import KfpHost

        token = os.environ.get("KFP_TOKEN")
        return KfpHost(self.host, token=token, token_file=self.token_file, namespace=self.namespace)


def _command(name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command.

    A parameter whose type is a dataclass becomes one option per field. A BridgeError prints its message and exits with
    its code.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(function).parameters.values()
        groups: dict[str, Any] = {p.name: p.annotation for p in parameters if is_dataclass(p.annotation)}
        flat = [option for p in parameters for option in _options(p)]

        @wraps(function)
        def run(**values: Any) -> None:
            for argument, group in groups.items():
                values[argument] = group(**{field.name: values.pop(field.name) for field in fields(group)})
            try:
                function(**values)
            except BridgeError as error:
                print(f"kfp-bridge: {error}", file=sys.stderr)
                raise typer.Exit(error.exit_code) from error

        run.__dict__["__signature__"] = inspect.Signature(flat)
        return app.command(name)(run)

    return register


def _options(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return the parameter itself, or one parameter per field of its dataclass."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=keyword)]
    return [
        inspect.Parameter(
            field.name,
            keyword,
            annotation=field.type,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
        )
        for field in fields(parameter.annotation)
    ]


@_command()
def export(
    options: GraphOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .yaml.")],
    strict: Annotated[
        bool, typer.Option(help="Fail if the graph has anything that KFP cannot express.")
    ] = True,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Write Kubernetes manifests instead of IR YAML.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Show how each part of the graph was mapped.")
    ] = False,
    report_json: Annotated[Path | None, typer.Option(help="Write the mapping as JSON.")] = None,
) -> None:
    """Write a job or a selection of assets as a KFP pipeline; the same graph gives the same bytes."""
    from kfp_bridge.compiling import compiler

    graph = options.read()
    if report:
        _show_report(graph)
    if report_json is not None:
        rows = [asdict(row) for row in graph.report]
        report_json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    compiler.export(graph, options.image, output, strict=strict, manifest=manifest)
    print(f"{output}: {len(graph.steps)} tasks, {len(graph.parameters)} parameters, image {options.image}")


@_command()
def verify(pipeline: Pipeline, options: GraphOptions) -> None:
    """Read an exported YAML back and compare every field with Dagster's graph; exit 1 on any difference."""
    from kfp_bridge.pipeline_spec import read_pipeline_spec
    from kfp_bridge.verifying import verify as verifier

    spec = read_pipeline_spec(pipeline)
    differences = verifier.verify(options.read(), options.image, spec)
    _show_differences(differences, "Dagster's graph", str(pipeline))
    print(f"{pipeline}: the same graph, {len(spec.tasks)} tasks")


@_command()
def diff(
    old: Annotated[Path, typer.Argument(help="Exported YAML.")],
    new: Annotated[Path, typer.Argument(help="Exported YAML.")],
) -> None:
    """Show what changed between two exports; exit 1 on any difference."""
    from kfp_bridge.pipeline_spec import read_pipeline_spec
    from kfp_bridge.verifying import verify as verifier

    _show_differences(verifier.diff(read_pipeline_spec(old), read_pipeline_spec(new)), str(old), str(new))
    print("no difference")


@_command("run-local")
def run_local(
    pipeline: Pipeline,
    parameter: Parameters = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New folder for artifacts and logs.")
    ] = None,
    processes: Annotated[
        bool,
        typer.Option(
            "--processes", help="Run the container commands as processes even if there is a container engine."
        ),
    ] = False,
) -> None:
    """Run an exported YAML on this machine: in containers or, without a container engine, as isolated processes."""
    from kfp_bridge.pipeline_spec import read_pipeline_spec
    from kfp_bridge.running import local

    spec = read_pipeline_spec(pipeline)
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


@_command()
def upload(pipeline: Pipeline, host: HostOptions) -> None:
    """Upload an exported YAML as a version named after its content; the same file twice makes one version."""
    version = host.connect().upload(pipeline)
    print(f"{version.name}: {'uploaded' if version.created else 'already there'} ({version.version_id})")


@_command()
def submit(
    pipeline: Pipeline,
    host: HostOptions,
    parameter: Parameters = None,
    run_name: Annotated[
        str | None,
        typer.Option(
            help="Name of the run; an existing run of this name in the experiment is not started again."
        ),
    ] = None,
    experiment: Experiment = "Default",
    pipeline_root: Annotated[
        str | None, typer.Option(help="Where KFP stores the artifacts of this run.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(help="Wait up to this many seconds for the run to end; exit 1 unless it succeeds."),
    ] = None,
) -> None:
    """Upload if needed and start a run."""
    from kfp_bridge.pipeline_spec import read_pipeline_spec
    from kfp_bridge.running.local import parse_value, pipeline_values

    spec = read_pipeline_spec(pipeline)
    values = dict(parse_value(spec, assignment) for assignment in parameter or [])
    pipeline_values(spec, values)
    api = host.connect()
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


@_command()
def schedule(
    pipeline: Pipeline,
    host: HostOptions,
    experiment: Experiment = "Default",
    controller_timezone: Annotated[
        str, typer.Option(help="CRON_SCHEDULE_TIMEZONE of the KFP controller.")
    ] = "UTC",
) -> None:
    """Create KFP recurring runs from the job's Dagster schedules; repeating it changes nothing."""
    from kfp_bridge.pipeline_spec import read_pipeline_spec

    spec = read_pipeline_spec(pipeline)
    api = host.connect()
    lines = api.schedule(
        api.upload(pipeline), spec, controller_timezone=controller_timezone, experiment=experiment
    )
    print("\n".join(lines) or f"{pipeline}: its job has no schedule")


@_command()
def sync(
    pipeline: Pipeline,
    host: HostOptions,
    artifact_root: Annotated[
        str | None,
        typer.Option(help="Pipeline root of runs without one; default: minio://mlpipeline/v2/artifacts."),
    ] = None,
) -> None:
    """Report the events of a pipeline's ended KFP runs to the instance at DAGSTER_HOME, each event once."""
    import dagster as dg

    from kfp_bridge.pipeline_spec import read_pipeline_spec
    from kfp_bridge.service.sync import DEFAULT_ROOT
    from kfp_bridge.service.sync import sync as synchronize

    name = read_pipeline_spec(pipeline).name
    api = host.connect()
    if "DAGSTER_HOME" not in os.environ:
        raise BridgeError(
            "DAGSTER_HOME is not set: set it to the home of the instance that receives the events"
        )
    with dg.DagsterInstance.get() as instance:
        for run in synchronize(api, name, instance, artifact_root or DEFAULT_ROOT):
            print(
                f"{run.run_id}: {run.state}: {run.materializations} new materializations, {run.checks} new checks"
            )


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
