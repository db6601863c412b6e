"""Defines a project's jobs: training, data only, evaluate and register, promote, rollback."""

import getpass
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import dagster as dg
from pydantic import AfterValidator, Field

from jukebox_orch.assets.mlflow_run import LAST_ASSET
from jukebox_orch.assets.registered_model import champion_observation
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


# Characters of a reason or a name, so that the history of several changes fits into one tag of MLflow.
_MIN_REASON, _MAX_REASON = 3, 300


def _reason(text: str) -> str:
    """Reject a reason that says nothing."""
    if len("".join(text.split())) < _MIN_REASON:
        raise ValueError(f"say why in at least {_MIN_REASON} characters")
    return text


class RollbackConfig(dg.Config):
    """Why the champion before the current one becomes champion again."""

    model_name: str = Field(pattern=MODEL_NAME, description="Name in the model registry")
    reason: Annotated[str, AfterValidator(_reason)] = Field(
        max_length=_MAX_REASON, description="Reason, stored in the registry"
    )
    requested_by: str = Field(
        default="",
        max_length=_MAX_REASON,
        description="Who requested it, stored in the registry; empty: the user of the process",
    )


class PromoteConfig(RollbackConfig):
    """Which version becomes champion, whatever it was trained and judged on, and why."""

    version: str = Field(pattern=r"^[1-9][0-9]{0,8}$", description="Number of the version")


def graph_jobs(graph: TrainingGraph, nodes: Sequence[AssetNode]) -> dg.Definitions:
    """Return all jobs of the graph. `nodes` are its assets in graph order."""
    names = [node.name for node in nodes]
    jobs = [
        _asset_job(graph, f"{graph.name}_{suffix}", nodes[names.index(first) : names.index(last) + 1], text)
        for suffix, (first, last, text) in _JOBS.items()
    ]
    promote = _champion_job(graph, "promote", PromoteConfig, "Verify a version and make it champion.")
    text = "Verify the champion before the current one and make it champion again."
    return dg.Definitions(jobs=[*jobs, promote, _champion_job(graph, "rollback", RollbackConfig, text)])


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


def _champion_job(
    graph: TrainingGraph, suffix: str, config_type: type[RollbackConfig], description: str
) -> dg.JobDefinition:
    """Return a job that moves the champion alias. It needs no assets."""
    name = f"{graph.name}_{suffix}"

    @dg.op(
        name=f"{graph.name}_{suffix}_champion",
        config_schema=config_schema(config_type),
        retry_policy=RETRY_POLICY,
        pool=graph.registration_pool,
    )
    def move_champion(
        context: dg.OpExecutionContext, mlflow: MlflowResource, model_store: ModelStore
    ) -> None:
        from jukebox_orch.registry.promotion import move_champion as move
        from jukebox_orch.registry.versions import RegistrationError

        config = parse(config_type, context.op_config, f"config of {name}")
        version = getattr(config, "version", "")
        by = f"{config.requested_by or _user()}, dagster run {context.run_id}"
        try:
            with mlflow.lock(config.model_name):
                change = move(mlflow, model_store, config.model_name, version, by=by, why=config.reason)
        except RegistrationError as error:  # a retry would fail the same way
            raise dg.Failure(description=str(error), allow_retries=False) from error
        observation = champion_observation(graph.key(LAST_ASSET), config.model_name, change)
        context.log.info(f"{observation.description} ({config.reason})")
        context.log_event(observation)

    schema = config_schema(config_type)
    description_of_name = schema["model_name"].description
    schema["model_name"] = dg.Field(str, graph.default_model_name, description=description_of_name)

    @dg.config_mapping(config_schema=schema)
    def flat_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
        parsed = parse(config_type, config, f"run config of {name}").model_dump()
        return {"ops": {move_champion.name: {"config": parsed}}}

    @dg.job(name=name, description=description, config=flat_config, tags={"jukebox/project": graph.name})
    def champion_job() -> None:
        move_champion()

    return champion_job


def _user() -> str:
    """Return the user of the process; in a container it may have only a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError until Python 3.13
        return f"uid {os.getuid()}"
