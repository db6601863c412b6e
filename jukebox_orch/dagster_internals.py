"""Everything that this package uses of Dagster beyond its public API: one function each, with the reason.

`jukebox_orch_tests/test_dagster_internals.py` fails when Dagster changes one of them.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg


def check_evaluations(instance: dg.DagsterInstance, run_id: str) -> Iterator[dg.AssetCheckEvaluation]:
    """The check evaluations of a run, in order.

    `DagsterInstance.get_records_for_run` carries no @public mark; what is marked lists materializations and
    observations only.
    """
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    for record in instance.get_records_for_run(run_id, of_type=kind).records:
        event = record.event_log_entry.dagster_event
        if event is not None:
            yield event.asset_check_evaluation_data


def step_handler(executor: Any) -> Any:
    """The step handler of dagster-k8s' executor, whose health check decides whether a step's pod has failed.

    `_step_handler` is private. Dagster's health check says only that the job failed, and takes a pod whose image
    cannot be pulled for healthy until the run's time is over; there is no public hook to say more.
    """
    return executor._step_handler


def pod_label(step_key: str) -> str:
    """The value of the label `dagster/op` that dagster-k8s puts on the pods of a step.

    `dagster_k8s.utils` is not in the package's public names; the rule has no other source.
    """
    from dagster_k8s.utils import sanitize_k8s_label

    return sanitize_k8s_label(step_key)


def refused_by_instance(launcher: Any, run: dg.DagsterRun) -> Exception | None:
    """Why the instance does not allow what the run's tags ask of Kubernetes; None when it does.

    `K8sRunLauncher.get_container_context_for_run` carries no @public mark; it is where the launcher itself checks
    the tags, before it creates anything.
    """
    try:
        launcher.get_container_context_for_run(run)
    except Exception as error:  # noqa: BLE001 - the config type raises several of its own
        return error
    return None


def forbid_retries(launcher: Any, run: dg.DagsterRun) -> None:
    """Tag the run so that the daemon does not start it again.

    `add_run_tags` carries no @public mark, and a launcher has its instance as `_instance` only.
    """
    launcher._instance.add_run_tags(run.run_id, {"dagster/max_retries": "0"})
