"""Reads pod settings back from an exported YAML, in the form of `pipeline_graph.Pod`."""

from collections.abc import Mapping
from typing import Any


def read_back(container: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
    """Return the value of every field of `Pod` from a container spec and a Kubernetes executor config.

    Known fields are removed from both; whatever is left is unknown to the bridge.
    """
    security = pod.pop("securityContext", {})
    metadata = pod.pop("podMetadata", {})
    found = {
        **_resources(container.pop("resources", {})),
        "env": sorted([item["name"], item.get("value", "")] for item in container.pop("env", [])),
        "secret_env": _env_references(pod.pop("secretAsEnv", []), "secretName", "secretKey"),
        "config_map_env": _env_references(pod.pop("configMapAsEnv", []), "configMapName", "configMapKey"),
        "field_env": sorted([item["name"], item["fieldPath"]] for item in pod.pop("fieldPathAsEnv", [])),
        "pvc_mounts": sorted(
            [_named(item, "pvcNameParameter", "constant"), item["mountPath"], item.get("subPath", "")]
            for item in pod.pop("pvcMount", [])
        ),
        "secret_mounts": _volumes(pod.pop("secretAsVolume", []), "secretName"),
        "config_map_mounts": _volumes(pod.pop("configMapAsVolume", []), "configMapName"),
        "empty_dirs": sorted(
            [item["volumeName"], item["mountPath"], item.get("medium", ""), item.get("sizeLimit", "")]
            for item in pod.pop("emptyDirMounts", [])
        ),
        "node_selector": _pairs(pod.get("nodeSelector", {}).pop("labels", {})),
        "tolerations": [
            [
                item.get("key", ""),
                item.get("operator", "Equal"),
                item.get("value", ""),
                item.get("effect", ""),
                None if item.get("tolerationSeconds") is None else int(item["tolerationSeconds"]),
            ]
            for item in pod.pop("tolerations", [])
        ],
        "labels": _pairs(metadata.pop("labels", {})),
        "annotations": _pairs(metadata.pop("annotations", {})),
        "image_pull_policy": pod.pop("imagePullPolicy", None),
        "image_pull_secrets": sorted(
            _named(item, "secretNameParameter", "secretName") for item in pod.pop("imagePullSecret", [])
        ),
        "run_as_user": _integer(security.pop("runAsUser", None)),
        "run_as_group": _integer(security.pop("runAsGroup", None)),
        "run_as_non_root": security.pop("runAsNonRoot", None),
        "timeout_seconds": _integer(pod.pop("activeDeadlineSeconds", None)),
    }
    pod |= {name: rest for name, rest in (("securityContext", security), ("podMetadata", metadata)) if rest}
    return found


def _resources(resources: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for kind in ("Cpu", "Memory"):
        for bound in ("Request", "Limit"):
            # The number beside the text is KFP's deprecated form of the same amount.
            number, text = resources.get(f"{kind.lower()}{bound}"), resources.get(f"resource{kind}{bound}")
            agree = (number is None) == (text is None) and (text is None or _same_amount(text, number, kind))
            found[f"{kind.lower()}_{bound.lower()}"] = text if agree else [text, number]
    accelerator = resources.get("accelerator", {})
    for name, old, new in (("type", "type", "resourceType"), ("count", "count", "resourceCount")):
        values = {str(accelerator[key]) for key in (old, new) if key in accelerator}
        found[f"accelerator_{name}"] = (
            None if not values else values.pop() if len(values) == 1 else sorted(values)
        )
    return found


def _same_amount(text: str, number: Any, kind: str) -> bool:
    from kubernetes.utils import parse_quantity

    scale = 1 if kind == "Cpu" else 10**9
    return abs(float(parse_quantity(text)) - float(number) * scale) <= 1e-9 * scale


def _env_references(items: list[dict[str, Any]], name: str, key: str) -> list[list[Any]]:
    return sorted(
        [pair["envVar"], _named(item, f"{name}Parameter", name), pair[key], item.get("optional", False)]
        for item in items
        for pair in item["keyToEnv"]
    )


def _volumes(items: list[dict[str, Any]], name: str) -> list[list[Any]]:
    return sorted(
        [_named(item, f"{name}Parameter", name), item["mountPath"], item.get("optional", False)]
        for item in items
    )


def _named(item: Mapping[str, Any], parameter: str, old: str) -> Any:
    """Return the name, which KFP writes twice; both forms if they differ."""
    names = {
        value
        for value in (item.get(parameter, {}).get("runtimeValue", {}).get("constant"), item.get(old))
        if value
    }
    return names.pop() if len(names) == 1 else str(sorted(names))


def _pairs(mapping: Mapping[str, Any]) -> list[list[str]]:
    return sorted([key, str(value)] for key, value in mapping.items())


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)
