"""What the assets of one project have in common: keys, versions, resources, retries, settings."""

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel

import jukebox_orch
from jukebox_orch.assets.run_config import ASSET_SETTINGS, config_schema, parse, run_settings
from jukebox_orch.contract.project import InputError, ModelProject
from jukebox_orch.storage.artifact_store import fingerprint

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

# The artifact store knows the types; Dagster would refuse annotations such as a dict of tables or arrays.
_ARTIFACT = dg.DagsterType(
    lambda _context, _value: True, name="Artifact", description="A value of the artifact store"
)

# The sources that decide what an artifact holds; a change elsewhere (sensors, manifests) makes nothing stale.
_CORE = (
    "contract/project.py",
    "contract/tasks.py",
    "ml/training.py",
    "ml/evaluation.py",
    "ml/onnx_export.py",
    "ml/artifacts.py",
    "ml/drift.py",
    "contract/memmap.py",
    "contract/files.py",
    "contract/splitting.py",
    "ml/formats.py",
)


@dataclass(frozen=True)
class Check:
    """A check of an asset: blocking checks stop everything downstream when they fail."""

    name: str
    description: str
    blocking: bool = True


@dataclass(frozen=True)
class Graph:
    """One training graph: a project under a name, with its own defaults.

    Attributes:
        name: last part of the asset prefix, group, job prefix, pool prefix and default model name, so that
            nothing is shared with another graph; default: `key_prefix` and the project's name.
        key_prefix: put before the name in every asset key.
        defaults: run settings that differ from the project's.
    """

    project: ModelProject
    name: str = ""
    key_prefix: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or instance_name(self.project.name, self.key_prefix))

    @cached_property
    def settings_type(self) -> type[BaseModel]:
        """Everything a run can be told, as one pydantic model."""
        return run_settings(self.project, self.name, self.defaults)

    @cached_property
    def form(self) -> Mapping[str, dg.Field]:
        """The same as Dagster's configuration, made once for all assets and jobs."""
        return config_schema(self.settings_type)

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
        return self.key(noun).to_python_identifier()

    def asset(
        self,
        noun: str,
        *,
        description: str,
        kinds: set[str],
        artifact_type: str,
        checks: Sequence[Check],
        upstream: Sequence[str] = (),
        pool: str | None = None,
        cacheable: bool = True,
    ) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
        """Decorate the function that computes one of the graph's assets.

        Args:
            artifact_type: what the value is on Kubeflow Pipelines: Dataset, Model or Artifact.
            upstream: nouns of the assets it takes, as arguments of the same names.
            cacheable: False where the result depends on more than the inputs, such as the current champion.
        """

        def decorate(compute: Callable[..., Any]) -> dg.AssetsDefinition:
            return dg.asset(
                key=self.key(noun),
                group_name=self.name,
                description=description,
                kinds=kinds,
                owners=list(self.project.owners),
                code_version=self.code_version,
                retry_policy=RETRY_POLICY,
                io_manager_key="artifact_store",
                config_schema={name: self.form[name] for name in ASSET_SETTINGS[noun]},
                op_tags=_pod(self.name, noun),
                metadata={
                    "kfp/artifact_type": artifact_type,
                    "kfp/cache": cacheable and bool(upstream),  # without upstream it reads a source
                    "kfp/config": list(ASSET_SETTINGS[noun]),
                },
                tags={"jukebox/project": self.name},
                ins={name: dg.AssetIn(key=self.key(name), dagster_type=_ARTIFACT) for name in upstream},
                check_specs=[
                    dg.AssetCheckSpec(
                        c.name, asset=self.key(noun), description=c.description, blocking=c.blocking
                    )
                    for c in checks
                ],
                pool=pool,
            )(_for_people(compute))

        return decorate

    def settings(self, noun: str, context: dg.AssetExecutionContext) -> Any:
        """The step's settings, validated; settings that do not concern it have their defaults."""
        return parse(self.settings_type, context.op_execution_context.op_config or {}, f"config of {noun}")

    def fingerprint(self, noun: str, inputs: Mapping[str, str], **settings: Any) -> str:
        """Digest of what the asset's value depends on: code, settings and its inputs.

        Args:
            inputs: digests of the values that the step was given. The event log may already hold newer ones.
        """
        plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in settings.items()}
        return fingerprint(
            asset=noun,
            code=self.code_version,
            libraries=_library_versions(),
            inputs=inputs,
            settings=plain,
        )


def instance_name(project: str, key_prefix: Sequence[str]) -> str:
    """Name of a graph that was given none: two instances of a project under different prefixes share nothing."""
    return re.sub(r"\W", "_", "_".join([*key_prefix, project]))


def _for_people(step: Callable[..., Any]) -> Callable[..., Any]:
    """Let bad input end the step at once, with its message and without retries."""

    @wraps(step)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except InputError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    return wrapped


def _pod(name: str, noun: str) -> dict[str, Any]:
    """What the step asks Kubernetes for, read by the Kubernetes executor and by the bridge."""
    cpu, memory = _REQUESTS[noun]
    resources = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": _MEMORY_LIMIT}}
    labels = {"jukebox/project": name, "jukebox/asset": noun}
    return {
        "dagster-k8s/config": {
            "container_config": {"resources": resources},
            "pod_template_spec_metadata": {"labels": labels},
        }
    }


def _library_versions() -> dict[str, str]:
    """Versions of the libraries whose results are kept."""
    from importlib import metadata

    names = ("numpy", "pandas", "tensorflow", "keras", "tf2onnx", "onnx")
    return {name: metadata.version(name) for name in names}
