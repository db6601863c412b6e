"""Builds a project's training graph: seven assets, their checks and the jobs."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from jukebox_orch.assets import (
    dataset,
    evaluation,
    features,
    onnx_model,
    registered_model,
    trained_model,
    validated_data,
)
from jukebox_orch.assets.jobs import graph_jobs
from jukebox_orch.assets.training_graph import AssetNode, TrainingGraph, instance_name
from jukebox_orch.contract import ModelProject

__all__ = ["NODES", "AssetNode", "TrainingGraph", "broken_project", "build_training_graph", "instance_name"]

_ASSETS = (
    (dataset.NODE, dataset.dataset_asset),
    (validated_data.NODE, validated_data.validated_data_asset),
    (features.NODE, features.features_asset),
    (trained_model.NODE, trained_model.trained_model_asset),
    (evaluation.NODE, evaluation.evaluation_asset),
    (onnx_model.NODE, onnx_model.onnx_model_asset),
    (registered_model.NODE, registered_model.registered_model_asset),
)
NODES = tuple(node for node, _ in _ASSETS)
"""The assets of every training graph, in graph order."""


def build_training_graph(
    project: ModelProject,
    *,
    name: str = "",
    key_prefix: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """Return the assets, checks and jobs of one project. The caller binds the resources.

    Args:
        name: asset prefix, group, job prefix and default model name; default: `key_prefix` and the project's
            name, joined by underscores.
        key_prefix: put before `name` in every asset key.
        defaults: run settings that override the project's, for example `{"hyperparameters": {"epochs": 5}}`.

    Raises:
        InputError: a default is unknown or out of bounds.
    """
    graph = TrainingGraph(project, name, key_prefix, defaults or {})
    assets = [define(graph) for _, define in _ASSETS]
    return dg.Definitions.merge(dg.Definitions(assets=assets), graph_jobs(graph, NODES))


def broken_project(name: str, problem: str) -> dg.Definitions:
    """Return a placeholder asset for a plugin that failed to load; its description is the error."""
    dg.get_dagster_logger().warning(f"left out: {problem}")
    return dg.Definitions(
        assets=[
            dg.AssetSpec(
                ["broken_projects", name],
                group_name="broken_projects",
                description=f"**This model project is left out.** {problem}",
                kinds={"python"},
            )
        ]
    )
