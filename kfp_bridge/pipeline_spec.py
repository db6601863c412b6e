"""Reads an exported pipeline back, IR YAML or Kubernetes manifests, as validated dictionaries."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kfp_bridge.errors import BridgeError
from kfp_bridge.pipeline_graph import INFO_MARK


@dataclass(frozen=True)
class PipelineSpec:
    """An exported pipeline. `pipeline` and `platform` are the two documents of KFP's IR, `info` the bridge's own."""

    place: str
    pipeline: Mapping[str, Any]
    platform: Mapping[str, Any]
    info: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the pipeline."""
        return self.pipeline["pipelineInfo"]["name"]

    @property
    def tasks(self) -> Mapping[str, Any]:
        """Task specs by name."""
        return self.pipeline["root"]["dag"]["tasks"]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Parameter specs of the pipeline by name."""
        return self.pipeline["root"].get("inputDefinitions", {}).get("parameters", {})

    def component(self, task: str) -> Mapping[str, Any]:
        """Return the component spec of a task."""
        return self.pipeline["components"][self.tasks[task]["componentRef"]["name"]]

    def executor(self, task: str) -> Mapping[str, Any]:
        """Return the executor spec of a task: `container` or `importer`."""
        label = self.component(task)["executorLabel"]
        return self.pipeline["deploymentSpec"]["executors"][label]

    def pod(self, task: str) -> Mapping[str, Any]:
        """Return the Kubernetes settings of a task."""
        return pod_settings(self.platform).get(self.component(task)["executorLabel"], {})

    def step(self, task: str) -> dict[str, Any] | None:
        """Return the argument of `kfp_bridge.step` in a task; None for an importer."""
        container = self.executor(task).get("container")
        if container is None:
            return None
        arguments = container.get("args", [])
        try:
            return json.loads(arguments[arguments.index("--step") + 1])
        except (ValueError, IndexError) as error:
            raise BridgeError(
                f"{self.place}: task {task}: has no readable --step argument: {error}"
            ) from error


def read_pipeline_spec(path: Path) -> PipelineSpec:
    """Read a pipeline that `kfp-bridge export` wrote.

    Raises:
        BridgeError: the file is missing, not YAML, not a pipeline, truncated, or not written by kfp-bridge.
    """
    if not path.is_file():
        raise BridgeError(f"{path}: no such file")
    return parse_spec(path.read_text(encoding="utf-8"), str(path))


def parse_spec(text: str, place: str) -> PipelineSpec:
    """Like `read_pipeline_spec`, from text; `place` names it in messages."""
    try:
        documents = [_without_nulls(document) for document in yaml.load_all(text, Loader=_LOADER) if document]
    except yaml.YAMLError as error:
        raise BridgeError(f"{place}: is not YAML: {' '.join(str(error).split())}") from error
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise BridgeError(f"{place}: is not a KFP pipeline")
    pipeline, platform = _from_manifests(documents) or _from_ir(documents)
    _validate(pipeline, platform, place)
    return PipelineSpec(place, pipeline, platform, _info(pipeline, place))


def pod_settings(platform: Mapping[str, Any]) -> Any:
    """Return the Kubernetes settings in a platform document, by executor label."""
    kubernetes = platform.get("platforms", {}).get("kubernetes", {})
    return kubernetes.get("deploymentSpec", {}).get("executors", {})


# The C loader takes a quarter of the time for 500 tasks; PyYAML may be built without it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _without_nulls(value: Any) -> Any:
    """Remove nulls: in the protobuf that the YAML represents, null is an absent field."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _from_manifests(documents: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    versions = [document for document in documents if document.get("kind") == "PipelineVersion"]
    if not versions:
        return None
    spec = versions[0].get("spec", {})
    return spec.get("pipelineSpec", {}), spec.get("platformSpec", {})


def _from_ir(documents: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return documents[0], documents[1] if len(documents) > 1 else {}


def _validate(pipeline: dict[str, Any], platform: dict[str, Any], place: str) -> None:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    messages: Any = pipeline_spec_pb2  # generated code without types
    missing = [
        key
        for key in ("components", "deploymentSpec", "pipelineInfo", "root", "schemaVersion", "sdkVersion")
        if key not in pipeline
    ]
    if missing:
        raise BridgeError(f"{place}: not a KFP pipeline, or truncated: missing {', '.join(missing)}")
    try:
        json_format.ParseDict(pipeline, messages.PipelineSpec())
        json_format.ParseDict(platform, messages.PlatformSpec())
    except json_format.ParseError as error:
        raise BridgeError(f"{place}: is not a valid KFP pipeline: {error}") from error
    executors = pipeline["deploymentSpec"].get("executors", {})
    for task, content in pipeline["root"].get("dag", {}).get("tasks", {}).items():
        component = pipeline["components"].get(content.get("componentRef", {}).get("name"), {})
        if component.get("executorLabel") not in executors:
            raise BridgeError(
                f"{place}: task {task}: its component or executor is missing; the file is truncated"
            )
    if not pipeline["root"].get("dag", {}).get("tasks"):
        raise BridgeError(f"{place}: has no tasks")


def _info(pipeline: dict[str, Any], place: str) -> dict[str, Any]:
    lines = pipeline["pipelineInfo"].get("description", "").splitlines()
    marked = [line.removeprefix(INFO_MARK) for line in lines if line.startswith(INFO_MARK)]
    if len(marked) != 1:
        raise BridgeError(
            f"{place}: was not written by kfp-bridge: its description has no {INFO_MARK.strip()!r} line"
        )
    try:
        return json.loads(marked[0])
    except ValueError as error:
        raise BridgeError(
            f"{place}: the {INFO_MARK.strip()!r} line of its description is not JSON: {error}"
        ) from error
