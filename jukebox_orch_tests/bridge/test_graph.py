"""Reading synthetic graphs: what each part of Dagster becomes in KFP."""

import subprocess
import sys
from pathlib import Path

import dagster as dg

from jukebox_orch_tests.bridge import graphs as bridge_graphs
from jukebox_orch_tests.bridge.graph_reader import DATASET, SOURCE, graph_of, steps
from jukebox_orch_tests.bridge.kfp.greeting import greeting
from kfp_bridge.compiling.compiler import export
from kfp_bridge.pipeline_graph import Retry, Schedule
from kfp_bridge.pipeline_spec import read_pipeline_spec
from kfp_bridge.reading.graph import read_graph
from kfp_bridge.verifying.verify import verify


def test_bridge_imports_no_project_and_no_heavy_library():
    code = (
        "import sys, kfp_bridge.cli, kfp_bridge.compiling.compiler, kfp_bridge.verifying.verify, "
        "kfp_bridge.service.client, kfp_bridge.step, kfp_bridge.service.sync, kfp_bridge.running.local;"
        "heavy = {'jukebox_orch', 'kfp', 'kubernetes', 'kfp_server_api', 'docker', 'tensorflow', 'mlflow'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_standalone_gate_blocks_same_tasks_as_dagster():
    graph = read_graph(bridge_graphs.toy, SOURCE, job="toy_training")
    after = {name: step.after for name, step in steps(graph).items()}
    assert after["toy__published"] == ("toy__trained_model_enough_weights",)
    job = bridge_graphs.toy.resolve_job_def("toy_training")
    blocked = {
        invocation.name
        for invocation, inputs in job.dependencies.items()
        for dependency in inputs.values()
        if "toy__trained_model_enough_weights" in {node.node for node in dependency.get_node_dependencies()}
    }
    assert blocked == {name for name, gates in after.items() if "toy__trained_model_enough_weights" in gates}


def test_inputs_include_arguments_deps_and_check_inputs():
    inputs = {
        name: step.inputs
        for name, step in steps(read_graph(bridge_graphs.toy, SOURCE, job="toy_training")).items()
    }
    assert inputs == {
        "toy__announcement": ("toy/published",),
        "toy__dataset": (),
        "toy__published": ("toy/dataset", "toy/trained_model"),
        "toy__trained_model": ("toy/dataset",),
        "toy__trained_model_as_long_as_data": ("toy/dataset", "toy/trained_model"),
        "toy__trained_model_enough_weights": ("toy/trained_model",),
    }


def test_multi_asset_and_graph_asset_are_one_task_each():
    assets = {
        name: [asset.key for asset in step.assets]
        for name, step in steps(read_graph(bridge_graphs.all_kinds, SOURCE)).items()
    }
    assert assets == {
        "splits": ["test_split", "train_split"],
        "halves": ["left", "right"],
        "scaled": ["scaled"],
        "positive": [],
    }


def test_part_of_multi_asset_can_be_selected():
    (step,) = read_graph(bridge_graphs.all_kinds, SOURCE, select='key:"train_split"').steps
    assert [asset.key for asset in step.assets] == ["train_split"]


def test_asset_without_value_has_no_artifact_type():
    graph = read_graph(bridge_graphs.toy, SOURCE, job="toy_training")
    types = {asset.key: asset.artifact_type for step in graph.steps for asset in step.assets}
    assert types == {
        "toy/announcement": None,
        "toy/dataset": "Dataset",
        "toy/published": "Artifact",
        "toy/trained_model": "Model",
    }


def test_caching_is_on_only_with_complete_cache_key():
    caching = {
        name: step.cache
        for name, step in steps(read_graph(bridge_graphs.toy, SOURCE, job="toy_training")).items()
    }
    # An asset without input reads external data, a check has no code version, and `published` declares no caching.
    assert [name for name, cached in caching.items() if cached] == ["toy__trained_model"]


def test_asset_without_input_is_cached_only_if_declared():
    @dg.asset(metadata={**DATASET, "kfp/cache": True}, code_version="1")
    def generated():
        return 1

    @dg.asset(metadata={**DATASET, "kfp/cache": True})
    def without_version():
        return 1

    @dg.asset(metadata=DATASET, code_version="1")
    def read():
        return 1

    found = steps(graph_of(generated, without_version, read))
    assert [name for name, step in found.items() if step.cache] == ["generated"]


def test_report_names_cached_tasks_below_always_running_task():
    @dg.asset(metadata={**DATASET, "kfp/cache": True}, code_version="1")
    def generated():
        return 1

    @dg.asset(metadata=DATASET, code_version="1")
    def of_generated(generated: int):
        return generated

    @dg.asset(metadata=DATASET, code_version="1")
    def read():
        return 1

    @dg.asset(metadata=DATASET, code_version="1")
    def of_read(read: int, of_generated: int):
        return read

    @dg.asset(metadata=DATASET, code_version="1")
    def of_both(of_read: int, generated: int):
        return of_read

    rows = graph_of(generated, of_generated, read, of_read, of_both).report
    found = {row.subject for row in rows if "runs with task read, which always runs" in row.becomes}
    assert found == {"task of-read", "task of-both"}


def test_environment_changes_argument_of_cached_task_only(tmp_path: Path):
    def argument(greeting: str) -> tuple[str, str]:
        env = [{"name": "GREETING", "value": greeting}]
        tags = {"dagster-k8s/config": {"container_config": {"env": env}}}

        @dg.asset(metadata=DATASET, code_version="1", op_tags=tags)
        def read():
            return 1

        @dg.asset(metadata={**DATASET, "kfp/cache": True}, code_version="1", op_tags=tags)
        def generated():
            return 1

        export(graph_of(read, generated), "image:1", tmp_path / "graph.yaml")
        spec = read_pipeline_spec(tmp_path / "graph.yaml")
        first, second = (spec.executor(task)["container"]["args"][-1] for task in ("read", "generated"))
        return first, second

    before, after = argument("hello"), argument("good morning")
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_schedule_is_exported_and_sensor_is_reported():
    graph = read_graph(bridge_graphs.toy, SOURCE, job="toy_training")
    assert graph.schedules == (Schedule("nightly", ("0 2 * * *",), "UTC", False, {"epochs": 9}),)
    (sensor,) = [row for row in graph.report if row.subject == "sensor new_rows"]
    assert sensor.outcome == "not exported"
    assert "kfp-bridge submit" in sensor.becomes


def test_sensor_of_other_job_is_not_reported():
    @dg.sensor(job_name="toy_by_op")
    def elsewhere():
        return None

    @dg.sensor(job_name="toy_training")
    def here():
        return None

    @dg.sensor(asset_selection=dg.AssetSelection.groups("toy"))
    def anywhere():
        return None

    defs = dg.Definitions.merge(bridge_graphs.toy, dg.Definitions(sensors=[elsewhere, here, anywhere]))
    rows = read_graph(defs, SOURCE, job="toy_training").report
    found = {row.subject for row in rows if row.field == "sensor"}
    assert found == {"sensor new_rows", "sensor here", "sensor anywhere"}


def test_retry_policies_become_retries_of_tasks():
    @dg.asset(
        metadata=DATASET,
        retry_policy=dg.RetryPolicy(max_retries=4, delay=1.5, backoff=dg.Backoff.EXPONENTIAL),
    )
    def grows():
        return 1

    @dg.asset(metadata=DATASET, retry_policy=dg.RetryPolicy(max_retries=2, delay=10))
    def constant():
        return 1

    found = steps(graph_of(grows, constant))
    assert found["grows"].retry == Retry(4, 2, 2.0)
    assert found["constant"].retry == Retry(2, 10, 1.0)


def test_materialized_external_asset_is_imported(tmp_path: Path):
    @dg.asset(metadata=DATASET)
    def copied(lake: list[int]):
        return lake

    defs = dg.Definitions(assets=[bridge_graphs.lake, copied])
    with dg.DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(
            dg.AssetMaterialization("lake", metadata={"path": "s3://lake/rows.parquet", "sha256": "ab" * 32})
        )
        graph = read_graph(defs, SOURCE, instance=instance)
    assert [(item.key, item.artifact_type, item.uri) for item in graph.imports] == [
        ("lake", "Dataset", "s3://lake/rows.parquet")
    ]
    export(graph, "image:1", tmp_path / "pipeline.yaml")
    spec = read_pipeline_spec(tmp_path / "pipeline.yaml")
    assert spec.executor("importer")["importer"]["artifactUri"] == {"constant": "s3://lake/rows.parquet"}
    assert verify(graph, "image:1", spec) == []
    text = (
        (tmp_path / "pipeline.yaml").read_text().replace("s3://lake/rows.parquet", "s3://lake/other.parquet")
    )
    (tmp_path / "edited.yaml").write_text(text)
    assert verify(graph, "image:1", read_pipeline_spec(tmp_path / "edited.yaml"))


def test_asset_tag_overrides_pod_config_of_all_tasks():
    pods = {
        "container_config": {
            "env": [{"name": "TRACKING_URI", "value": "http://default"}, {"name": "ZONE", "value": "a"}],
            "resources": {"requests": {"cpu": "100m"}},
        },
        "pod_spec_config": {"serviceAccountName": "trainer"},
    }
    found = steps(read_graph(bridge_graphs.toy, SOURCE, job="toy_training", pod_config=pods))
    assert found["toy__dataset"].pod.env == (("TRACKING_URI", "http://default"), ("ZONE", "a"))
    assert found["toy__dataset"].pod.cpu_request == "100m"
    assert found["toy__trained_model"].pod.env == (("TRACKING_URI", "http://mlflow:5000"), ("ZONE", "a"))
    assert found["toy__trained_model"].pod.cpu_request == "250m"


def test_acceptance_graph_exports_and_verifies(tmp_path: Path):
    graph = read_graph(greeting, SOURCE, job="greeting")
    export(graph, "image:1", tmp_path / "greeting.yaml")
    assert verify(graph, "image:1", read_pipeline_spec(tmp_path / "greeting.yaml")) == []
    assert graph.schedules == (Schedule("every_minute", ("* * * * *",), "UTC", True, {}),)
