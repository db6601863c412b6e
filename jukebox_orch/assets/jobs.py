"""Defines a project's jobs: training, data only, evaluate and register, rollback."""

import getpass
import os
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from jukebox_orch.assets.run_config import MODEL_NAME, config_schema, job_config, parse
from jukebox_orch.assets.training_graph import RETRY_POLICY, AssetNode, TrainingGraph
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.storage.model_store import ModelStore

# Job -> its first and last asset, in the order of the graph, and its description.
_JOBS = {
    "training": ("dataset", "registered_model", "From the source to the registered model."),
    "data": ("dataset", "features", "Read, validate and preprocess the data; trains nothing."),
    "evaluate_and_register": (
        "evaluation",
        "registered_model",
        "Evaluate, convert and register the model that was trained last.",
    ),
}


class RollbackConfig(dg.Config):
    """Which version becomes champion again, and why."""

    model_name: str = Field(pattern=MODEL_NAME, description="Name in the model registry")
    version: str = Field(default="", description="Version number; empty: the champion before the current one")
    reason: str = Field(
        pattern=r"\S.*\S.*\S", description="Kept in the registry: why the champion is moved back"
    )
    requested_by: str = Field(
        default="", description="Kept in the registry: who asked; empty: the user of the process"
    )


def graph_jobs(graph: TrainingGraph, nodes: Sequence[AssetNode]) -> dg.Definitions:
    """All jobs of the graph, whose assets are `nodes` in the order of the graph."""
    names = [node.name for node in nodes]
    jobs = [
        _asset_job(graph, f"{graph.name}_{suffix}", nodes[names.index(first) : names.index(last) + 1], text)
        for suffix, (first, last, text) in _JOBS.items()
    ]
    return dg.Definitions(jobs=[*jobs, _rollback_job(graph)])


def _asset_job(graph: TrainingGraph, name: str, nodes: Sequence[AssetNode], description: str):
    """Asset jobs select their checks too: a check that is left out blocks nothing."""
    keys = [graph.key(node.name) for node in nodes]
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*keys) | dg.AssetSelection.checks_for_assets(*keys),
        config=job_config(
            graph.settings_type,
            graph.config_fields,
            {graph.op_name(node.name): node.settings for node in nodes},
            name,
        ),
        description=description,
        tags={"jukebox/project": graph.name},
    )


def _rollback_job(graph: TrainingGraph) -> dg.JobDefinition:
    """Needs no asset: it moves the alias of a registered model."""
    name = f"{graph.name}_rollback"

    @dg.op(name=f"{graph.name}_move_champion", retry_policy=RETRY_POLICY, pool=graph.registration_pool)
    def move_champion(
        context: dg.OpExecutionContext,
        config: RollbackConfig,
        mlflow: MlflowResource,
        model_store: ModelStore,
    ) -> None:
        from jukebox_orch.registry.promotion import rollback
        from jukebox_orch.registry.versions import RegistrationError

        by = f"{config.requested_by or _user()}, dagster run {context.run_id}"
        try:
            with mlflow.lock(config.model_name):
                before, now = rollback(
                    mlflow, model_store, config.model_name, config.version, by=by, why=config.reason
                )
        except RegistrationError as error:  # a retry does not repair a version
            raise dg.Failure(description=str(error), allow_retries=False) from error
        context.log.info(f"champion of {config.model_name}: version {before} -> {now} ({config.reason})")
        context.log_event(
            dg.AssetObservation(
                graph.key("registered_model"),
                metadata={"champion before": str(before), "champion": now, "reason": config.reason, "by": by},
            )
        )

    schema = config_schema(RollbackConfig)
    default = graph.settings_type.model_fields["model_name"].default
    schema["model_name"] = dg.Field(str, default, description=schema["model_name"].description)

    @dg.config_mapping(config_schema=schema)
    def flat_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
        parsed = parse(RollbackConfig, config, f"run config of {name}").model_dump()
        return {"ops": {move_champion.name: {"config": parsed}}}

    @dg.job(
        name=name,
        description="Move the champion back to the previous or a named version, after verifying it.",
        config=flat_config,
        tags={"jukebox/project": graph.name},
    )
    def rollback_job() -> None:
        move_champion()

    return rollback_job


def _user() -> str:
    """Who runs the process; in a container its user may have a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError until Python 3.13
        return f"uid {os.getuid()}"
