"""Anything without a counterpart in KFP stops a strict export by name, and no file is written."""

from pathlib import Path

import dagster as dg
import pytest

from jukebox_orch_tests.bridge import graphs as bridge_graphs
from jukebox_orch_tests.bridge.graph_reader import DATASET, SOURCE, graph_of, strict_export_error
from kfp_bridge.compiling.compiler import export
from kfp_bridge.errors import BridgeError
from kfp_bridge.reading.graph import read_graph


def test_schedule_depending_on_tick_stops_export(tmp_path: Path):
    defs = dg.Definitions.merge(bridge_graphs.toy, dg.Definitions(schedules=[bridge_graphs.by_hour]))
    assert (
        "schedule by_hour: run request: its run config or partition depends on the tick"
        in strict_export_error(read_graph(defs, SOURCE, job="toy_training"), tmp_path)
    )


def test_one_message_lists_everything_unmapped(tmp_path: Path):
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

    @dg.asset(
        metadata=DATASET,
        retry_policy=dg.RetryPolicy(max_retries=6, delay=60, backoff=dg.Backoff.EXPONENTIAL),
    )
    def patient():
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

    message = strict_export_error(
        graph_of(undeclared, misdeclared, linear, jittered, patient, free, podded), tmp_path
    )
    assert message.startswith("10 things in the graph do not map to KFP:")
    for text in (
        "asset undeclared: kfp/artifact_type: declare metadata",
        "asset misdeclared: kfp/artifact_type: 'Table' is not a KFP artifact type",
        "task linear: RetryPolicy: KFP has no linear backoff",
        "task jittered: RetryPolicy: KFP has no jitter",
        "task patient: RetryPolicy: its delays add up to more than the hour",
        "config ops.free.config.anything: type: config type ANY has no KFP parameter type",
        "dagster-k8s/config: container_config.env_from: KFP takes single keys",
        "dagster-k8s/config: container_config.resources.limits.ephemeral-storage: has no counterpart in KFP",
        "dagster-k8s/config: pod_spec_config.host_network: has no counterpart in KFP",
        "dagster-k8s/config: job_spec_config: has no counterpart in KFP",
    ):
        assert text in message


def test_colliding_long_or_non_ascii_names_stop_export(tmp_path: Path):
    def named(*parts: str) -> dg.AssetsDefinition:
        @dg.asset(key=list(parts), metadata=DATASET)
        def made():
            return 1

        return made

    @dg.multi_asset(outs={"size": dg.AssetOut(key="größe", metadata=DATASET)})
    def sizes():
        return None

    message = strict_export_error(graph_of(named("a", "b"), named("a_b"), named("x" * 64), sizes), tmp_path)
    assert "a/b, a_b: name: all become 'a_b' in KFP" in message
    assert "a__b, a_b: name: all become 'a-b' in KFP" in message
    assert f"task {'x' * 64}: name: is 64 characters long, KFP and Kubernetes labels allow 63" in message
    assert "asset größe: name: has non-ASCII characters" in message


def test_parameter_named_like_artifact_stops_export(tmp_path: Path):
    class Clash(dg.Config):
        numbers: int = 1

    @dg.asset(metadata=DATASET)
    def numbers(config: Clash):
        return 1

    assert "parameter numbers: name: is also an artifact or parameter" in strict_export_error(
        graph_of(numbers), tmp_path
    )


def test_unselected_upstream_without_materialization_stops_export(tmp_path: Path):
    graph = read_graph(bridge_graphs.toy, SOURCE, job="toy_training", select='key:"toy/published"')
    message = strict_export_error(graph, tmp_path)
    assert "asset toy/trained_model: upstream: is not in the selection and has no materialization" in message
    assert "toy/dataset" not in message  # lineage only: Dagster does not wait for it either


def test_partition_mapping_to_other_partition_stops_export(tmp_path: Path):
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
    assert (
        "asset tomorrow: partition_mapping: TimeWindowPartitionMapping reads other partitions"
        in strict_export_error(graph, tmp_path)
    )


def test_unusable_volume_names_stop_export(tmp_path: Path):
    volumes = [
        {"name": "root", "config_map": {"name": "kube-root-ca.crt"}},
        {"name": "one", "secret": {"secret_name": "settings"}},
        {"name": "other", "config_map": {"name": "settings"}},
        {"name": "kfp", "config_map": {"name": "kfp-launcher"}},
        {"name": "data", "persistent_volume_claim": {"claim_name": "data"}},
    ]
    mounts = [{"name": volume["name"], "mount_path": f"/{volume['name']}"} for volume in volumes]
    mounts.append(
        {"name": "data", "mount_path": "/more", "sub_path": "more"}
    )  # one claim twice is one volume

    @dg.asset(
        metadata=DATASET,
        op_tags={
            "dagster-k8s/config": {
                "container_config": {"volume_mounts": mounts},
                "pod_spec_config": {"volumes": volumes},
            }
        },
    )
    def mounted():
        return 1

    message = strict_export_error(graph_of(mounted), tmp_path)
    assert message.startswith("3 things in the graph do not map to KFP:")
    assert (
        "kfp-launcher: KFP names a volume after its claim, secret or config map; another has this name"
        in message
    )
    assert (
        "settings: KFP names a volume after its claim, secret or config map; another has this name" in message
    )
    assert "kube-root-ca.crt: KFP names the volume after it, and a volume's name allows a-z" in message


def test_two_service_accounts_stop_export(tmp_path: Path):
    def as_account(name: str) -> dg.AssetsDefinition:
        config = {"pod_spec_config": {"service_account_name": name}}

        @dg.asset(key=name, metadata=DATASET, op_tags={"dagster-k8s/config": config})
        def made():
            return 1

        return made

    message = strict_export_error(graph_of(as_account("one"), as_account("two")), tmp_path)
    assert "service_account_name: KFP takes one per run: ['one', 'two']" in message


def test_output_without_yaml_suffix_or_folder_is_refused(tmp_path: Path):
    graph = graph_of(bridge_graphs.numbers)
    with pytest.raises(BridgeError, match=r"must end in \.yaml"):
        export(graph, "image:1", tmp_path / "pipeline.json")
    with pytest.raises(BridgeError, match="does not exist"):
        export(graph, "image:1", tmp_path / "absent" / "pipeline.yaml")
