"""A project becomes a training graph: seven assets, their checks, and jobs."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from jukebox_orch.assets.dataset import dataset_asset
from jukebox_orch.assets.evaluation import evaluation_asset
from jukebox_orch.assets.features import features_asset
from jukebox_orch.assets.jobs import graph_jobs
from jukebox_orch.assets.onnx_model import onnx_model_asset
from jukebox_orch.assets.registered_model import registered_model_asset
from jukebox_orch.assets.trained_model import trained_model_asset
from jukebox_orch.assets.training_graph import Graph, instance_name
from jukebox_orch.assets.validated_data import validated_data_asset
from jukebox_orch.contract.project import ModelProject

__all__ = ["Graph", "broken_project", "build_training_graph", "instance_name"]


def build_training_graph(
    project: ModelProject,
    *,
    name: str = "",
    key_prefix: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """Assets, checks and jobs of one project; resources are bound by the caller.

    Args:
        name: asset prefix, group, job prefix and default model name; default: `key_prefix` and the project's
            name, joined by underscores.
        key_prefix: put before `name` in every asset key.
        defaults: run settings over the project's own, for example `{"hyperparameters": {"epochs": 5}}`.

    Raises:
        InputError: a default is unknown or out of bounds.
    """
    graph = Graph(project, name, key_prefix, defaults or {})
    assets = [
        build(graph)
        for build in (
            dataset_asset,
            validated_data_asset,
            features_asset,
            trained_model_asset,
            evaluation_asset,
            onnx_model_asset,
            registered_model_asset,
        )
    ]
    return dg.Definitions.merge(dg.Definitions(assets=assets), graph_jobs(graph))


def broken_project(name: str, problem: str) -> dg.Definitions:
    """A plugin that was left out, as an asset that nobody can overlook: the problem is its description."""
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
