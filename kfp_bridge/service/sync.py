"""Reports KFP runs to Dagster: each materialization and check evaluation of an exported step, once.

They are in the step's record, an artifact in KFP's object store at
`<pipeline root>/<pipeline>/<run id>/<task>/<uuid>/dagster_record`. A task that KFP took from its cache has no
new record, because it materialized nothing. KFP uploads nothing of a failed task, so the check evaluation of a
failed gate is only in that task's log; the run's state is FAILED.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg
import fsspec

from kfp_bridge.dagster_internals import check_history
from kfp_bridge.errors import BridgeError
from kfp_bridge.names import identifier
from kfp_bridge.pipeline_graph import RECORD
from kfp_bridge.records import TaskRecord, parse_record, relocated
from kfp_bridge.service.client import TERMINAL, KfpHost

RUN_ID, TASK = "kfp/run_id", "kfp/task"
DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
_PAGE = 200


@dataclass(frozen=True)
class Synced:
    """Result for one run: its state in KFP, and the numbers of new events."""

    run_id: str
    state: str
    materializations: int
    checks: int


def sync(
    host: KfpHost, pipeline: str, instance: dg.DagsterInstance, artifact_root: str = DEFAULT_ROOT
) -> list[Synced]:
    """Report all ended runs of the pipeline to the instance; an event is reported once, even if sync is repeated.

    Args:
        host: the KFP API.
        pipeline: name of the pipeline.
        instance: receives the materializations and check evaluations.
        artifact_root: pipeline root of runs that do not name one; `minio://` is read as `s3://`, with the
            endpoint and credentials that fsspec finds in the environment.

    Raises:
        BridgeError: the pipeline does not exist, or a record is invalid.
    """
    return [
        _sync_run(run, pipeline, instance, artifact_root)
        for run in host.runs_of(pipeline)
        if run.state in TERMINAL
    ]


def _sync_run(run: Any, pipeline: str, instance: dg.DagsterInstance, artifact_root: str) -> Synced:
    root = (run.runtime_config.pipeline_root if run.runtime_config else None) or artifact_root
    started = run.created_at.timestamp() if isinstance(run.created_at, datetime) else 0.0
    materializations = checks = 0
    for task, folder, record in _records(f"{root.rstrip('/')}/{pipeline}/{run.run_id}"):
        tags = {RUN_ID: run.run_id, TASK: task}
        for event in _materializations(record, folder, tags):
            if not _is_materialized(instance, event, started):
                instance.report_runless_asset_event(event)
                materializations += 1
        for check in _evaluations(record, tags):
            if not _is_evaluated(instance, check):
                instance.report_runless_asset_event(check)
                checks += 1
    return Synced(run.run_id, str(run.state), materializations, checks)


def _records(prefix: str) -> Iterable[tuple[str, str, TaskRecord]]:
    """Yield task, URL of its folder and record for each record under the run's prefix, sorted by path."""
    url = prefix.replace("minio://", "s3://", 1)
    try:
        filesystem, path = fsspec.url_to_fs(url)
        found = sorted(filesystem.glob(f"{path}/*/*/{RECORD}"))
    except (OSError, ImportError, ValueError) as error:
        raise BridgeError(
            f"artifact root {prefix}: cannot be listed: {type(error).__name__}: {error}"
        ) from error
    for name in found:
        folder = name.rpartition("/")[0]
        task = folder.split("/")[-2]
        location = f"{prefix}/{'/'.join(folder.split('/')[-2:])}"
        yield task, location, parse_record(filesystem.cat_file(name).decode(), name)


def _materializations(
    record: TaskRecord, folder: str, tags: dict[str, str]
) -> Iterable[dg.AssetMaterialization]:
    for asset in record.assets:
        # The path in the step's temporary instance no longer exists; a reader needs the one in KFP's store.
        event = relocated(asset.event, f"{folder}/{identifier(asset.asset)}") if asset.sha256 else asset.event
        yield dg.AssetMaterialization(
            asset_key=event.asset_key,
            description=event.description,
            metadata=event.metadata,
            partition=event.partition,
            tags={**(event.tags or {}), **tags},
        )


def _evaluations(record: TaskRecord, tags: dict[str, str]) -> Iterable[dg.AssetCheckEvaluation]:
    for check in record.checks:
        yield dg.AssetCheckEvaluation(
            asset_key=check.asset_key,
            check_name=check.check_name,
            passed=check.passed,
            metadata={
                **check.metadata,
                **{name: dg.MetadataValue.text(value) for name, value in tags.items()},
            },
            severity=check.severity,
            description=check.description,
            blocking=check.blocking,
            partition=check.partition,
        )


def _is_materialized(instance: dg.DagsterInstance, event: dg.AssetMaterialization, started: float) -> bool:
    cursor = None
    wanted = dg.AssetRecordsFilter(asset_key=event.asset_key, after_timestamp=started)
    while True:
        page = instance.fetch_materializations(wanted, limit=_PAGE, cursor=cursor)
        for record in page.records:
            tags = (record.asset_materialization.tags if record.asset_materialization else None) or {}
            if event.tags and all(tags.get(name) == event.tags[name] for name in (RUN_ID, TASK)):
                return True
        if not page.has_more:
            return False
        cursor = page.cursor


def _is_evaluated(instance: dg.DagsterInstance, check: dg.AssetCheckEvaluation) -> bool:
    """Return whether the instance has this evaluation."""
    key = dg.AssetCheckKey(check.asset_key, check.check_name)
    cursor = None
    while True:
        history = check_history(instance, key, _PAGE, cursor)
        for record in history:
            found = record.evaluation.metadata if record.evaluation else {}
            if all(
                name in found and found[name].value == check.metadata[name].value for name in (RUN_ID, TASK)
            ):
                return True
        if len(history) < _PAGE:
            return False
        cursor = history[-1].id
