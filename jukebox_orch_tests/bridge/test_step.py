"""The exported steps as isolated processes: values with digests, gates, retries and reports."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from jukebox_orch_tests.bridge import graphs as bridge_graphs
from kfp_bridge.compiling.compiler import export
from kfp_bridge.errors import BridgeError, RunError
from kfp_bridge.pipeline_graph import CodeLocation
from kfp_bridge.pipeline_spec import PipelineSpec, read_pipeline_spec
from kfp_bridge.reading.graph import read_graph
from kfp_bridge.records import parse_record
from kfp_bridge.running.executor_io import local_path
from kfp_bridge.running.local import executor_input, parse_value, run_as_processes, task_command
from kfp_bridge.step import main
from kfp_bridge.verifying.verify import verify


def exported(
    attribute: str, folder: Path, *, job: str | None = None, select: str | None = None, **options: Any
) -> PipelineSpec:
    source = CodeLocation(module="jukebox_orch_tests.bridge.graphs", attribute=attribute)
    graph = read_graph(
        getattr(bridge_graphs, attribute),
        source,
        job=job,
        select=select,
        instance=options.pop("instance", None),
    )
    export(graph, "image:1", folder / f"{attribute}.yaml", **options)
    spec = read_pipeline_spec(folder / f"{attribute}.yaml")
    assert verify(graph, "image:1", spec) == []
    return spec


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> PipelineSpec:
    return exported("toy", tmp_path_factory.mktemp("toy"), job="toy_training")


@pytest.fixture(scope="module")
def toy_run(toy: PipelineSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_as_processes(toy, {"epochs": 3, "layers": [8.0]}, tmp_path_factory.mktemp("run"))


def step_arguments(spec: PipelineSpec, task: str, run: Path, parameters: dict[str, Any]) -> list[str]:
    command = task_command(spec, task, json.dumps(executor_input(spec, task, parameters, run)))
    return command[3:]


def test_exported_steps_reproduce_dagster_values(toy_run: Path):
    job = bridge_graphs.toy.resolve_job_def("toy_training")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(
            run_config={"training": {"epochs": 3, "layers": [8]}}, instance=instance
        )
        expected = {
            str(
                event.asset_key and event.asset_key.to_user_string()
            ): event.step_materialization_data.materialization.metadata["sha256"].value
            for event in result.get_asset_materialization_events()
            if "sha256" in event.step_materialization_data.materialization.metadata
        }
    digests = {
        "toy/dataset": (toy_run / "toy-dataset" / "toy_dataset_digest").read_text(),
        "toy/trained_model": (toy_run / "toy-trained-model" / "toy_trained_model_digest").read_text(),
        "toy/published": (toy_run / "toy-published" / "toy_published_digest").read_text(),
    }
    assert digests == expected


def test_parameters_keep_their_types_in_run_config(toy_run: Path):
    model = json.loads((toy_run / "toy-trained-model" / "toy_trained_model").read_text())
    assert model == {"weights": [3, 6, 9], "layers": [8], "name": "toy"}


def test_metadata_becomes_metrics_and_confusion_matrix(toy_run: Path):
    from kfp import dsl

    output = json.loads((toy_run / "toy-trained-model" / "executor_output.json").read_text())["artifacts"]
    assert output["dagster_metrics"]["artifacts"][0]["metadata"]["accuracy"] == 0.875
    assert output["dagster_metrics"]["artifacts"][0]["metadata"]["ok"] == 1
    reference = dsl.ClassificationMetrics()
    reference.log_confusion_matrix(["rock", "pop"], [[3, 1], [0, 4]])
    assert output["dagster_confusion_matrix"]["artifacts"][0]["metadata"] == reference.metadata


def test_executor_output_is_valid_and_has_every_artifact(toy: PipelineSpec, toy_run: Path):
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    for output in toy_run.glob("*/executor_output.json"):
        json_format.Parse(output.read_text(), pipeline_spec_pb2.ExecutorOutput())  # type: ignore[attr-defined]
        declared = toy.component(output.parent.name)["outputDefinitions"]["artifacts"]
        assert json.loads(output.read_text())["artifacts"].keys() == declared.keys()


def test_step_refuses_record_with_failed_gate(
    toy: PipelineSpec, toy_run: Path, capfd: pytest.CaptureFixture[str]
):
    """kfp.local may take the container of a failed gate for a success."""
    arguments = step_arguments(toy, "toy-trained-model", toy_run, {})
    record = toy_run / "toy-dataset" / "dagster_record"
    original = record.read_text()
    content = json.loads(original)
    next(check for check in content["checks"] if check["check_name"] == "not_empty")["passed"] = False
    record.write_text(json.dumps(content))
    try:
        assert main(arguments) == 1
    finally:
        record.write_text(original)
    last_line = capfd.readouterr().err.strip().splitlines()[-1]
    assert "blocking asset check toy/dataset:not_empty failed: rows found; refusing to continue" in last_line


def test_report_shows_checks_and_markdown_with_escaped_html(toy_run: Path):
    markdown = (toy_run / "toy-dataset" / "dagster_report").read_text()
    assert "| FAILED | toy/dataset:drift | WARN |" in markdown
    assert "| passed | toy/dataset:not_empty | ERROR, blocking | rows found |" in markdown
    page = (toy_run / "toy-dataset" / "dagster_report_html").read_text()
    assert "<strong>three</strong>" in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_record_keeps_metadata_types_and_data_version(toy_run: Path):
    record = parse_record((toy_run / "toy-dataset" / "dagster_record").read_text(), "record")
    event = record.of("toy/dataset").event  # type: ignore[union-attr]
    assert isinstance(event.metadata["preview"], dg.MarkdownMetadataValue)
    assert event.tags
    assert "dagster/data_version" in event.tags
    assert {check.check_name: check.passed for check in record.checks} == {"not_empty": True, "drift": False}


def test_steps_leave_working_folder_empty(toy: PipelineSpec, toy_run: Path):
    assert all(not list((toy_run / task / "work").iterdir()) for task in toy.tasks)


@pytest.fixture(scope="module")
def failed(toy: PipelineSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp("failed")
    with pytest.raises(RunError) as error:
        run_as_processes(toy, {"bad_data": True}, root)
    return str(error.value), root


def test_failed_gate_stops_pipeline_where_dagster_stops(failed: tuple[str, Path]):
    message, root = failed
    assert message.endswith("blocking asset check toy/dataset:not_empty failed: the dataset has no rows")
    assert [path.name for path in root.iterdir()] == ["toy-dataset"]
    log = (root / "toy-dataset" / "log").read_text().splitlines()
    assert log[-1] == "blocking asset check toy/dataset:not_empty failed: the dataset has no rows"
    job = bridge_graphs.toy.resolve_job_def("toy_training")
    result = job.execute_in_process(run_config={"bad_data": True}, raise_on_error=False)
    assert [
        str(event.asset_key and event.asset_key.to_user_string())
        for event in result.get_asset_materialization_events()
    ] == ["toy/dataset"]
    assert {check.check_name for check in result.get_asset_check_evaluations() if not check.passed} == {
        "not_empty",
        "drift",
    }


def test_failed_gate_writes_report(failed: tuple[str, Path]):
    assert "| FAILED | toy/dataset:not_empty" in (failed[1] / "toy-dataset" / "dagster_report").read_text()


def test_failed_gate_is_not_retried(failed: tuple[str, Path]):
    assert (failed[1] / "toy-dataset" / "log").read_text().count(
        "not_empty failed: the dataset has no rows"
    ) == 1


def test_failing_step_is_retried_per_policy(tmp_path: Path):
    spec = exported("failing", tmp_path)
    with pytest.raises(RunError, match=r"task broken failed .*: ValueError: no such table: songs"):
        run_as_processes(spec, {}, tmp_path / "run")
    log = (tmp_path / "run" / "broken" / "log").read_text().splitlines()
    assert log.count("ValueError: no such table: songs") >= 3
    assert log[-1] == "ValueError: no such table: songs"
    assert sum("RUN_START" in line for line in log) == 3


def test_altered_artifact_is_refused(toy: PipelineSpec, toy_run: Path, capfd: pytest.CaptureFixture[str]):
    arguments = step_arguments(toy, "toy-published", toy_run, {})
    artifact = toy_run / "toy-trained-model" / "toy_trained_model"
    original = artifact.read_bytes()
    artifact.write_bytes(original.replace(b"toy", b"tox"))
    try:
        assert main(arguments) == 1
    finally:
        artifact.write_bytes(original)
    assert "refusing to use it" in capfd.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda e: e["inputs"]["artifacts"].pop("from_toy_trained_model"),
            "artifact 'from_toy_trained_model' is missing",
        ),
        (
            lambda e: e["inputs"]["artifacts"].pop("from_toy_dataset_record"),
            "artifact 'from_toy_dataset_record' is missing",
        ),
        (lambda e: e["outputs"]["artifacts"].pop("dagster_record"), "output 'dagster_record' is missing"),
        (lambda e: e.pop("outputs"), "not the JSON of a KFP launcher"),
        (
            lambda e: e["inputs"]["artifacts"]["from_toy_dataset"]["artifacts"][0].update(uri="/nowhere"),
            "is not at /nowhere",
        ),
        (
            lambda e: e["inputs"]["artifacts"]["from_toy_dataset"]["artifacts"][0].update(uri="ftp://x/y"),
            "its scheme has no path in a container",
        ),
    ],
)
def test_incomplete_executor_input_is_refused(
    edit: Any, message: str, toy: PipelineSpec, toy_run: Path, capfd: pytest.CaptureFixture[str]
):
    arguments = step_arguments(toy, "toy-published", toy_run, {})
    content = json.loads(arguments[1])
    edit(content)
    assert main([arguments[0], json.dumps(content), *arguments[2:]]) == 2
    assert message in capfd.readouterr().err.strip().splitlines()[-1]


def test_non_json_executor_input_is_refused(capfd: pytest.CaptureFixture[str]):
    assert main(["--executor-input", "{", "--step", '{"version": 1}']) == 2
    assert "not the JSON of a KFP launcher" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{", "--step: not the JSON that kfp-bridge export writes"),
        ("[]", "--step: not the JSON that kfp-bridge export writes"),
        (
            "{}",
            "--step: has version None, the kfp_bridge in this image reads version 1: export the pipeline again",
        ),
        ('{"version": 2}', "--step: has version 2, the kfp_bridge in this image reads version 1"),
    ],
)
def test_unreadable_or_other_version_step_argument_is_refused(
    step: str, message: str, capfd: pytest.CaptureFixture[str]
):
    assert main(["--executor-input", "{}", "--step", step]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("uri", ["s3://bucket/a/b", "gs://bucket/a", "minio://mlpipeline/v2/x", "/tmp/plain"])
def test_local_path_equals_kfp_artifact_path(uri: str):
    from kfp import dsl

    assert str(local_path(uri)) == dsl.Artifact(uri=uri).path


def test_graph_assets_multi_assets_and_multi_checks_run(tmp_path: Path):
    spec = exported("all_kinds", tmp_path)
    assert set(spec.tasks) == {"splits", "halves", "scaled", "positive"}
    run = run_as_processes(spec, {"factor": 5}, tmp_path / "run")
    assert json.loads((run / "scaled" / "scaled").read_text()) == [10]
    record = parse_record((run / "positive" / "dagster_record").read_text(), "record")
    assert {(str(check.asset_key.to_user_string()), check.passed) for check in record.checks} == {
        ("left", True),
        ("scaled", False),
    }
    assert {
        asset.asset for asset in parse_record((run / "splits" / "dagster_record").read_text(), "r").assets
    } == {
        "train_split",
        "test_split",
    }


def test_partition_is_parameter(tmp_path: Path):
    spec = exported("partitioned", tmp_path)
    run = run_as_processes(spec, {"partition_key": "tuesday"}, tmp_path / "run")
    assert json.loads((run / "daily-upper" / "daily_upper").read_text()) == "TUESDAY"
    record = parse_record((run / "daily-upper" / "dagster_record").read_text(), "record")
    assert record.assets[0].event.partition == "tuesday"
    with pytest.raises(RunError, match="partition_key 'friday': job 'kfp_pipeline' has no such partition"):
        run_as_processes(spec, {"partition_key": "friday"}, tmp_path / "friday")
    with pytest.raises(BridgeError, match="'partition_key' of pipeline kfp-pipeline has no default"):
        run_as_processes(spec, {}, tmp_path / "none")


def test_dagster_file_system_io_manager_works(tmp_path: Path):
    run = run_as_processes(exported("with_default_files", tmp_path), {}, tmp_path / "run")
    assert (run / "total" / "total").stat().st_size > 0


def test_unselected_upstream_is_imported_from_last_materialization(tmp_path: Path):
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        bridge_graphs.toy.resolve_job_def("toy_training").execute_in_process(instance=instance)
        spec = exported(
            "toy", tmp_path, job="toy_training", select='key:"toy/published"', instance=instance, strict=False
        )
        run = run_as_processes(spec, {}, tmp_path / "run")
    assert json.loads((run / "toy-published" / "toy_published").read_text()) == {
        "published": "toy",
        "weights": [5, 10, 15],
    }


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs", "expected NAME=VALUE"),
        ("epoch=3", "parameter 'epoch' is unknown: pipeline toy-training has bad_data"),
        ("epochs=many", "is not a NUMBER_INTEGER in JSON"),
        ("epochs=1.5", "is not a NUMBER_INTEGER"),
        ("epochs=true", "is not a NUMBER_INTEGER"),
        ("layers={}", "is not a LIST"),
    ],
)
def test_invalid_parameter_is_refused(assignment: str, message: str, toy: PipelineSpec):
    with pytest.raises(BridgeError, match=message):
        parse_value(toy, assignment)
