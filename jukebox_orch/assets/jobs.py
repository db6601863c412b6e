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

# Job -> its first and last asset in graph order, and its description.
_JOBS = {
    "training": ("dataset", "registered_model", "From the source to the registered model."),
    "data": ("dataset", "features", "Read, validate and preprocess the data, without training."),
    "evaluate_and_register": (
        "evaluation",
        "registered_model",
        "Evaluate, convert and register the latest trained model.",
    ),
}


class RollbackConfig(dg.Config):
    """The version that becomes champion again, and the reason."""

    model_name: str = Field(pattern=MODEL_NAME, description="Name in the model registry")
    version: str = Field(default="", description="Version number; empty: the champion before the current one")
    reason: str = Field(pattern=r"\S.*\S.*\S", description="Reason for the rollback, stored in the registry")
    requested_by: str = Field(
        default="", description="Who requested it, stored in the registry; empty: the user of the process"
    )


def graph_jobs(graph: TrainingGraph, nodes: Sequence[AssetNode]) -> dg.Definitions:
    """Return all jobs of the graph. `nodes` are its assets in graph order."""
    names = [node.name for node in nodes]
    jobs = [
        _asset_job(graph, f"{graph.name}_{suffix}", nodes[names.index(first) : names.index(last) + 1], text)
        for suffix, (first, last, text) in _JOBS.items()
    ]
    return dg.Definitions(jobs=[*jobs, _rollback_job(graph)])


def _asset_job(graph: TrainingGraph, name: str, nodes: Sequence[AssetNode], description: str):
    """Return a job of the assets and their checks. Checks that are not selected would not block."""
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
    """Return the job that moves the champion alias. It needs no assets."""
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
        except RegistrationError as error:  # a retry would fail the same way
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
        description="Verify the previous or a given version and make it champion again.",
        config=flat_config,
        tags={"jukebox/project": graph.name},
    )
    def rollback_job() -> None:
        move_champion()

    return rollback_job


def _user() -> str:
    """Return the user of the process; in a container it may have only a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError until Python 3.13
        return f"uid {os.getuid()}"
