"""Converts Dagster names to names that KFP and Kubernetes accept.

Rules: https://github.com/kubeflow/pipelines/blob/master/sdk/python/kfp/dsl/utils.py (sanitize_component_name),
https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set.
"""

import re
from collections.abc import Iterable

MAX_NAME = 63
"""Longest task and pipeline name: both become Kubernetes label values."""

_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)
_TASK = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


def task_name(name: str) -> str:
    """Return the KFP task or pipeline name of a Dagster op or job: lower case, runs of other characters become `-`."""
    return re.sub(r"-+", "-", re.sub(r"[^a-z0-9]+", "-", name.lower())).strip("-")


def identifier(key: str) -> str:
    """Return the artifact name of an asset key in its `a/b` form: a lower-case Python identifier."""
    return re.sub(r"_+", "_", re.sub(r"[^a-z0-9]+", "_", key.lower())).strip("_")


def name_problem(name: str, kfp_name: str) -> str | None:
    """Return why `name` cannot be a task or pipeline name, or None."""
    if not name.isascii():
        return f"has non-ASCII characters: {name!r}"
    if not _TASK.fullmatch(kfp_name):
        return f"leaves no usable KFP name: {name!r}"
    if len(kfp_name) > MAX_NAME:
        return f"is {len(kfp_name)} characters long, KFP and Kubernetes labels allow {MAX_NAME}: {kfp_name!r}"
    return None


def collisions(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Return the KFP names that several Dagster names map to, as (KFP name, [Dagster names])."""
    by_name: dict[str, list[str]] = {}
    for original, converted in pairs:
        by_name.setdefault(converted, []).append(original)
    return [
        (converted, sorted(originals))
        for converted, originals in sorted(by_name.items())
        if len(originals) > 1
    ]


def is_volume(name: str) -> bool:
    """Return whether a volume of a pod may have this name."""
    return bool(_TASK.fullmatch(name)) and len(name) <= MAX_NAME


def is_label(key: str, value: str) -> bool:
    """Return whether the pair is a valid Kubernetes label."""
    return bool(_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value))
