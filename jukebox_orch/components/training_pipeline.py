"""Component that adds a training graph through a `defs.yaml`."""

import functools
from typing import Annotated, Literal

import dagster as dg
from pydantic import Field

from jukebox_orch import deployment
from jukebox_orch.assets import build_training_graph, instance_name
from jukebox_orch.contract import InputError
from jukebox_orch.plugins import discover
from jukebox_orch.project_settings import ProjectSettings

# Cached: two instances in one project must return identical objects, because Dagster reports equal ones as a conflict.
_deployment_resources = functools.cache(deployment.resources)


class TrainingPipeline(dg.Component, ProjectSettings):
    """The training graph of an installed model project: from raw data to a registered ONNX model.

    Seven assets with their checks, five jobs, three sensors and a schedule. To use it more than once, with different
    settings, give each instance its own key prefix or name. What an instance does not set is that of the deployment's
    projects file.
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
        project = found.projects[self.project]
        settings = self.or_else(deployment.project_settings().get(name, ProjectSettings()))
        graph = build_training_graph(
            project, name=name, key_prefix=tuple(self.key_prefix), defaults=settings.defaults()
        )
        resources = _deployment_resources() if self.resources == "deployment" else {}
        return dg.Definitions.merge(
            graph, deployment.automation(name, project, settings), dg.Definitions(resources=resources)
        )
