"""The jobs of a graph: the whole way, parts of it, and the way back."""

import getpass
import os
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from jukebox_orch.assets.run_config import MODEL_NAME, config_schema, job_config, parse
from jukebox_orch.assets.training_graph import RETRY_POLICY, Graph
from jukebox_orch.registry.mlflow_resource import MlflowTracking
from jukebox_orch.storage.model_store import ModelStore

NOUNS = (
    "dataset",
    "validated_data",
    "features",
    "trained_model",
    "evaluation",
    "onnx_model",
    "registered_model",
)
_JOBS = {
    "training": (NOUNS, "From the source to the registered model."),
    "data": (NOUNS[:3], "Read, validate and preprocess the data; trains nothing."),
    "evaluate_and_register": (
        ("evaluation", "onnx_model", "registered_model"),
        "Judge, convert and register the model that was trained last.",
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


def graph_jobs(graph: Graph) -> dg.Definitions:
    """All jobs of the graph. Asset jobs select their checks too: a check left out blocks nothing."""
    asset_jobs = [_asset_job(graph, suffix, nouns, text) for suffix, (nouns, text) in _JOBS.items()]
    return dg.Definitions(jobs=[*asset_jobs, _rollback_job(graph)])


def _asset_job(graph: Graph, suffix: str, nouns: Sequence[str], text: str):
    name = f"{graph.name}_{suffix}"
    selection = dg.AssetSelection.assets(*(graph.key(noun) for noun in nouns))
    return dg.define_asset_job(
        name,
        selection=selection | dg.AssetSelection.checks_for_assets(*(graph.key(noun) for noun in nouns)),
        config=job_config(
            graph.settings_type, graph.form, {noun: graph.op_name(noun) for noun in nouns}, name
        ),
        description=text,
        tags={"jukebox/project": graph.name},
    )


def _rollback_job(graph: Graph) -> dg.JobDefinition:
    """Needs no asset: it moves the alias of a registered model."""
    name = f"{graph.name}_rollback"

    @dg.op(name=f"{graph.name}_move_champion", retry_policy=RETRY_POLICY, pool=f"{graph.name}_registration")
    def move_champion(
        context: dg.OpExecutionContext,
        config: RollbackConfig,
        mlflow: MlflowTracking,
        model_store: ModelStore,
    ) -> None:
        from jukebox_orch.registry.registration import RegistrationError, rollback

        by = f"{config.requested_by or _user()}, dagster run {context.run_id}"
        try:
            with mlflow.lock(config.model_name):
                before, now = rollback(
                    mlflow, model_store, config.model_name, config.version, by=by, why=config.reason
                )
        except RegistrationError as error:  # trying again does not mend a version
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
    def one_form(config: Mapping[str, Any]) -> Mapping[str, Any]:
        parsed = parse(RollbackConfig, config, f"run config of {name}").model_dump()
        return {"ops": {move_champion.name: {"config": parsed}}}

    @dg.job(
        name=name,
        description="Move the champion back to the previous or a named version, after verifying it.",
        config=one_form,
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
