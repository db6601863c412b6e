"""Graphs that are nobody's product: what becomes what, what is reported, what stops a strict export."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jukebox_orch_tests import bridge_graphs
from kfp_bridge.compile import export
from kfp_bridge.config import parameter_values, run_config
from kfp_bridge.errors import BridgeError, ExportError
from kfp_bridge.graph import read_graph
from kfp_bridge.load import load_definitions
from kfp_bridge.model import Parameter, PipelineGraph, Retry, Schedule, Source
from kfp_bridge.spec import load_spec
from kfp_bridge.verify import verify

SOURCE = Source(module="anything")
DATASET = {"kfp/artifact_type": "Dataset"}


def graph_of(*assets: Any, **options: Any) -> PipelineGraph:
    made = {
        name: options.pop(name)
        for name in ("asset_checks", "jobs", "schedules", "sensors", "resources")
        if name in options
    }
    return read_graph(dg.Definitions(assets=list(assets), **made), SOURCE, **options)


def refused(graph: PipelineGraph, tmp_path: Path) -> str:
    with pytest.raises(ExportError) as error:
        export(graph, "image:1", tmp_path / "pipeline.yaml")
    assert not (tmp_path / "pipeline.yaml").exists()
    assert list(tmp_path.iterdir()) == []
    return str(error.value)


def steps(graph: PipelineGraph) -> dict[str, Any]:
    return {step.name: step for step in graph.steps}


def test_the_bridge_imports_nothing_of_a_project_and_nothing_heavy():
    code = (
        "import sys, kfp_bridge.cli, kfp_bridge.compile, kfp_bridge.verify, kfp_bridge.client, kfp_bridge.step, "
        "kfp_bridge.sync, kfp_bridge.local;"
        "heavy = {'jukebox_orch', 'kfp', 'kubernetes', 'kfp_server_api', 'docker', 'tensorflow', 'mlflow'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_standalone_gate_holds_back_what_dagster_holds_back():
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


def test_edges_come_with_and_without_arguments_and_into_checks():
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


def test_a_multi_asset_is_one_task_and_a_graph_asset_too():
    made = {
        name: [asset.key for asset in step.assets]
        for name, step in steps(read_graph(bridge_graphs.zoo, SOURCE)).items()
    }
    assert made == {
        "splits": ["test_split", "train_split"],
        "halves": ["left", "right"],
        "scaled": ["scaled"],
        "positive": [],
    }


def test_a_part_of_a_multi_asset_can_be_selected():
    (step,) = read_graph(bridge_graphs.zoo, SOURCE, select='key:"train_split"').steps
    assert [asset.key for asset in step.assets] == ["train_split"]


def test_an_asset_without_value_has_no_artifact_type():
    graph = read_graph(bridge_graphs.toy, SOURCE, job="toy_training")
    types = {asset.key: asset.artifact_type for step in graph.steps for asset in step.assets}
    assert types == {
        "toy/announcement": None,
        "toy/dataset": "Dataset",
        "toy/published": "Artifact",
        "toy/trained_model": "Model",
    }


def test_the_fields_of_a_config_mapping_are_the_parameters():
    parameters = {p.name: p for p in read_graph(bridge_graphs.toy, SOURCE, job="toy_training").parameters}
    assert parameters["epochs"] == Parameter(
        "epochs", ("training", "epochs"), "NUMBER_INTEGER", 5, False, "Passes over the training data"
    )
    assert parameters["optimizer"].description == "(one of sgd, adam)"
    assert {name: (p.type, p.default) for name, p in parameters.items()} == {
        "bad_data": ("BOOLEAN", False),
        "epochs": ("NUMBER_INTEGER", 5),
        "extra": ("STRUCT", {}),
        "floor": ("NUMBER_DOUBLE", None),
        "layers": ("LIST", [4, 2]),
        "learning_rate": ("NUMBER_DOUBLE", 0.1),
        "model_name": ("STRING", "toy"),
        "optimizer": ("STRING", "sgd"),
    }


def test_without_a_mapping_each_op_has_its_fields_and_the_jobs_config_is_their_default():
    graph = read_graph(bridge_graphs.toy, SOURCE, job="toy_by_op")
    parameters = {p.name: p for p in graph.parameters}
    assert parameters["toy__trained_model_training_epochs"].default == 7
    assert parameters["toy__dataset_training_epochs"].default == 5
    assert parameters["toy__dataset_training_epochs"].path == (
        "ops",
        "toy__dataset",
        "config",
        "training",
        "epochs",
    )
    assert set(steps(graph)["toy__dataset"].parameters) == {
        n for n in parameters if n.startswith("toy__dataset_")
    }
    assert steps(graph)["toy__published"].parameters == ()


def test_caching_is_on_only_where_the_cache_key_is_honest():
    caching = {
        name: step.cache
        for name, step in steps(read_graph(bridge_graphs.toy, SOURCE, job="toy_training")).items()
    }
    # A first asset reads the world, a check has no code version, and `published` asks to run every time.
    assert [name for name, cached in caching.items() if cached] == ["toy__trained_model"]


def test_schedules_and_sensors():
    graph = read_graph(bridge_graphs.toy, SOURCE, job="toy_training")
    assert graph.schedules == (Schedule("nightly", ("0 2 * * *",), "UTC", False, {"epochs": 9}),)
    (sensor,) = [row for row in graph.report if row.subject == "sensor new_rows"]
    assert sensor.outcome == "not exported"
    assert "kfp-bridge submit" in sensor.becomes


def test_a_schedule_that_depends_on_its_tick_stops_the_export(tmp_path: Path):
    defs = dg.Definitions.merge(bridge_graphs.toy, dg.Definitions(schedules=[bridge_graphs.by_hour]))
    assert "schedule by_hour: run request: its run config or partition depends on the tick" in refused(
        read_graph(defs, SOURCE, job="toy_training"), tmp_path
    )


def test_retry_policies():
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


def test_everything_that_does_not_map_is_in_one_message(tmp_path: Path):
    @dg.asset
    def undeclared():
        return 1

    @dg.asset(metadata={"kfp/artifact_type": "Table"})
    def misdeclared():
        return 1

    @dg.asset(
        metadata=DATASET, retry_policy=dg.RetryPolicy(max_retries=1, delay=1, backoff=dg.Backoff.LINEAR)
    )
    def linear():
        return 1

    @dg.asset(metadata=DATASET, retry_policy=dg.RetryPolicy(max_retries=1, delay=1, jitter=dg.Jitter.FULL))
    def jittered():
        return 1

    @dg.asset(metadata=DATASET, config_schema={"anything": dg.Field(dg.Any, default_value=1)})
    def free(context):
        return 1

    @dg.asset(
        metadata=DATASET,
        op_tags={
            "dagster-k8s/config": {
                "container_config": {
                    "env_from": [{"secret_ref": {"name": "all"}}],
                    "resources": {"limits": {"ephemeral-storage": "1Gi"}},
                },
                "pod_spec_config": {"host_network": True},
                "job_spec_config": {"backoff_limit": 1},
            }
        },
    )
    def podded():
        return 1

    message = refused(graph_of(undeclared, misdeclared, linear, jittered, free, podded), tmp_path)
    assert message.startswith("9 things in the graph do not map to KFP:")
    for part in (
        "asset undeclared: kfp/artifact_type: declare metadata",
        "asset misdeclared: kfp/artifact_type: 'Table' is no KFP artifact type",
        "task linear: RetryPolicy: KFP has no linear backoff",
        "task jittered: RetryPolicy: KFP has no jitter",
        "config ops.free.config.anything: type: config type ANY has no KFP parameter type",
        "dagster-k8s/config: container_config.env_from: KFP takes single keys",
        "dagster-k8s/config: container_config.resources.limits.ephemeral-storage: has no counterpart in KFP",
        "dagster-k8s/config: pod_spec_config.host_network: has no counterpart in KFP",
        "dagster-k8s/config: job_spec_config: has no counterpart in KFP",
    ):
        assert part in message


def test_names_that_collide_or_are_too_long_or_not_ascii_stop_the_export(tmp_path: Path):
    def named(*parts: str) -> dg.AssetsDefinition:
        @dg.asset(key=list(parts), metadata=DATASET)
        def made():
            return 1

        return made

    @dg.multi_asset(outs={"size": dg.AssetOut(key="größe", metadata=DATASET)})
    def sizes():
        return None

    message = refused(graph_of(named("a", "b"), named("a_b"), named("x" * 64), sizes), tmp_path)
    assert "a/b, a_b: name: all become 'a_b' in KFP" in message
    assert "a__b, a_b: name: all become 'a-b' in KFP" in message
    assert f"task {'x' * 64}: name: is 64 characters long, KFP and Kubernetes labels take 63" in message
    assert "asset größe: name: has non-ASCII characters" in message


def test_a_parameter_named_like_an_artifact_stops_the_export(tmp_path: Path):
    class Clash(dg.Config):
        numbers: int = 1

    @dg.asset(metadata=DATASET)
    def numbers(config: Clash):
        return 1

    assert "parameter numbers: name: is also an artifact or parameter" in refused(graph_of(numbers), tmp_path)


def test_an_upstream_outside_the_selection_without_materialization_stops_the_export(tmp_path: Path):
    graph = read_graph(bridge_graphs.toy, SOURCE, job="toy_training", select='key:"toy/published"')
    message = refused(graph, tmp_path)
    assert "asset toy/trained_model: upstream: is not in the selection and has no materialization" in message
    assert "toy/dataset" not in message  # only waited for, and Dagster would not wait for it either


def test_an_external_asset_with_a_materialization_is_imported(tmp_path: Path):
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
    spec = load_spec(tmp_path / "pipeline.yaml")
    assert spec.executor("importer")["importer"]["artifactUri"] == {"constant": "s3://lake/rows.parquet"}
    assert verify(graph, "image:1", spec) == []
    text = (
        (tmp_path / "pipeline.yaml").read_text().replace("s3://lake/rows.parquet", "s3://lake/other.parquet")
    )
    (tmp_path / "edited.yaml").write_text(text)
    assert verify(graph, "image:1", load_spec(tmp_path / "edited.yaml"))


def test_other_partitions_than_the_runs_own_stop_the_export(tmp_path: Path):
    days = dg.DailyPartitionsDefinition(start_date="2024-01-01")

    @dg.asset(partitions_def=days, metadata=DATASET)
    def today():
        return 1

    yesterday = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)

    @dg.asset(partitions_def=days, metadata=DATASET, ins={"today": dg.AssetIn(partition_mapping=yesterday)})
    def tomorrow(today):
        return 1

    graph = graph_of(today, tomorrow)
    assert graph.partitioned
    assert "asset tomorrow: partition_mapping: TimeWindowPartitionMapping reads other partitions" in refused(
        graph, tmp_path
    )


def test_pod_config_is_the_default_of_every_task_and_the_assets_tag_wins():
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


def test_the_graph_for_a_real_cluster_exports(tmp_path: Path):
    graph = read_graph(bridge_graphs.greeting, SOURCE, job="greeting")
    export(graph, "image:1", tmp_path / "greeting.yaml")
    assert verify(graph, "image:1", load_spec(tmp_path / "greeting.yaml")) == []
    assert graph.schedules == (Schedule("every_minute", ("* * * * *",), "UTC", True, {}),)


def test_two_service_accounts_stop_the_export(tmp_path: Path):
    def as_account(name: str) -> dg.AssetsDefinition:
        config = {"pod_spec_config": {"service_account_name": name}}

        @dg.asset(key=name, metadata=DATASET, op_tags={"dagster-k8s/config": config})
        def made():
            return 1

        return made

    message = refused(graph_of(as_account("one"), as_account("two")), tmp_path)
    assert "service_account_name: KFP takes one per run: ['one', 'two']" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"job": "absent"}, "job 'absent'"),
        ({"job": "toy_training", "select": "key:("}, "selection 'key:\\('"),
        ({"job": "toy_training", "select": 'key:"absent"'}, "selects no asset of job 'toy_training'"),
        ({"select": 'key:"absent"'}, 'key:"absent"'),
    ],
)
def test_an_unknown_job_or_selection_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(BridgeError, match=message):
        read_graph(bridge_graphs.toy, SOURCE, **options)


def test_a_job_of_ops_is_refused():
    @dg.op
    def work():
        return 1

    @dg.job
    def chores():
        work()

    with pytest.raises(BridgeError, match="is a job of ops"):
        read_graph(dg.Definitions(jobs=[chores]), SOURCE, job="chores")


def test_a_cycle_is_refused():
    @dg.asset(deps=["second"], metadata=DATASET)
    def first():
        return 1

    @dg.asset(deps=["first"], metadata=DATASET)
    def second():
        return 1

    with pytest.raises(BridgeError, match=r"[Cc]ircular"):
        graph_of(first, second)


@pytest.mark.parametrize(
    ("content", "attribute", "message"),
    [
        ("raise RuntimeError('broken')", None, "cannot load .*RuntimeError: broken"),
        ("x = 1", None, "expected one dagster.Definitions, found none"),
        (
            "import dagster as dg\na = dg.Definitions()\nb = dg.Definitions()",
            None,
            "found a, b; name one with -a",
        ),
        ("x = 1", "x", "is a int, expected dagster.Definitions"),
        ("x = 1", "y", "has no attribute 'y'"),
    ],
)
def test_a_file_without_definitions_is_refused(
    content: str, attribute: str | None, message: str, tmp_path: Path
):
    path = tmp_path / "code.py"
    path.write_text(content)
    with pytest.raises(BridgeError, match=message):
        load_definitions(Source(file=str(path), attribute=attribute))


def test_a_missing_module_or_file_is_refused():
    with pytest.raises(BridgeError, match="cannot load no_such_module: ModuleNotFoundError"):
        load_definitions(Source(module="no_such_module"))
    with pytest.raises(BridgeError, match=r"absent\.py: no such file"):
        load_definitions(Source(file="absent.py"))


def test_lazy_definitions_of_a_file_are_found(tmp_path: Path):
    path = tmp_path / "lazy.py"
    path.write_text(
        "import dagster as dg\n@dg.asset\ndef one(): return 1\n"
        "@dg.definitions\ndef defs(): return dg.Definitions(assets=[one])\n"
    )
    assert load_definitions(Source(file=str(path))).resolve_all_asset_specs()[0].key == dg.AssetKey("one")


def test_an_output_that_is_no_yaml_or_has_no_folder_is_refused(tmp_path: Path):
    graph = graph_of(bridge_graphs.numbers)
    with pytest.raises(BridgeError, match=r"must end in \.yaml"):
        export(graph, "image:1", tmp_path / "pipeline.json")
    with pytest.raises(BridgeError, match="does not exist"):
        export(graph, "image:1", tmp_path / "absent" / "pipeline.yaml")


@pytest.fixture(scope="module")
def toy_parameters() -> tuple[Parameter, ...]:
    return read_graph(bridge_graphs.toy, SOURCE, job="toy_training").parameters


@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 99),
            "layers": st.lists(st.integers(), max_size=3),
            "extra": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
            "model_name": st.text(max_size=5),
            "bad_data": st.booleans(),
            "floor": st.floats(allow_nan=False),
        },
    )
)
def test_run_config_and_parameters_are_each_others_inverse(
    toy_parameters: tuple[Parameter, ...], values: dict[str, Any]
):
    config = run_config({parameter.name: parameter.path for parameter in toy_parameters}, values)
    assert parameter_values(toy_parameters, config) == values


def test_a_run_config_that_sets_no_parameter_is_named(toy_parameters: tuple[Parameter, ...]):
    with pytest.raises(KeyError, match=r"training\.momentum"):
        parameter_values(toy_parameters, {"training": {"momentum": 1}})
