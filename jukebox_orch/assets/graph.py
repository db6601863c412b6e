"""What the assets of one project have in common: keys, versions, resources, retries, settings."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import dagster as dg
from pydantic import BaseModel

import jukebox_orch
from jukebox_orch.assets.config import ASSET_SETTINGS, config_schema, parse, run_settings
from jukebox_orch.project import InputError, ModelProject
from jukebox_orch.resources.artifacts import data_version, fingerprint

P = ParamSpec("P")
R = TypeVar("R")

# What a step asks Kubernetes for; a training step is given more by `dagster-k8s/config` of the deployment.
_REQUESTS = {
    "dataset": ("500m", "1Gi"),
    "validated_data": ("500m", "1Gi"),
    "features": ("500m", "1Gi"),
    "trained_model": ("1", "2Gi"),
    "evaluation": ("500m", "1Gi"),
    "onnx_model": ("500m", "1Gi"),
    "registered_model": ("500m", "1Gi"),
}
_MEMORY_LIMIT = "4Gi"

# Infrastructure fails now and then; bad input does not get better and is raised as a Failure without retries.
RETRY_POLICY = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL)

# The sources that decide what an artifact holds; a change elsewhere (sensors, manifests) makes nothing stale.
_CORE = (
    "project.py",
    "tasks.py",
    "training.py",
    "export.py",
    "values.py",
    "drift.py",
    "resources/formats.py",
)


@dataclass(frozen=True)
class Graph:
    """One training graph: a project under a name, with its own defaults.

    Attributes:
        name: asset prefix, group, job prefix and default model name; the project's own unless the same
            project is placed twice.
        key_prefix: put before the name in every asset key.
        defaults: run settings that differ from the project's.
    """

    project: ModelProject
    name: str = ""
    key_prefix: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.project.name)

    @cached_property
    def settings_type(self) -> type[BaseModel]:
        """Everything a run can be told, as one pydantic model."""
        return run_settings(self.project, self.name, self.defaults)

    @cached_property
    def code_version(self) -> str:
        """Digest of the project's sources and of the product's that its artifacts depend on."""
        module = inspect.getmodule(type(self.project))
        if module is None or module.__file__ is None:
            raise InputError(f"{self.name}: the source file of {type(self.project).__name__} cannot be found")
        package = Path(jukebox_orch.__file__).parent
        core = [package / name for name in _CORE] + sorted((package / "assets").glob("*.py"))
        own = Path(module.__file__)
        sources = sorted(own.parent.rglob("*.py")) if module.__package__ else [own]
        state = hashlib.sha256()
        for path in [*core, *sources]:
            state.update(path.read_bytes())
        return state.hexdigest()[:16]

    def key(self, noun: str) -> dg.AssetKey:
        """Asset key of one of the graph's assets."""
        return dg.AssetKey([*self.key_prefix, self.name, noun])

    def op_name(self, noun: str) -> str:
        """Name of the step that computes the asset."""
        return "__".join(self.key(noun).path)

    def inputs(self, *nouns: str) -> dict[str, dg.AssetIn]:
        """Upstream assets, as arguments of the same names."""
        return {noun: dg.AssetIn(key=self.key(noun)) for noun in nouns}

    def asset_arguments(self, noun: str, kinds: set[str], artifact_type: str) -> dict[str, Any]:
        """The arguments of `@dg.asset` that every asset of the graph shares."""
        cpu, memory = _REQUESTS[noun]
        resources = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": _MEMORY_LIMIT}}
        return {
            "key": self.key(noun),
            "group_name": self.name,
            "kinds": kinds,
            "owners": list(self.project.owners),
            "code_version": self.code_version,
            "retry_policy": RETRY_POLICY,
            "io_manager_key": "artifacts",
            "config_schema": config_schema(self.settings_type, ASSET_SETTINGS[noun]),
            "op_tags": {
                "dagster-k8s/config": {
                    "container_config": {"resources": resources},
                    "pod_template_spec_metadata": {
                        "labels": {"jukebox/project": self.name, "jukebox/asset": noun}
                    },
                }
            },
            "metadata": {"kfp/artifact_type": artifact_type},
            "tags": {"jukebox/project": self.name},
        }

    def check(self, noun: str, name: str, description: str, blocking: bool) -> dg.AssetCheckSpec:
        """Declare a check of one of the assets."""
        return dg.AssetCheckSpec(name, asset=self.key(noun), description=description, blocking=blocking)

    def settings(self, noun: str, context: dg.AssetExecutionContext) -> Any:
        """The step's settings, validated; settings that do not concern it have their defaults."""
        return parse(self.settings_type, context.op_execution_context.op_config or {}, f"config of {noun}")

    def data_version(self, context: dg.AssetExecutionContext, noun: str) -> str:
        """Data version of the upstream asset that this step was given."""
        return data_version(context.instance, self.key(noun), context.run.run_id)

    def fingerprint(
        self, context: dg.AssetExecutionContext, noun: str, upstream: Sequence[str], **settings: Any
    ) -> str:
        """Digest of what the asset's value depends on: code, settings and data of its inputs."""
        plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in settings.items()}
        return fingerprint(
            asset=noun,
            code=self.code_version,
            libraries=_library_versions(),
            inputs={name: self.data_version(context, name) for name in upstream},
            settings=plain,
        )


def for_people(step: Callable[P, R]) -> Callable[P, R]:
    """Let bad input end the step at once, with its message and without retries."""

    @wraps(step)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return step(*args, **kwargs)
        except InputError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    return wrapped


def _library_versions() -> dict[str, str]:
    """Versions of the libraries whose results are kept."""
    from importlib import metadata

    names = ("numpy", "pandas", "tensorflow", "keras", "tf2onnx", "onnx")
    return {name: metadata.version(name) for name in names}
