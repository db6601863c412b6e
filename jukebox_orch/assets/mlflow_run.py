"""The MLflow run of a Dagster run: how steps find it, and when it counts as finished or failed.

It is RUNNING from the first step that logs to it until `registered_model` verified the version and set its aliases.
A step that fails, or whose blocking check fails, marks it FAILED. A killed process cannot: once Dagster knows that the
run ended, the next training of the project and the sensor `mlflow_run_status` end it.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import PurePosixPath
from typing import Any

import dagster as dg

from jukebox_orch.assets.check_builder import failed_blocking
from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.ml.artifacts import DataOrigin
from jukebox_orch.registry.mlflow_resource import MlflowResource

LAST_ASSET = "registered_model"


def mlflow_run(
    context: dg.AssetExecutionContext,
    mlflow: MlflowResource,
    graph_name: str,
    data: tuple[DataOrigin, str],
    code: DeployedCode,
) -> str:
    """Return the id of the MLflow run of this Dagster run; create it if it does not exist.

    Args:
        data: origin and digest of the dataset.
    """
    origin, digest = data
    tags = {
        "project": graph_name,
        "git_commit": code.commit or "unknown",
        "dataset_name": origin.name,
        "dataset_digest": digest,
    }
    return mlflow.run_id(context.run, graph_name, tags, f"{graph_name} on {short_name(origin)}")


def short_name(origin: DataOrigin) -> str:
    """Return the last part of the dataset's name, for titles."""
    return PurePosixPath(origin.name).name or origin.name


def records_status(last_op: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a step that takes `mlflow`: it marks the Dagster run's MLflow run as running, failed or finished.

    Args:
        last_op: name of the step after which the MLflow run is finished.
    """

    def decorate(compute: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(compute)
        def step(context: dg.AssetExecutionContext, **arguments: Any) -> Any:
            mlflow: MlflowResource = arguments["mlflow"]
            if context.retry_number:
                mlflow.set_status(context.run.run_id, "RUNNING")
            try:
                result = compute(context, **arguments)
            except BaseException as error:
                _set_failed(context, mlflow, error)
                raise
            if failed_blocking(result.check_results):
                mlflow.set_status(context.run.run_id, "FAILED")
            elif _ends_here(context, last_op):
                mlflow.set_status(context.run.run_id, "FINISHED")
            return result

        return step

    return decorate


def _set_failed(context: dg.AssetExecutionContext, mlflow: MlflowResource, error: BaseException) -> None:
    """Mark the MLflow run. A registry that cannot be reached must not hide why the step failed."""
    from mlflow.exceptions import MlflowException

    try:
        mlflow.set_status(context.run.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
    except (MlflowException, OSError) as problem:
        context.log.warning(f"the MLflow run could not be marked as failed: {problem}")


def _ends_here(context: dg.AssetExecutionContext, last_op: str) -> bool:
    """Return whether no later step of this run sets the status: after the last one, or in a run without it."""
    if context.op_execution_context.op.name == last_op:
        return True
    # Each step of an exported pipeline is a separate run, in an ephemeral instance; the last one comes later.
    return not context.instance.is_ephemeral and last_op not in {node.name for node in context.job_def.nodes}
