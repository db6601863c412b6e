"""Sets the pod settings of a `PipelineGraph` on the tasks of a KFP pipeline."""

from typing import TYPE_CHECKING

from kfp_bridge.pipeline_graph import Pod

if TYPE_CHECKING:
    from kfp import dsl


def apply_pod(task: "dsl.PipelineTask", pod: Pod) -> None:
    """Set all settings of the pod on the KFP task."""
    for value, setter in (
        (pod.cpu_request, task.set_cpu_request),
        (pod.cpu_limit, task.set_cpu_limit),
        (pod.memory_request, task.set_memory_request),
        (pod.memory_limit, task.set_memory_limit),
        (pod.accelerator_type, task.set_accelerator_type),
        (pod.accelerator_count, task.set_accelerator_limit),
    ):
        if value is not None:
            setter(value)
    for name, value in pod.env:
        task.set_env_variable(name, value)
    _apply_references(task, pod)
    _apply_mounts(task, pod)
    _apply_placement(task, pod)


def _apply_references(task: "dsl.PipelineTask", pod: Pod) -> None:
    from kfp import kubernetes

    for variable, secret, key, optional in pod.secret_env:
        kubernetes.use_secret_as_env(task, secret, {key: variable}, optional)
    for variable, config_map, key, optional in pod.config_map_env:
        kubernetes.use_config_map_as_env(task, config_map, {key: variable}, optional)
    for variable, field_path in pod.field_env:
        kubernetes.use_field_path_as_env(task, variable, field_path)
    if pod.image_pull_policy:
        kubernetes.set_image_pull_policy(task, pod.image_pull_policy)
    if pod.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(pod.image_pull_secrets))


def _apply_mounts(task: "dsl.PipelineTask", pod: Pod) -> None:
    from kfp import kubernetes

    for claim, path, sub_path in pod.pvc_mounts:
        kubernetes.mount_pvc(task, claim, path, sub_path)
    for secret, path, optional in pod.secret_mounts:
        kubernetes.use_secret_as_volume(task, secret, path, optional)
    for config_map, path, optional in pod.config_map_mounts:
        kubernetes.use_config_map_as_volume(task, config_map, path, optional)
    for volume, path, medium, size in pod.empty_dirs:
        kubernetes.empty_dir_mount(task, volume, path, medium or None, size or None)


def _apply_placement(task: "dsl.PipelineTask", pod: Pod) -> None:
    from kfp import kubernetes

    for key, value in pod.node_selector:
        kubernetes.add_node_selector(task, key, value)
    for key, operator, value, effect, seconds in pod.tolerations:
        # kfp-kubernetes types these as str, and takes None for "any".
        kubernetes.add_toleration(task, key, operator, value or None, effect or None, seconds)  # type: ignore[arg-type]
    for key, value in pod.labels:
        kubernetes.add_pod_label(task, key, value)
    for key, value in pod.annotations:
        kubernetes.add_pod_annotation(task, key, value)
    if (pod.run_as_user, pod.run_as_group, pod.run_as_non_root) != (None, None, None):
        kubernetes.set_security_context(task, pod.run_as_user, pod.run_as_group, pod.run_as_non_root)
    if pod.timeout_seconds:
        kubernetes.set_timeout(task, pod.timeout_seconds)
