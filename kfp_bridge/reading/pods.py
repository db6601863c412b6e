"""Reads `dagster-k8s/config` tags as pod settings of a KFP task.

Format of the tag: https://docs.dagster.io/deployment/oss/deployment-options/kubernetes/customizing-your-deployment.
Every field of the tag is either read into `Pod` or reported; none is dropped silently.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kfp_bridge.names import is_label, is_volume
from kfp_bridge.pipeline_graph import MappingRow, Pod

K8S_TAG = "dagster-k8s/config"
_KFP_VOLUMES = (
    "kfp-launcher",
    *(f"{name}-scratch" for name in ("gcs", "s3", "minio", "dot-local", "dot-cache", "dot-config")),
)
_USER_KEYED = {"labels", "annotations", "node_selector", "limits", "requests"}


def read_pod(
    tag: str | Mapping[str, Any] | None, defaults: Mapping[str, Any], subject: str
) -> tuple[Pod, str | None, list[MappingRow]]:
    """Return pod settings, service account and report rows of one tag value (JSON text or mapping) over the defaults.

    Fields that KFP cannot express become rows with the outcome `unmapped`.
    """
    if not tag and not defaults:
        return Pod(), None, []
    try:
        own = _snake_case(json.loads(tag) if isinstance(tag, str) else tag or {})
    except ValueError as error:
        return Pod(), None, [MappingRow(subject, K8S_TAG, f"is not JSON: {error}", "unmapped")]
    reader = _Reader(_merge(_snake_case(defaults), own), subject)
    pod, service_account = reader.read()
    return pod, service_account, reader.rows


def with_labels(pod: Pod, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Pod:
    """Return the pod with more labels and annotations; those of the tag itself take precedence."""
    return replace(
        pod,
        labels=tuple(sorted({**labels, **dict(pod.labels)}.items())),
        annotations=tuple(sorted({**annotations, **dict(pod.annotations)}.items())),
    )


class _Reader:
    """Reads one tag: known fields are removed while reading, and whatever is left is reported."""

    def __init__(self, config: dict[str, Any], subject: str) -> None:
        self.config = config
        self.subject = subject
        self.rows: list[MappingRow] = []

    def read(self) -> tuple[Pod, str | None]:
        container = self.config.pop("container_config", {})
        pod_spec = self.config.pop("pod_spec_config", {})
        metadata = self.config.pop("pod_template_spec_metadata", {})
        self.config.pop("merge_behavior", None)
        service_account = pod_spec.pop("service_account_name", None)
        security = container.pop("security_context", None) or pod_spec.pop("security_context", {})
        labels = metadata.pop("labels", {})
        for key, value in labels.items():
            if not is_label(key, str(value)):
                self.unmapped("pod_template_spec_metadata.labels", f"{key}={value} is not a Kubernetes label")
        pod = Pod(
            **self.resources(container.pop("resources", {})),
            **self.environment(container.pop("env", [])),
            **self.mounts(container.pop("volume_mounts", []), pod_spec.pop("volumes", [])),
            node_selector=_pairs(pod_spec.pop("node_selector", {})),
            tolerations=self.tolerations(pod_spec.pop("tolerations", [])),
            labels=_pairs(labels),
            annotations=_pairs(metadata.pop("annotations", {})),
            image_pull_policy=container.pop("image_pull_policy", None),
            image_pull_secrets=tuple(sorted(s["name"] for s in pod_spec.pop("image_pull_secrets", []))),
            run_as_user=security.pop("run_as_user", None),
            run_as_group=security.pop("run_as_group", None),
            run_as_non_root=security.pop("run_as_non_root", None),
            timeout_seconds=pod_spec.pop("active_deadline_seconds", None),
        )
        if container.pop("env_from", []):
            self.unmapped(
                "container_config.env_from", "KFP takes single keys: list them under container_config.env"
            )
        self.leftovers("container_config.security_context", security)
        self.leftovers("container_config", container)
        self.leftovers("pod_spec_config", pod_spec)
        self.leftovers("pod_template_spec_metadata", metadata)
        self.leftovers("", self.config)
        self.rows += [
            MappingRow(self.subject, f"{K8S_TAG}: {name}", f"{name} = {value}")
            for name, value in vars(pod).items()
            if value not in ((), None)
        ]
        return pod, service_account

    def resources(self, resources: dict[str, Any]) -> dict[str, str | None]:
        requests, limits = resources.pop("requests", {}), resources.pop("limits", {})
        found: dict[str, str | None] = {}
        for kind in ("cpu", "memory"):
            for name, amounts in (("request", requests), ("limit", limits)):
                amount = amounts.pop(kind, None)
                found[f"{kind}_{name}"] = None if amount is None else str(amount)
        accelerators = {key: str(limits.pop(key)) for key in list(limits) if "/" in key}
        for key in list(requests):
            if requests[key] is not None and str(requests[key]) == accelerators.get(key):
                requests.pop(key)
        if len(accelerators) > 1:
            self.unmapped(
                "container_config.resources.limits", f"KFP takes one accelerator: {sorted(accelerators)}"
            )
        for kind, count in accelerators.items():
            found |= {"accelerator_type": kind, "accelerator_count": count}
        self.leftovers("container_config.resources.requests", requests)
        self.leftovers("container_config.resources.limits", limits)
        self.leftovers("container_config.resources", resources)
        return found

    def environment(self, variables: list[dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, list[tuple]] = {"env": [], "secret_env": [], "config_map_env": [], "field_env": []}
        for variable in variables:
            name, source = variable["name"], variable.get("value_from") or {}
            if "secret_key_ref" in source:
                found["secret_env"].append((name, *_reference(source["secret_key_ref"])))
            elif "config_map_key_ref" in source:
                found["config_map_env"].append((name, *_reference(source["config_map_key_ref"])))
            elif "field_ref" in source:
                found["field_env"].append((name, source["field_ref"]["field_path"]))
            elif source:
                self.unmapped("container_config.env", f"{name}: {sorted(source)} has no counterpart in KFP")
            else:
                found["env"].append((name, str(variable.get("value", ""))))
        return {kind: tuple(sorted(values)) for kind, values in found.items()}

    def mounts(self, mounts: list[dict[str, Any]], volumes: list[dict[str, Any]]) -> dict[str, Any]:
        by_name = {volume["name"]: volume for volume in volumes}
        found: dict[str, list[tuple]] = {
            "pvc_mounts": [],
            "secret_mounts": [],
            "config_map_mounts": [],
            "empty_dirs": [],
        }
        for mount in mounts:
            volume, path, sub_path = (
                by_name.get(mount["name"], {}),
                mount["mount_path"],
                mount.get("sub_path", ""),
            )
            claim, secret = volume.get("persistent_volume_claim"), volume.get("secret")
            config_map, empty_dir = volume.get("config_map"), volume.get("empty_dir")
            readonly = bool(mount.get("read_only") or (claim or {}).get("read_only"))
            if claim is not None and not readonly:
                found["pvc_mounts"].append((claim["claim_name"], path, sub_path))
            elif claim is not None:
                self.unmapped("container_config.volume_mounts", f"{path}: KFP mounts claims read-write only")
            elif sub_path:
                self.unmapped("container_config.volume_mounts", f"{path}: sub_path is for claims only in KFP")
            elif secret is not None and not secret.get("items"):
                found["secret_mounts"].append((secret["secret_name"], path, bool(secret.get("optional"))))
            elif config_map is not None and not config_map.get("items"):
                found["config_map_mounts"].append(
                    (config_map["name"], path, bool(config_map.get("optional")))
                )
            elif empty_dir is not None:
                medium, size = empty_dir.get("medium", ""), str(empty_dir.get("size_limit", ""))
                found["empty_dirs"].append((mount["name"], path, medium, size))
            else:
                self.unmapped("container_config.volume_mounts", f"{path}: volume {volume or mount['name']!r}")
        for name in sorted(set(by_name) - {mount["name"] for mount in mounts}):
            self.unmapped("pod_spec_config.volumes", f"{name} is not mounted")
        self.report_volume_names(found)
        return {kind: tuple(sorted(values)) for kind, values in found.items()}

    def report_volume_names(self, found: Mapping[str, list[tuple]]) -> None:
        """Report unusable names: KFP names a volume after its claim, secret or config map, and merges equal names."""
        names = {kind: {mount[0] for mount in mounts} for kind, mounts in found.items()}
        names["KFP"] = set(_KFP_VOLUMES)
        for name in sorted(set().union(*names.values())):
            if sum(name in of_kind for of_kind in names.values()) > 1:
                reason = "KFP names a volume after its claim, secret or config map; another has this name"
            elif not is_volume(name):
                reason = "KFP names the volume after it, and a volume's name allows a-z, 0-9 and - only, at most 63"
            else:
                continue
            self.unmapped("container_config.volume_mounts", f"{name}: {reason}")

    def tolerations(
        self, tolerations: list[dict[str, Any]]
    ) -> tuple[tuple[str, str, str, str, int | None], ...]:
        return tuple(
            (
                item.get("key", ""),
                item.get("operator", "Equal"),
                item.get("value", ""),
                item.get("effect", ""),
                item.get("toleration_seconds"),
            )
            for item in sorted(tolerations, key=lambda item: json.dumps(item, sort_keys=True))
        )

    def unmapped(self, field: str, reason: str) -> None:
        self.rows.append(MappingRow(self.subject, f"{K8S_TAG}: {field}", reason, "unmapped"))

    def leftovers(self, field: str, rest: Mapping[str, Any]) -> None:
        for name in sorted(key for key, value in rest.items() if value not in ({}, [], None)):
            self.unmapped(f"{field}.{name}".strip("."), "has no counterpart in KFP")


def _merge(base: Any, over: Any) -> Any:
    """Merge mappings by key and lists of variables, volumes or mounts by name; replace anything else."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {
            key: _merge(base[key], over[key]) if key in base and key in over else {**base, **over}[key]
            for key in base | over
        }
    if isinstance(base, list) and isinstance(over, list):
        names = {_name_of(item) for item in over}
        return [item for item in base if _name_of(item) not in names] + over
    return over


def _name_of(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    # Two mounts of one volume differ by path; two variables or volumes by name.
    return str(item.get("mount_path") or item.get("name") or json.dumps(item, sort_keys=True))


def _reference(reference: Mapping[str, Any]) -> tuple[str, str, bool]:
    return reference["name"], reference["key"], bool(reference.get("optional"))


def _pairs(mapping: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, str(value)) for key, value in mapping.items()))


def _snake_case(value: Any) -> Any:
    """Convert Kubernetes field names to snake case (dagster-k8s accepts both forms); keys that users choose stay."""
    if isinstance(value, Mapping):
        named = {re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower(): item for key, item in value.items()}
        return {
            name: dict(item) if name in _USER_KEYED and isinstance(item, Mapping) else _snake_case(item)
            for name, item in named.items()
        }
    if isinstance(value, list | tuple):
        return [_snake_case(item) for item in value]
    return value
