"""All uses of Dagster beyond its public API: one function each, with the reason.

`jukebox_orch_tests/test_dagster_internals.py` fails when Dagster changes one of them.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg


def check_evaluations(instance: dg.DagsterInstance, run_id: str) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the check evaluations of a run, in order.

    `DagsterInstance.get_records_for_run` is not marked @public; the marked methods list only materializations and
    observations.
    """
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    for record in instance.get_records_for_run(run_id, of_type=kind).records:
        event = record.event_log_entry.dagster_event
        if event is not None:
            yield event.asset_check_evaluation_data


def step_handler(executor: Any) -> Any:
    """Return the step handler of dagster-k8s' executor, whose health check decides whether a step's pod has failed.

    `_step_handler` is private. Dagster's health check reports only that the job failed, and treats a pod whose image
    cannot be pulled as healthy until the run times out. It cannot be extended through a public hook.
    """
    return executor._step_handler


def pod_label(step_key: str) -> str:
    """Return the value of the label `dagster/op` that dagster-k8s sets on the pods of a step.

    `dagster_k8s.utils` is not public, and the rule is not available elsewhere.
    """
    from dagster_k8s.utils import sanitize_k8s_label

    return sanitize_k8s_label(step_key)


def refused_by_instance(launcher: Any, run: dg.DagsterRun) -> Exception | None:
    """Return the error if the instance forbids what the run's tags request from Kubernetes, else None.

    `K8sRunLauncher.get_container_context_for_run` is not marked @public. The launcher checks the tags in it, before
    it creates anything.
    """
    try:
        launcher.get_container_context_for_run(run)
    except Exception as error:  # noqa: BLE001 - the config type raises several kinds of errors
        return error
    return None


def forbid_retries(launcher: Any, run: dg.DagsterRun) -> None:
    """Tag the run so that the daemon does not retry it.

    `add_run_tags` is not marked @public, and a launcher has its instance only as `_instance`.
    """
    launcher._instance.add_run_tags(run.run_id, {"dagster/max_retries": "0"})
