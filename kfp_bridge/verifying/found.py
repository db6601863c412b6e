"""Reads the facts of an exported YAML, to compare with those of `expected.py`.

Known fields are removed while reading. Whatever is left is unknown and is reported as a difference.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any

from kfp_bridge.errors import BridgeError
from kfp_bridge.names import identifier
from kfp_bridge.pipeline_graph import CONFUSION_MATRIX, INFO_MARK, METRICS, RECORD, REPORT, REPORT_HTML
from kfp_bridge.pipeline_spec import PipelineSpec, pod_settings
from kfp_bridge.verifying.expected import Facts
from kfp_bridge.verifying.found_pods import read_back

_REPORTS = (RECORD, METRICS, REPORT, REPORT_HTML, CONFUSION_MATRIX)
_SYSTEM = "system."


def spec_facts(spec: PipelineSpec) -> Facts:
    """Return the facts of the YAML; an unknown field becomes a fact `… unexpected`.

    Raises:
        BridgeError: a part of the YAML lacks what kfp-bridge always writes; the file is truncated or edited.
    """
    try:
        reader = _Reader(spec)
        reader.read()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BridgeError(f"{spec.place}: is truncated or edited: {type(error).__name__}: {error}") from error
    return reader.facts


class _Reader:
    def __init__(self, spec: PipelineSpec) -> None:
        self.pipeline: dict[str, Any] = copy.deepcopy(dict(spec.pipeline))
        self.platform: dict[str, Any] = copy.deepcopy(dict(spec.platform))
        self.info = dict(spec.info)
        self.facts: Facts = {}
        self.tasks = self.pipeline["root"]["dag"].pop("tasks")
        self.names = {name: self.task_label(name, task) for name, task in self.tasks.items()}

    def read(self) -> None:
        self.pipeline_facts()
        for name in sorted(self.tasks):
            component = self.pipeline["components"].pop(self.tasks[name]["componentRef"].pop("name"), {})
            executor = self.pipeline["deploymentSpec"]["executors"].pop(
                component.pop("executorLabel", ""), {}
            )
            if "importer" in executor:
                self.importer_facts(name, self.tasks[name], component, executor)
            else:
                self.task_facts(name, self.tasks[name], component, executor)
        self.pipeline.pop("schemaVersion")
        self.pipeline.pop("sdkVersion")
        self.leftovers("pipeline", self.pipeline)
        self.leftovers("platform", self.platform)

    def task_label(self, name: str, task: Mapping[str, Any]) -> str:
        label = self.pipeline["components"].get(task["componentRef"]["name"], {}).get("executorLabel")
        executor = self.pipeline["deploymentSpec"]["executors"].get(label, {})
        return f"import {task.get('taskInfo', {}).get('name')}" if "importer" in executor else name

    def pipeline_facts(self) -> None:
        info = self.pipeline["pipelineInfo"]
        lines = info.pop("description").splitlines()
        self.facts |= {
            "pipeline: name": info.pop("name"),
            "pipeline: description": "\n".join(line for line in lines if not line.startswith(INFO_MARK)),
            "pipeline: job": self.info.pop("job", None),
            "pipeline: selection": self.info.pop("select", None),
            "pipeline: definitions": {k: v for k, v in self.info.pop("source", {}).items() if v is not None},
            "pipeline: service account": self.info.pop("service_account", None),
            "pipeline: schedules": self.info.pop("schedules", []),
            "pipeline: tasks": sorted(self.names.values()),
        }
        self.info.pop("version", None)
        self.leftovers("pipeline description", self.info)
        for name, parameter in (
            self.pipeline["root"].get("inputDefinitions", {}).pop("parameters", {}).items()
        ):
            subject = f"parameter {name}"
            optional = parameter.pop("isOptional", False)
            default = parameter.pop("defaultValue", None)
            self.facts |= {
                f"{subject}: type": parameter.pop("parameterType", None),
                f"{subject}: default": default,
                f"{subject}: required": not optional,
                f"{subject}: description": parameter.pop("description", ""),
            }
            self.leftovers(subject, parameter)

    def importer_facts(self, name: str, task: dict, component: dict, executor: dict) -> None:
        label = self.names[name]
        importer = executor.pop("importer")
        uri = importer.pop("artifactUri", {}).get("constant")
        constant = (
            task.get("inputs", {})
            .get("parameters", {})
            .pop("uri", {})
            .get("runtimeValue", {})
            .get("constant")
        )
        declared = component.pop("outputDefinitions", {}).get("artifacts", {}).get("artifact", {})
        self.facts |= {
            f"{label}: uri": uri if uri == constant else [uri, constant],
            f"{label}: type": _artifact_type(importer.pop("typeSchema", {})),
            f"{label}: reimport": importer.pop("reimport", False),
        }
        if _artifact_type(declared.get("artifactType", {})) != self.facts[f"{label}: type"]:
            self.facts[f"{label}: output type"] = declared
        component.pop("inputDefinitions", None)
        task.pop("taskInfo", None)
        task.pop("cachingOptions", None)
        self.leftovers(label, importer)
        self.leftovers(label, task)
        self.leftovers(label, component)

    def task_facts(self, name: str, task: dict, component: dict, executor: dict) -> None:
        label = f"task {name}"
        container = executor.pop("container", {})
        arguments = container.pop("args", [])
        try:
            step = json.loads(arguments[-1])
        except (ValueError, IndexError, TypeError):
            step = {}
            self.facts[f"{label}: step argument"] = "not readable"
        retry = task.pop("retryPolicy", None)
        self.facts |= {
            f"{label}: image": container.pop("image", None),
            f"{label}: command": [*container.pop("command", []), *arguments[:-1]],
            f"{label}: display name": task.get("taskInfo", {}).pop("name", None),
            f"{label}: waits for": sorted(
                self.names.get(gate) or gate for gate in task.pop("dependentTasks", [])
            ),
            f"{label}: caching": task.get("cachingOptions", {}).pop("enableCache", False),
            f"{label}: retry": None if retry is None else _retry(retry),
        }
        self.step_facts(label, step)
        self.output_facts(label, step, component.pop("outputDefinitions", {}))
        self.input_facts(label, step, task.get("inputs", {}), component.get("inputDefinitions", {}))
        self.leftovers(f"{label}: argument", step)
        self.pod_facts(label, container, self.pod(name))
        self.leftovers(label, container)
        self.leftovers(label, task)
        self.leftovers(label, component)

    def step_facts(self, label: str, step: dict) -> None:
        checks = step.pop("checks", [])
        self.facts |= {
            f"{label}: definitions": step.pop("source", None),
            f"{label}: job": step.pop("job", None),
            f"{label}: version of its argument": step.pop("version", None),
            f"{label}: name in its argument": step.pop("task", None),
            f"{label}: partitioned": step.pop("partitioned", None),
            f"{label}: environment in its cache key": step.pop("environment", None),
            f"{label}: assets": sorted(asset["asset"] for asset in step.get("assets", [])),
            f"{label}: checks": sorted(f"{check['asset']}:{check['check']}" for check in checks),
            f"{label}: inputs": sorted(item["asset"] for item in step.get("inputs", [])),
        }
        for check in checks:
            self.facts[f"{label}: check {check['asset']}:{check['check']} blocking"] = check.get("blocking")

    def output_facts(self, label: str, step: dict, outputs: dict) -> None:
        artifacts, parameters = outputs.pop("artifacts", {}), outputs.pop("parameters", {})
        reports = {
            name: _artifact_type(artifacts.pop(name)["artifactType"])
            for name in _REPORTS
            if name in artifacts
        }
        self.facts[f"{label}: reports"] = reports
        for asset in step.pop("assets", []):
            subject = f"{label}: asset {asset['asset']}"
            declared = artifacts.pop(asset.get("value"), {}) if asset.get("value") else None
            self.facts[f"{subject} type"] = (
                None if declared is None else _artifact_type(declared.get("artifactType", {}))
            )
            self.facts[f"{subject} code_version"] = asset.get("code_version")
            self.facts[f"{subject} digest"] = parameters.pop(f"{identifier(asset['asset'])}_digest", {}).get(
                "parameterType"
            )
        self.leftovers(f"{label}: outputs", {**artifacts, **parameters})

    def input_facts(self, label: str, step: dict, sources: dict, definitions: dict) -> None:
        artifacts, parameters = sources.pop("artifacts", {}), sources.pop("parameters", {})
        types, kinds = definitions.pop("artifacts", {}), definitions.pop("parameters", {})
        records = {}
        for item in step.pop("inputs", []):
            key = item["asset"]
            value, record, digest = item.get("value"), item.get("record"), f"from_{identifier(key)}_digest"
            declared = _artifact_type(types.pop(value, {}).get("artifactType", {})) if value else None
            source = artifacts.pop(value, {}) if value else None
            self.facts[f"{label}: input {key}"] = [
                declared,
                None if source is None else self.producer(source, key, "artifact"),
            ]
            if record is not None and record not in records:
                records[record] = self.producer(artifacts.pop(record, {}), RECORD, "record")
                if _artifact_type(types.pop(record, {}).get("artifactType", {})) != "Artifact":
                    self.facts[f"{label}: record {record} type"] = "not Artifact"
            self.facts[f"{label}: record of {key}"] = records.get(record)
            kinds.pop(digest, None)
            taken = parameters.pop(digest, None)
            self.facts[f"{label}: digest of {key}"] = (
                None if taken is None else self.digest_producer(taken, key)
            )
        self.parameter_facts(label, step, parameters, kinds)
        self.leftovers(f"{label}: inputs", {**artifacts, **types, **kinds, **parameters})

    def parameter_facts(self, label: str, step: dict, sources: dict, kinds: dict) -> None:
        taken = step.pop("parameters", {})
        self.facts[f"{label}: run config"] = sorted(taken)
        for name, content in taken.items():
            kind = kinds.pop(name, {}).get("parameterType")
            shown = kind if kind == content.get("type") else [kind, content.get("type")]
            source = sources.pop(name, {}).get("componentInputParameter")
            self.facts[f"{label}: parameter {name}"] = [content.get("path"), shown, source]
        constants = {}
        for name in ("code_version", "imports"):
            kinds.pop(name, None)
            constants[name] = sources.pop(name, {}).get("runtimeValue", {}).get("constant")
        self.facts[f"{label}: code_version"] = constants["code_version"]
        self.facts[f"{label}: imported records"] = json.loads(constants["imports"] or "[]")
        if self.facts[f"{label}: partitioned"]:
            kinds.pop("partition_key", None)
            source = sources.pop("partition_key", {}).get("componentInputParameter")
            self.facts[f"{label}: partitioned"] = source == "partition_key"

    def producer(self, source: Mapping[str, Any], key: str, kind: str) -> Any:
        output = source.get("taskOutputArtifact", {})
        task = self.names.get(output.get("producerTask"), output.get("producerTask"))
        expected = (
            "artifact" if str(task).startswith("import ") else RECORD if kind == "record" else identifier(key)
        )
        return task if output.get("outputArtifactKey") == expected else dict(output)

    def digest_producer(self, source: Mapping[str, Any], key: str) -> Any:
        output = source.get("taskOutputParameter", {})
        return (
            output.get("producerTask")
            if output.get("outputParameterKey") == f"{identifier(key)}_digest"
            else dict(output)
        )

    def pod(self, task: str) -> dict[str, Any]:
        return pod_settings(self.platform).pop(f"exec-{task}", {})

    def pod_facts(self, label: str, container: dict, pod: dict) -> None:
        found = read_back(container, pod)
        self.facts |= {f"{label}: pod {name}": value for name, value in found.items()}
        self.leftovers(f"{label}: pod", pod)

    def leftovers(self, subject: str, rest: Any) -> None:
        """Add a fact for every non-empty value that was not read."""
        if isinstance(rest, Mapping):
            for key, value in rest.items():
                self.leftovers(f"{subject}.{key}", value)
        elif rest not in ([], None):
            self.facts[f"{subject} unexpected"] = rest


def _artifact_type(schema: Mapping[str, Any]) -> str | None:
    title = str(schema.get("schemaTitle") or schema.get("instanceSchema") or "")
    return (
        title.removeprefix(_SYSTEM)
        if title.startswith(_SYSTEM) and schema.get("schemaVersion") == "0.0.1"
        else title
    )


def _retry(policy: Mapping[str, Any]) -> tuple[Any, ...]:
    seconds = [
        int(float(str(policy.get(k, "0s")).removesuffix("s")))
        for k in ("backoffDuration", "backoffMaxDuration")
    ]
    return policy.get("maxRetryCount"), seconds[0], float(policy.get("backoffFactor", 0)), seconds[1]
