"""Reads the executor input that a KFP launcher gives a task, and writes the executor output that it reads back.

Formats: `ExecutorInput` and `ExecutorOutput` of
https://github.com/kubeflow/pipelines/blob/master/api/v2alpha1/pipeline_spec.proto, as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_bridge.errors import BridgeError

_MOUNTS = (("gs://", "/gcs/"), ("minio://", "/minio/"), ("s3://", "/s3/"))


@dataclass(frozen=True)
class Artifact:
    """One artifact of a task; `path` is where to read or write it in this container."""

    name: str
    uri: str
    path: Path


@dataclass(frozen=True)
class ExecutorInput:
    """Inputs and outputs of one task."""

    parameters: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    outputs: Mapping[str, Artifact]
    output_parameters: Mapping[str, Path]
    output_file: Path

    def input(self, name: str) -> Artifact:
        """Return the input artifact of this name; it exists on disk."""
        if name not in self.inputs:
            raise BridgeError(
                f"executor input: artifact {name!r} is missing; export the pipeline with the image's kfp_bridge"
            )
        artifact = self.inputs[name]
        if not artifact.path.exists():
            raise BridgeError(f"executor input: artifact {name!r} ({artifact.uri}) is not at {artifact.path}")
        return artifact

    def output(self, name: str) -> Artifact:
        """Return the output artifact of this name; its folder is created."""
        if name not in self.outputs:
            raise BridgeError(
                f"executor input: output {name!r} is missing; export the pipeline with the image's kfp_bridge"
            )
        artifact = self.outputs[name]
        artifact.path.parent.mkdir(parents=True, exist_ok=True)
        return artifact


def parse_executor_input(text: str) -> ExecutorInput:
    """Read the JSON of `{{$}}`.

    Raises:
        BridgeError: not JSON, or not of this format.
    """
    try:
        content = json.loads(text)
        inputs, outputs = content.get("inputs", {}), content["outputs"]
        return ExecutorInput(
            parameters=dict(inputs.get("parameterValues", {})),
            inputs=_artifacts(inputs.get("artifacts", {})),
            outputs=_artifacts(outputs.get("artifacts", {})),
            output_parameters={n: Path(p["outputFile"]) for n, p in outputs.get("parameters", {}).items()},
            output_file=Path(outputs["outputFile"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BridgeError(
            f"--executor-input: not the JSON of a KFP launcher: {type(error).__name__}: {error}"
        ) from error


def write_executor_output(task: ExecutorInput, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Write executor_output.json: every output artifact, with its metadata by artifact name.

    KFP's launcher takes missing ones from the executor input; kfp.local knows only those in the output.
    """
    artifacts = {
        name: {
            "artifacts": [
                {"name": artifact.name, "uri": artifact.uri, "metadata": dict(metadata.get(name, {}))}
            ]
        }
        for name, artifact in task.outputs.items()
    }
    task.output_file.parent.mkdir(parents=True, exist_ok=True)
    task.output_file.write_text(
        json.dumps({"artifacts": artifacts}, sort_keys=True, allow_nan=False), encoding="utf-8"
    )


def write_parameter(task: ExecutorInput, name: str, value: str) -> None:
    """Write an output parameter to the path where the launcher reads it."""
    if name not in task.output_parameters:
        raise BridgeError(
            f"executor input: output parameter {name!r} is missing; export the pipeline with the image's kfp_bridge"
        )
    path = task.output_parameters[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value, encoding="utf-8")


def local_path(uri: str, custom_path: str | None = None) -> Path:
    """Return where a launcher puts the object of a URI in the container (the rule of kfp.dsl.Artifact.path)."""
    if custom_path:
        return Path(custom_path)
    for scheme, mount in _MOUNTS:
        if uri.startswith(scheme):
            return Path(mount + uri[len(scheme) :])
    if "://" in uri:
        raise BridgeError(f"artifact {uri}: its scheme has no path in a container; use s3, gs or minio")
    return Path(uri)


def _artifacts(artifacts: Mapping[str, Any]) -> dict[str, Artifact]:
    found = {}
    for name, listed in artifacts.items():
        artifact = listed["artifacts"][0] if listed.get("artifacts") else None
        if artifact is not None:
            uri = artifact["uri"]
            found[name] = Artifact(
                artifact.get("name", name), uri, local_path(uri, artifact.get("customPath"))
            )
    return found
