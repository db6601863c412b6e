"""Component that adds a training graph through a `defs.yaml`."""

import functools
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import Field

from jukebox_orch import deployment
from jukebox_orch.assets import build_training_graph, instance_name
from jukebox_orch.contract import InputError
from jukebox_orch.plugins import discover
from jukebox_orch.sensors.settings import Triggers

# Cached: two instances in one project must return identical objects, because Dagster reports equal ones as a conflict.
_deployment_resources = functools.cache(deployment.resources)


class TrainingPipeline(dg.Component, dg.Model, dg.Resolvable):
    """The training graph of an installed model project: from raw data to a registered ONNX model.

    Seven assets with their checks, four jobs and three sensors. To use it more than once, with different settings,
    give each instance its own key prefix or name.
    """

    # Dagster shows the description of a field with a default only if a Resolver sets it.
    project: Annotated[
        str,
        dg.Resolver.default(
            description="Name of an installed model project, for example jukebox",
            examples=["jukebox", "image_processor"],
        ),
    ]
    key_prefix: Annotated[
        list[str], dg.Resolver.default(description="Put before the name in every asset key")
    ] = Field(default_factory=list)
    name: Annotated[
        str,
        dg.Resolver.default(
            description="Asset key part, group, prefix of jobs and sensors, and default model name; "
            "default: key prefix and project, joined by underscores"
        ),
    ] = ""
    source: Annotated[
        dict[str, Any],
        dg.Resolver.default(
            description="Where the data comes from, for example {location: s3://bucket/charts}"
        ),
    ] = Field(default_factory=dict)
    split: Annotated[
        dict[str, Any], dg.Resolver.default(description="How the data is divided into the splits")
    ] = Field(default_factory=dict)
    hyperparameters: Annotated[
        dict[str, Any], dg.Resolver.default(description="Defaults of the training, for example {epochs: 20}")
    ] = Field(default_factory=dict)
    gates: Annotated[
        dict[str, Any], dg.Resolver.default(description="Thresholds, for example {metric_floor: 0.9}")
    ] = Field(default_factory=dict)
    settings: Annotated[
        dict[str, Any],
        dg.Resolver.default(
            description="Other defaults of a run, for example {seed: 7, model_name: charts_emea, stage: canary}"
        ),
    ] = Field(default_factory=dict)
    triggers: Annotated[
        dict[str, Any],
        dg.Resolver.default(
            description="What starts a run: new_data, git_tags, model_alerts, as in the triggers file; "
            "default: that of the deployment"
        ),
    ] = Field(default_factory=dict)
    resources: Annotated[
        Literal["deployment", "own"],
        dg.Resolver.default(
            description="deployment: bind artifact_store, model_store, mlflow and code by the environment "
            "variables of jukebox_orch.deployment; own: this dg project defines them"
        ),
    ] = "deployment"

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the graph, its sensors and, unless the dg project defines them, its resources.

        Raises:
            InputError: the project is not installed or broken, or a setting is unknown or out of bounds.
        """
        found = discover()
        if self.project not in found.projects:
            problem = found.problems.get(self.project, f"installed: {', '.join(found.projects) or 'none'}")
            raise InputError(f"{context.path}: no model project {self.project!r}: {problem}")
        name = self.name or instance_name(self.project, self.key_prefix)
        groups = ("source", "split", "hyperparameters", "gates")
        defaults = {group: getattr(self, group) for group in groups if getattr(self, group)}
        graph = build_training_graph(
            found.projects[self.project],
            name=name,
            key_prefix=tuple(self.key_prefix),
            defaults=defaults | self.settings,
        )
        triggers = (
            Triggers.model_validate(self.triggers) if self.triggers else deployment.triggers().get(name)
        )
        sensors = deployment.sensors(name, triggers)
        resources = _deployment_resources() if self.resources == "deployment" else {}
        return dg.Definitions.merge(graph, dg.Definitions(sensors=sensors, resources=resources))
