"""Runs an exported pipeline on this machine: in containers or, without a container engine, as processes.

Containers run through `kfp.local.DockerRunner`. Without an engine the container commands of the YAML run as
processes, each in an empty folder with its own environment, and see only what the pipeline gives them.
"""

import graphlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kfp_bridge.errors import BridgeError, GateError, RunError
from kfp_bridge.pipeline_graph import RECORD
from kfp_bridge.pipeline_spec import PipelineSpec
from kfp_bridge.records import parse_record

_KEPT_VARIABLES = ("LANG", "LC_ALL", "TZ", "TMPDIR")


def has_container_engine() -> bool:
    """Return whether a Docker engine answers."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
        client.ping()
    except DockerException:
        return False
    return True


def run_in_containers(spec: PipelineSpec, path: Path, values: Mapping[str, Any], root: Path) -> None:
    """Run through kfp.local, which ignores retries, secrets and caching.

    Args:
        spec: the exported pipeline.
        path: its file.
        values: pipeline parameters that differ from their defaults.
        root: a new or empty folder for the artifacts.

    Raises:
        RunError: a task failed.
        BridgeError: unknown parameter, a missing one, or a folder that is not empty.
    """
    from kfp import components, local

    root = _empty_folder(root)
    parameters = pipeline_values(spec, values)
    if empty := sorted(set(spec.parameters) - set(parameters)):
        raise BridgeError(
            f"parameter {', '.join(empty)} of pipeline {spec.name} is empty, which kfp.local does not support: "
            "give it with -p, or run with --processes"
        )
    # The caller owns the artifacts' folder, so the image runs as the caller, who may not write to the image's HOME.
    user = f"{os.getuid()}:{os.getgid()}"
    local.init(local.DockerRunner(user=user, environment={"HOME": "/tmp"}), pipeline_root=str(root))  # noqa: S108
    pipeline = components.load_component_from_file(str(path))
    try:
        pipeline(**parameters)
    except (RuntimeError, ValueError) as error:
        _raise_on_failed_gate(spec, root)
        raise RunError(f"pipeline {spec.name} failed: {error}") from error
    raise_on_lost_failure(spec, root)


def raise_on_lost_failure(spec: PipelineSpec, root: Path) -> None:
    """Raise if a task failed: kfp.local takes a container deleted before its exit code was read for a success."""
    _raise_on_failed_gate(spec, root)
    for task in task_order(spec):
        if "importer" not in spec.executor(task) and not list(root.glob(f"*/{task}/{RECORD}")):
            raise RunError(
                f"task {task} of pipeline {spec.name} failed: it wrote no record; see its output above"
            )


def _raise_on_failed_gate(spec: PipelineSpec, root: Path) -> None:
    for task in task_order(spec):
        for record in root.glob(f"*/{task}/{RECORD}"):
            if failed := parse_record(record.read_text(encoding="utf-8"), str(record)).failed_gate():
                raise RunError(f"task {task} failed: {failed}")


def _empty_folder(root: Path) -> Path:
    if root.exists() and any(root.iterdir()):
        raise BridgeError(f"{root}: is not empty; name a new or empty folder")
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


def run_as_processes(
    spec: PipelineSpec, values: Mapping[str, Any], root: Path, echo: Callable[[str], None] = print
) -> Path:
    """Run every task as a process, in the order of the graph; stop at the first that fails.

    The outputs of a task, artifacts and parameters, are files `<root>/<task>/<name>`.

    Args:
        spec: the exported pipeline.
        values: pipeline parameters that differ from their defaults.
        root: a new or empty folder that gets one folder per task.
        echo: called with one line per task.

    Returns:
        The folder, as an absolute path.

    Raises:
        RunError: a task failed after its retries; the message ends with the last line of its log.
        BridgeError: unknown parameter, a missing one, or a folder that is not empty.
    """
    root = _empty_folder(root)
    parameters = pipeline_values(spec, values)
    for task in task_order(spec):
        started = time.monotonic()
        if "importer" in spec.executor(task):
            echo(f"{task}: import {spec.executor(task)['importer']['artifactUri']['constant']}")
            continue
        _run_task(spec, task, parameters, root)
        echo(f"{task}: succeeded in {time.monotonic() - started:.1f} s")
    return root


def task_order(spec: PipelineSpec) -> list[str]:
    """Return the task names, each after those that it depends on."""
    upstream = {name: sorted(task.get("dependentTasks", [])) for name, task in sorted(spec.tasks.items())}
    try:
        return list(graphlib.TopologicalSorter(upstream).static_order())
    except graphlib.CycleError as error:
        raise BridgeError(f"{spec.place}: tasks form a cycle: {' -> '.join(error.args[1])}") from error


def pipeline_values(spec: PipelineSpec, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all pipeline parameters: the given ones over the defaults.

    Raises:
        BridgeError: a parameter the pipeline does not have, or one without default that is not given.
    """
    unknown = sorted(set(values) - set(spec.parameters))
    if unknown:
        raise _unknown_parameter(spec, unknown[0])
    merged = {}
    for name, parameter in spec.parameters.items():
        if name in values:
            merged[name] = values[name]
        elif "defaultValue" in parameter:
            merged[name] = _typed_default(parameter)
        elif not parameter.get("isOptional"):
            raise BridgeError(
                f"parameter {name!r} of pipeline {spec.name} has no default: give it with -p {name}=VALUE"
            )
    return merged


def parse_value(spec: PipelineSpec, assignment: str) -> tuple[str, Any]:
    """Return name and value of `NAME=VALUE`, the value in the type of the parameter.

    Raises:
        BridgeError: no such parameter or a value that is not of its type.
    """
    name, separator, text = assignment.partition("=")
    if not separator:
        raise BridgeError(f"-p {assignment!r}: expected NAME=VALUE")
    if name not in spec.parameters:
        raise _unknown_parameter(spec, name)
    kind = spec.parameters[name]["parameterType"]
    if kind == "STRING":
        return name, text
    wanted = {
        "NUMBER_INTEGER": int,
        "NUMBER_DOUBLE": (int, float),
        "BOOLEAN": bool,
        "LIST": list,
        "STRUCT": dict,
    }[kind]
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BridgeError(f"parameter {name!r}: {text!r} is not a {kind} in JSON: {error}") from error
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "BOOLEAN"):
        raise BridgeError(f"parameter {name!r}: {text!r} is not a {kind}")
    return name, value


def executor_input(
    spec: PipelineSpec, task: str, parameters: Mapping[str, Any], root: Path
) -> dict[str, Any]:
    """Return the executor input that a KFP launcher would give the task, with files under `root`."""
    component, content = spec.component(task), spec.tasks[task]
    outputs = component.get("outputDefinitions", {})
    values = {}
    for name, source in content.get("inputs", {}).get("parameters", {}).items():
        if "componentInputParameter" in source:
            if source["componentInputParameter"] in parameters:
                values[name] = parameters[source["componentInputParameter"]]
        elif "runtimeValue" in source:
            values[name] = source["runtimeValue"]["constant"]
        else:
            output = source["taskOutputParameter"]
            values[name] = (root / output["producerTask"] / output["outputParameterKey"]).read_text(
                encoding="utf-8"
            )
    artifacts = {
        name: {"artifacts": [_artifact(name, _artifact_uri(spec, source["taskOutputArtifact"], root))]}
        for name, source in content.get("inputs", {}).get("artifacts", {}).items()
    }
    folder = root / task
    return {
        "inputs": {"parameterValues": values, "artifacts": artifacts},
        "outputs": {
            "artifacts": {
                name: {"artifacts": [_artifact(name, str(folder / name))]}
                for name in outputs.get("artifacts", {})
            },
            "parameters": {
                name: {"outputFile": str(folder / name)} for name in outputs.get("parameters", {})
            },
            "outputFile": str(folder / "executor_output.json"),
        },
    }


def task_command(spec: PipelineSpec, task: str, executor_input_json: str) -> list[str]:
    """Return the container command of the task with its placeholder replaced."""
    container = spec.executor(task)["container"]
    arguments = [
        executor_input_json if argument == "{{$}}" else argument for argument in container.get("args", [])
    ]
    return [*container["command"], *arguments]


def task_environment(spec: PipelineSpec, task: str, work: Path) -> dict[str, str]:
    """Return the task's plain variables; those from secrets and config maps are taken from the caller's, by name."""
    pod = spec.pod(task)
    references = [item for kind in ("secretAsEnv", "configMapAsEnv") for item in pod.get(kind, [])]
    referred = [pair["envVar"] for item in references for pair in item["keyToEnv"]]
    kept = {name: os.environ[name] for name in (*_KEPT_VARIABLES, *referred) if name in os.environ}
    plain = {item["name"]: item.get("value", "") for item in spec.executor(task)["container"].get("env", [])}
    # `python` in the command is the current interpreter, as in a container it is the image's.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}"
    return {**kept, "PATH": path, "HOME": str(work), **plain}


def _run_task(spec: PipelineSpec, task: str, parameters: Mapping[str, Any], root: Path) -> None:
    folder = root / task
    (folder / "work").mkdir(parents=True)
    command = task_command(spec, task, json.dumps(executor_input(spec, task, parameters, root)))
    policy = spec.tasks[task].get("retryPolicy", {})
    delay = float(str(policy.get("backoffDuration", "0s")).removesuffix("s"))
    attempts = int(policy.get("maxRetryCount", 0)) + 1
    returncode = _run_once(spec, task, command, folder)
    for _ in range(attempts - 1):
        if returncode in (0, GateError.exit_code):  # as in Dagster, a failed gate is not retried
            break
        time.sleep(delay)
        delay *= float(policy.get("backoffFactor", 1))
        returncode = _run_once(spec, task, command, folder)
    if returncode == 0:
        return
    lines = (folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"exit code {returncode} and an empty log"
    raise RunError(f"task {task} failed (log in {folder / 'log'}): {reason}")


def _run_once(spec: PipelineSpec, task: str, command: list[str], folder: Path) -> int:
    work = folder / "work"
    with (folder / "log").open("ab") as log:
        return subprocess.run(  # noqa: S603 - runs the commands of the user's pipeline
            command,
            cwd=work,
            env=task_environment(spec, task, work),
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode


def _artifact(name: str, uri: str) -> dict[str, Any]:
    return {"name": name, "uri": uri, "metadata": {}}


def _artifact_uri(spec: PipelineSpec, output: Mapping[str, str], root: Path) -> str:
    producer = spec.executor(output["producerTask"])
    if "importer" in producer:
        return producer["importer"]["artifactUri"]["constant"]
    return str(root / output["producerTask"] / output["outputArtifactKey"])


def _unknown_parameter(spec: PipelineSpec, name: str) -> BridgeError:
    known = ", ".join(sorted(spec.parameters)) or "none"
    return BridgeError(f"parameter {name!r} is unknown: pipeline {spec.name} has {known}")


def _typed_default(parameter: Mapping[str, Any]) -> Any:
    value = parameter["defaultValue"]
    return int(value) if parameter["parameterType"] == "NUMBER_INTEGER" else value
