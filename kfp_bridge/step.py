"""`python -m kfp_bridge.step`: the command of every task of an exported pipeline.

A step materializes its assets with their checks in its own temporary Dagster instance. First it reports the
materializations of the upstream assets to that instance, with the path where KFP put their values, so that the
assets' IO manager loads them. Then it writes values, record, metrics and reports to the paths that KFP gave.
Exit code 0; 1 when the assets fail or an input's digest is wrong; 2 when the executor input or the argument is
unusable; 3 when a blocking check failed. The last line of the log is the reason.

An IO manager must record `path` (local or fsspec URL) in the metadata of what it writes, and load from the `path`
of the upstream's last materialization, or keep its files in the instance's storage folder (Dagster's own file
system IO manager without `base_dir` does).
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import dagster as dg

from kfp_bridge.dagster_internals import job_subset
from kfp_bridge.errors import BridgeError, GateError, StepError
from kfp_bridge.names import identifier
from kfp_bridge.pipeline_graph import (
    CONFUSION_MATRIX,
    METRICS,
    RECORD,
    REPORT,
    REPORT_HTML,
    STEP_VERSION,
    CodeLocation,
)
from kfp_bridge.reading.code_location import load_definitions, partition_tags, resolve_job
from kfp_bridge.reading.run_config import run_config
from kfp_bridge.records import (
    DATA_VERSION_TAG,
    AssetRecord,
    TaskRecord,
    digest,
    parse_asset_record,
    parse_record,
    relocated,
    stored_path,
    without_pointers,
)
from kfp_bridge.running.executor_io import (
    ExecutorInput,
    parse_executor_input,
    write_executor_output,
    write_parameter,
)
from kfp_bridge.running.reports import confusion_matrix, html_report, markdown_report, scalar_metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one task and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="kfp_bridge.step", description="Materialize the assets of one KFP task."
    )
    parser.add_argument(
        "--executor-input", required=True, help="JSON that a KFP launcher substitutes for {{$}}"
    )
    parser.add_argument("--step", required=True, help="JSON that kfp-bridge export wrote")
    options = parser.parse_args(arguments)
    try:
        run_step(parse_step(options.step), parse_executor_input(options.executor_input))
    except BridgeError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def parse_step(text: str) -> dict[str, Any]:
    """Read the argument that `kfp-bridge export` wrote.

    Raises:
        BridgeError: not JSON, or of another version than this image reads.
    """
    try:
        step = json.loads(text)
        version = step.get("version")
    except (ValueError, AttributeError) as error:
        raise BridgeError(f"--step: not the JSON that kfp-bridge export writes: {error}") from error
    if version != STEP_VERSION:
        raise BridgeError(
            f"--step: has version {version!r}, the kfp_bridge in this image reads version {STEP_VERSION}: export the "
            "pipeline again with the kfp_bridge of this image, or run it in the image it was exported for"
        )
    return step


def run_step(step: Mapping[str, Any], task: ExecutorInput) -> None:
    """Materialize the step's assets from the task's inputs and write its outputs.

    Raises:
        GateError: a blocking check failed.
        StepError: an asset failed, or an input differs from its record.
        BridgeError: the executor input, the record of an input or the code location is unusable.
    """
    with tempfile.TemporaryDirectory(prefix="kfp-bridge-") as home:
        # Set before the Definitions load: files that they keep in the instance's folder must be deleted with it.
        os.environ.update(DAGSTER_HOME=home, DAGSTER_DISABLE_TELEMETRY="1")
        with dg.DagsterInstance.ephemeral(tempdir=home) as instance:
            partition = str(task.parameters["partition_key"]) if step["partitioned"] else None
            _report_inputs(step, task, instance, Path(home))
            result = _execute(step, task, instance, partition)
            record = _record(step, task, instance, result)
            _write(step, task, record)
            _raise_on_failure(result, record)


@cache
def reconstruct_job(step_json: str) -> dg.JobDefinition:
    """Return the job with exactly the step's assets and checks, run in this process.

    KFP does the retries: retries inside the step would multiply with the task's own. The job is cached because
    Dagster asks for it several times in a run.
    """
    step = json.loads(step_json)
    defs = load_definitions(CodeLocation(**step["source"]))
    job = resolve_job(defs, step["job"], None)
    assets = {dg.AssetKey.from_user_string(asset["asset"]) for asset in step["assets"]}
    checks = {
        dg.AssetCheckKey(dg.AssetKey.from_user_string(check["asset"]), check["check"])
        for check in step["checks"]
    }
    executor = dg.in_process_executor.configured({"retries": {"disabled": {}}}, name="in_process_once")
    return job_subset(job, assets, checks).with_executor_def(executor)


def _execute(
    step: Mapping[str, Any], task: ExecutorInput, instance: dg.DagsterInstance, partition: str | None
) -> Any:
    step_json = json.dumps(step)
    job = reconstruct_job(step_json)
    paths = {name: parameter["path"] for name, parameter in step["parameters"].items()}
    values = {
        name: _typed(task.parameters.get(name), parameter["type"])
        for name, parameter in step["parameters"].items()
    }
    reconstructable = dg.build_reconstructable_job("kfp_bridge.step", "reconstruct_job", (step_json,))
    try:
        return dg.execute_job(
            reconstructable,
            instance,
            run_config=run_config(paths, values),
            tags=partition_tags(job, partition, instance),
            raise_on_error=False,
        )
    except dg.DagsterInvalidConfigError as error:
        raise StepError(f"task {step['task']}: {error}") from error


def _report_inputs(
    step: Mapping[str, Any], task: ExecutorInput, instance: dg.DagsterInstance, home: Path
) -> None:
    imported = {
        item["asset"]: parse_asset_record(item, "parameter imports")
        for item in json.loads(task.parameters.get("imports") or "[]")
    }
    for item in step["inputs"]:
        record = imported.get(item["asset"]) or _input_record(task, item)
        event = record.event
        if item["value"] is not None:
            artifact = task.input(item["value"])
            _verify_digest(item["asset"], record, artifact.path)
            if record.path is None:
                raise StepError(f"asset {item['asset']}: its record has no `path`; see docs/kfp-bridge.md")
            event = relocated(event, str(_link_input(artifact.path, record, home, item["value"])))
        instance.report_runless_asset_event(event)


def _input_record(task: ExecutorInput, item: Mapping[str, Any]) -> AssetRecord:
    artifact = task.input(item["record"])
    upstream = parse_record(artifact.path.read_text(encoding="utf-8"), item["record"])
    if failed := upstream.failed_gate():  # the runner may have ignored the exit code of that task
        raise StepError(f"record {item['record']}: {failed}; refusing to continue")
    record = upstream.of(item["asset"])
    if record is None:
        raise StepError(f"record {item['record']}: asset {item['asset']} was not materialized by its task")
    return record


def _verify_digest(asset: str, record: AssetRecord, path: Path) -> None:
    found = digest(path)
    if record.sha256 is None and path.is_file():
        raise StepError(
            f"asset {asset}: its record has no sha256; to be imported, its IO manager must record one"
        )
    # An IO manager has its own kind of digest for a folder and verifies it when it loads.
    imported_folder = record.event.metadata.get("sha256") is not None and path.is_dir()
    if record.sha256 != found and not imported_folder:
        raise StepError(
            f"asset {asset}: {path} has sha256 {found}, its record has {record.sha256}; refusing to use it"
        )


def _link_input(artifact: Path, record: AssetRecord, home: Path, name: str) -> Path:
    """Link the value under its original name (the suffix selects the format), in the storage folder if it was there."""
    recorded = PurePosixPath(record.path or "")
    link = home / "storage" / record.stored if record.stored else home / "inputs" / name / recorded.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(artifact.resolve(), target_is_directory=artifact.is_dir())
    return link


def _record(
    step: Mapping[str, Any], task: ExecutorInput, instance: dg.DagsterInstance, result: Any
) -> TaskRecord:
    values = {asset["asset"]: asset["value"] for asset in step["assets"]}
    events = {
        event.asset_key.to_user_string(): event.step_materialization_data.materialization
        for event in result.get_asset_materialization_events()
    }
    records = []
    for key, event in sorted(events.items()):
        record = AssetRecord(key, None, without_pointers(event))
        if values.get(key) and result.success:
            record = _copy_value(record, task.output(values[key]).path, instance)
        records.append(record)
    return TaskRecord(tuple(records), tuple(result.get_asset_check_evaluations()))


def _copy_value(record: AssetRecord, target: Path, instance: dg.DagsterInstance) -> AssetRecord:
    """Copy the value from where the asset's IO manager wrote it; return the record of the copy."""
    if record.path is None:
        raise StepError(
            f"asset {record.asset}: the materialization of its IO manager records no `path`; an exported asset's IO "
            "manager must add `path` (where it wrote the value) to the output's metadata"
        )
    import fsspec

    filesystem, source = fsspec.url_to_fs(record.path)
    if not filesystem.exists(source):
        raise StepError(
            f"asset {record.asset}: its IO manager recorded path {record.path}, which does not exist"
        )
    if filesystem.isdir(source):
        filesystem.get(source.rstrip("/") + "/", str(target) + "/", recursive=True)
    else:
        filesystem.get_file(source, str(target))
    return replace(
        record, sha256=digest(target), stored=stored_path(record.path, instance.storage_directory())
    )


def _write(step: Mapping[str, Any], task: ExecutorInput, record: TaskRecord) -> None:
    record.write(task.output(RECORD).path)
    task.output(REPORT).path.write_text(markdown_report(record), encoding="utf-8")
    task.output(REPORT_HTML).path.write_text(html_report(record), encoding="utf-8")
    # Downstream tasks take the digests as parameters, which are part of KFP's cache key.
    for asset in record.assets:
        data_version = asset.event.tags.get(DATA_VERSION_TAG, "") if asset.event.tags else ""
        write_parameter(task, f"{identifier(asset.asset)}_digest", asset.sha256 or data_version)
    metadata: dict[str, Mapping[str, Any]] = {METRICS: scalar_metrics(record)}
    if matrix := confusion_matrix(record):
        metadata[CONFUSION_MATRIX] = matrix
    for asset in step["assets"]:
        found = record.of(asset["asset"])
        if asset["value"] and found is not None and found.sha256:
            metadata[asset["value"]] = {"asset": found.asset, "sha256": found.sha256}
    write_executor_output(task, metadata)


def _raise_on_failure(result: Any, record: TaskRecord) -> None:
    if failed := record.failed_gate():
        raise GateError(failed)
    if result.success:
        return
    failures = [event.step_failure_data.error for event in result.get_step_failure_events()]
    if not failures:
        raise StepError(" ".join(str(result.get_run_failure_event().message).split()))
    error = failures[0]
    while error.cause is not None:
        error = error.cause
    raise StepError(" ".join(error.message.split()))


def _typed(value: Any, kind: str) -> Any:
    """Convert a value to the Python type of its parameter: JSON from a launcher has one number type only."""
    match kind:
        case "NUMBER_DOUBLE":
            return None if value is None else float(value)
        case "NUMBER_INTEGER":
            return None if value is None else int(value)
        case "LIST" | "STRUCT":
            return _whole_numbers(value)
    return value


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


if __name__ == "__main__":
    sys.exit(main())
