"""Runs each step in its own Kubernetes pod, with Dagster's executor. The event log explains why a pod failed.

Run config can set resources and concurrency only. The other settings (image, service account, volumes, node of a
step) are in a file of the deployment in the format of `dagster_k8s.k8s_job_executor`'s config; see
`k8s/base/executor.yaml`.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from jukebox_orch.contract import InputError
from jukebox_orch.dagster_internals import pod_label, step_handler

# A container that waits for one of these reasons for this long (s) cannot start without a change.
_FATAL_WAITING_REASONS = (
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
)
_FATAL_WAIT_SECONDS = 45.0
# A pod may wait this long for a node (s), because autoscalers need minutes. A new node does not help if the pod's
# volume claim is missing.
_SCHEDULING_SECONDS = 600.0
_MISSING_CLAIM = re.compile(r'persistentvolumeclaim "[^"]*" not found')

_RESOURCES = dg.Field(
    dg.Map(
        str,
        dg.Shape(
            {
                "requests": dg.Field(dg.Map(str, str), is_required=False),
                "limits": dg.Field(dg.Map(str, str), is_required=False),
            }
        ),
        key_label_name="step",
    ),
    default_value={},
    description="CPU, memory, GPU of a step instead of its default, for example "
    "{jukebox__trained_model: {limits: {memory: 8Gi, nvidia.com/gpu: '1'}}}",
)


def pod_executor(settings_file: str) -> dg.ExecutorDefinition:
    """Return the executor that runs each step in its own pod.

    A run may set `resources` and `max_concurrent`. Only the deployment sets image, account and volumes.

    Args:
        settings_file: YAML with the config of `dagster_k8s.k8s_job_executor`.

    Raises:
        InputError: the file is missing or is not a mapping.
    """
    from dagster_k8s import k8s_job_executor

    settings = _read(settings_file)
    create = k8s_job_executor.executor_creation_fn
    assert create is not None  # noqa: S101 - it is Dagster's own definition

    def with_resources(run_config: Mapping[str, Any]) -> Mapping[str, Any]:
        config = copy.deepcopy(settings)
        steps = config.setdefault("per_step_k8s_config", {})
        for step, resources in run_config["resources"].items():
            steps.setdefault(step, {}).setdefault("container_config", {})["resources"] = resources
        if run_config.get("max_concurrent"):
            config["max_concurrent"] = run_config["max_concurrent"]
        return config

    executor = dg.ExecutorDefinition(
        name="k8s",
        config_schema=k8s_job_executor.config_schema,  # pyright: ignore[reportArgumentType] - taken as it is
        requirements=k8s_job_executor.get_requirements,
        executor_creation_fn=lambda context: _explain_failures(create(context)),
        description="Runs every step in its own Kubernetes pod",
    )
    return executor.configured(
        with_resources,
        config_schema={
            "resources": _RESOURCES,
            "max_concurrent": dg.Field(int, is_required=False, description="Steps that run at the same time"),
        },
    )


def pod_failure_reason(pods: Sequence[Any]) -> str:
    """Return the reason why the newest of a step's pods (`V1Pod`) ended."""
    if not pods:
        return "its pod is missing: deleted, evicted or its node lost"
    pod = max(pods, key=lambda p: p.metadata.creation_timestamp)
    ended = [s for s in pod.status.container_statuses or [] if s.state and s.state.terminated]
    for status in ended:
        terminated = status.state.terminated
        if terminated.reason == "OOMKilled":
            return (
                f"pod {pod.metadata.name} was killed: OOMKilled, out of memory (limit {_memory_limit(pod)}); "
                f"raise the step's memory limit"
            )
    details = pod.status.message or ", ".join(
        f"{s.state.terminated.reason}, exit code {s.state.terminated.exit_code}" for s in ended
    )
    return f"pod {pod.metadata.name}: {pod.status.reason or pod.status.phase}" + (
        f": {details}" if details else ""
    )


def pod_start_problem(pods: Sequence[Any], now: datetime) -> str | None:
    """Return the reason why the newest of a step's pods cannot start; None if it may still start."""
    if not pods:
        return None
    pod = max(pods, key=lambda p: p.metadata.creation_timestamp)
    age = (now - pod.metadata.creation_timestamp).total_seconds()
    if pod.status.phase != "Pending":
        return None
    for status in pod.status.container_statuses or []:
        waiting = status.state and status.state.waiting
        if waiting and waiting.reason in _FATAL_WAITING_REASONS and age > _FATAL_WAIT_SECONDS:
            return (
                f"pod {pod.metadata.name} cannot start: {waiting.reason}: {waiting.message or 'no message'}"
            )
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            missing_claim = _MISSING_CLAIM.search(condition.message or "")
            if age > (_FATAL_WAIT_SECONDS if missing_claim else _SCHEDULING_SECONDS):
                return f"pod {pod.metadata.name} found no node in {age:.0f} s: {condition.message}"
    return None


def _read(settings_file: str) -> dict[str, Any]:
    if not settings_file:
        raise InputError("JUKEBOX_ORCH_EXECUTOR = 'k8s' needs JUKEBOX_ORCH_EXECUTOR_CONFIG: a YAML file")
    try:
        settings = yaml.safe_load(Path(settings_file).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"JUKEBOX_ORCH_EXECUTOR_CONFIG = {settings_file!r}: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(
            f"JUKEBOX_ORCH_EXECUTOR_CONFIG = {settings_file!r}: is a {type(settings).__name__}; "
            "use a mapping such as k8s/base/executor.yaml"
        )
    return settings


def _explain_failures(executor: Any) -> Any:
    """Make the executor's health check report why a pod failed, and end pods that cannot start."""
    handler = step_handler(executor)
    check = handler.check_step_health

    def check_step_health(context: Any) -> Any:
        result = check(context)
        pods = _pods_of_step(context)
        if not result.is_healthy:
            return type(result).unhealthy(f"{result.unhealthy_reason} {pod_failure_reason(pods)}.")
        problem = pod_start_problem(pods, datetime.now(UTC))
        if problem is None:
            return result
        for _event in handler.terminate_step(context):
            pass
        return type(result).unhealthy(f"{problem}.")

    handler.check_step_health = check_step_health
    return executor


def _pods_of_step(context: Any) -> Sequence[Any]:
    """Return the pods of all attempts of the step, by the labels that dagster-k8s sets."""
    from kubernetes.client import CoreV1Api

    (step,) = context.execute_step_args.step_keys_to_execute
    labels = {"dagster/run-id": context.dagster_run.run_id, "dagster/op": pod_label(step)}
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    return CoreV1Api().list_namespaced_pod(_namespace(context), label_selector=selector).items


def _namespace(context: Any) -> str:
    return context.instance.run_launcher.job_namespace


def _memory_limit(pod: Any) -> str:
    limits = (pod.spec.containers[0].resources and pod.spec.containers[0].resources.limits) or {}
    return limits.get("memory", "none")
