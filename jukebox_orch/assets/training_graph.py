"""Creates the assets of one project from their declarations: keys, settings, versions, resources, retries."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, Literal

import dagster as dg
from pydantic import BaseModel

from jukebox_orch.assets.check_builder import Check
from jukebox_orch.assets.code_version import code_version, fingerprint
from jukebox_orch.assets.mlflow_run import LAST_ASSET, records_status
from jukebox_orch.assets.run_config import (
    config_schema,
    default_model_name,
    parse,
    registered_name,
    run_settings,
)
from jukebox_orch.contract import InputError, ModelProject

# For failures of the infrastructure. Bad input would fail again, so it is raised as a Failure without retries.
RETRY_POLICY = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL)

# The artifact store handles the types; Dagster rejects annotations such as a dict of tables or arrays.
_ARTIFACT = dg.DagsterType(
    lambda _context, _value: True, name="Artifact", description="A value of the artifact store"
)


@dataclass(frozen=True)
class StepResources:
    """What a step requests from Kubernetes, and its memory limit; a deployment may override it per step."""

    cpu: str = "500m"
    memory: str = "1Gi"
    memory_limit: str = "4Gi"


@dataclass(frozen=True)
class AssetNode:
    """Declaration of one asset of the training graph. Its checks are declared in the asset's module.

    Attributes:
        name: last part of the asset key.
        inputs: names of the assets it takes, as arguments of the same names.
        settings: fields of the run config that it takes; together with the inputs they determine its value.
        kinds: technologies, shown in the UI.
        artifact_type: type of the value on Kubeflow Pipelines.
        reuse: whether its value depends only on code, inputs and settings, so that Kubeflow Pipelines may cache it;
            an asset that is expensive to compute also asks the artifact store.
        serialized: whether only one run at a time may compute it, across all machines.
        tracked: whether its step takes `mlflow` and decides the status of the run in MLflow.
    """

    name: str
    description: str
    kinds: frozenset[str]
    artifact_type: Literal["Dataset", "Model", "Artifact"]
    settings: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    resources: StepResources = StepResources()
    reuse: bool = False
    serialized: bool = False
    tracked: bool = False


@dataclass(frozen=True)
class TrainingGraph:
    """One training graph: a project under a name, with its own defaults.

    Attributes:
        name: last part of the asset prefix, group, job prefix, pool prefix and default model name, so that
            graphs share nothing; default: `key_prefix` and the project's name.
        key_prefix: put before the name in every asset key.
        defaults: run settings that differ from the project's.
    """

    project: ModelProject
    name: str = ""
    key_prefix: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or instance_name(self.project.name, self.key_prefix))
        default_model_name(self.name, self.defaults)

    @cached_property
    def settings_type(self) -> type[BaseModel]:
        """All settings of a run, as one pydantic model."""
        return run_settings(self.project, self.name, self.defaults)

    @cached_property
    def config_fields(self) -> Mapping[str, dg.Field]:
        """`settings_type` as Dagster config fields, built once for all assets and jobs."""
        return config_schema(self.settings_type)

    @cached_property
    def code_version(self) -> str:
        """Digest of the sources that the values of the assets depend on."""
        return code_version(self.project)

    @property
    def default_model_name(self) -> str:
        """Registered name of models of real data, unless a run names another."""
        return default_model_name(self.name, self.defaults)

    def model_name(self, settings: Any, sample: bool) -> str:
        """Return the name under which a run with these settings registers its model.

        Raises:
            InputError: a run on the embedded sample names a real model, or the other way round.
        """
        return registered_name(self.default_model_name, settings.model_name, sample)

    def dataset_name(self, settings: Any) -> str:
        """Return the name that a run gives its data: its own, or that of the configured source; empty: neither.

        A run that reads another source than the configured one does not have the configured name.
        """
        configured = self.settings_type.model_fields["source"].default
        is_configured = (settings.source.location, settings.source.files) == (
            configured.location,
            configured.files,
        )
        return settings.dataset_name or (self.defaults.get("dataset_name", "") if is_configured else "")

    @property
    def registration_pool(self) -> str:
        """Dagster pool of the steps that change versions and aliases."""
        return f"{self.name}_registration"

    def key(self, asset_name: str) -> dg.AssetKey:
        """Return the asset key of one of the graph's assets."""
        return dg.AssetKey([*self.key_prefix, self.name, asset_name])

    def op_name(self, asset_name: str) -> str:
        """Return the name of the step that computes the asset."""
        return self.key(asset_name).to_python_identifier()

    def asset(
        self, node: AssetNode, checks: Sequence[Check]
    ) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
        """Decorate the function that computes the declared asset."""
        key = self.key(node.name)

        def decorate(compute: Callable[..., Any]) -> dg.AssetsDefinition:
            step = input_errors_as_failures(compute)
            if node.tracked:
                step = records_status(self.op_name(LAST_ASSET))(step)
            return dg.asset(
                key=key,
                group_name=self.name,
                description=node.description,
                kinds=set(node.kinds),
                owners=list(self.project.owners),
                code_version=self.code_version,
                retry_policy=RETRY_POLICY,
                io_manager_key="artifact_store",
                config_schema={name: self.config_fields[name] for name in node.settings},
                op_tags=self._pod_tags(node),
                metadata={
                    "kfp/artifact_type": node.artifact_type,
                    "kfp/cache": node.reuse,
                    "kfp/config": list(node.settings),
                },
                tags={"jukebox/project": self.name},
                ins={name: dg.AssetIn(key=self.key(name), dagster_type=_ARTIFACT) for name in node.inputs},
                check_specs=[
                    dg.AssetCheckSpec(
                        check.name, asset=key, description=check.description, blocking=check.blocking
                    )
                    for check in checks
                ],
                pool=self.registration_pool if node.serialized else None,
            )(step)

        return decorate

    def settings(self, node: AssetNode, context: dg.AssetExecutionContext) -> Any:
        """Return the step's validated settings. Settings that it does not take have their defaults."""
        config = context.op_execution_context.op_config or {}
        return parse(self.settings_type, config, f"config of {node.name}")

    def fingerprint(self, node: AssetNode, inputs: Mapping[str, str], settings: Any) -> str:
        """Return the digest of what the asset's value depends on: code, libraries, its settings and its inputs.

        Args:
            inputs: digests of the values that the step received. The event log may already contain newer ones.
            settings: the step's settings.
        """
        taken = {name: getattr(settings, name) for name in node.settings}
        plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in taken.items()}
        return fingerprint(
            self.project, code=self.code_version, asset=node.name, inputs=inputs, settings=plain
        )

    def _pod_tags(self, node: AssetNode) -> dict[str, Any]:
        """Return the tags with the step's Kubernetes requests, read by the Kubernetes executor and the bridge."""
        requested = node.resources
        resources = {
            "requests": {"cpu": requested.cpu, "memory": requested.memory},
            "limits": {"memory": requested.memory_limit},
        }
        labels = {"jukebox/project": self.name, "jukebox/asset": node.name}
        return {
            "dagster-k8s/config": {
                "container_config": {"resources": resources},
                "pod_template_spec_metadata": {"labels": labels},
            }
        }


def instance_name(project: str, key_prefix: Sequence[str]) -> str:
    """Return the default name of a graph. It differs between instances of a project with different prefixes."""
    return re.sub(r"\W", "_", "_".join([*key_prefix, project]))


def input_errors_as_failures(step: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an InputError of the step into a Dagster Failure that is not retried."""

    @wraps(step)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except InputError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    return wrapped
