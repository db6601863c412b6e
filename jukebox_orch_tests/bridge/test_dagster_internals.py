"""The parts of Dagster beyond its public API that the bridge uses; fails when Dagster changes one of them."""

import dagster as dg
import pytest

from kfp_bridge import dagster_internals


@dg.asset(config_schema={"rows": dg.Field(int, default_value=3)}, op_tags={"team": "a"})
def table() -> list[int]:
    return [1]


@dg.asset
def total(table: list[int]) -> int:
    return sum(table)


@dg.asset_check(asset=table, blocking=True)
def not_empty(table: list[int]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=bool(table))


TABLE, TOTAL = dg.AssetKey("table"), dg.AssetKey("total")
CHECK = dg.AssetCheckKey(TABLE, "not_empty")


@pytest.fixture(scope="module")
def job() -> dg.JobDefinition:
    both = dg.define_asset_job("both", selection=dg.AssetSelection.all())
    return dg.Definitions(assets=[table, total], asset_checks=[not_empty], jobs=[both]).resolve_job_def(
        "both"
    )


def test_job_assets_have_selection_and_checks(job: dg.JobDefinition) -> None:
    layer = dagster_internals.job_assets(job)
    assert set(layer.executable_asset_keys) == {TABLE, TOTAL}
    checks = {name for asset in layer.asset_graph.assets_defs for name in asset.check_keys}
    assert checks == {CHECK}
    assert layer.asset_graph.get(TABLE).parent_keys == set()


def test_job_subset_keeps_only_named_checks(job: dg.JobDefinition) -> None:
    without = dagster_internals.job_subset(job, {TABLE}, set())
    result = without.execute_in_process(run_config={"ops": {"table": {"config": {"rows": 1}}}})
    assert result.success
    assert result.get_asset_check_evaluations() == []
    both = dagster_internals.job_subset(job, {TABLE}, {CHECK}).execute_in_process()
    assert [e.check_name for e in both.get_asset_check_evaluations()] == ["not_empty"]


def test_nodes_have_tags_and_upstream_nodes(job: dg.JobDefinition) -> None:
    nodes = dagster_internals.job_nodes(job)
    assert [node.name for node in nodes] == ["table", "table_not_empty", "total"]
    assert nodes[0].definition.tags["team"] == "a"
    assert dagster_internals.upstream_nodes(job)["total"] == {"table", "table_not_empty"}


def test_config_schema_lists_fields_with_defaults(job: dg.JobDefinition) -> None:
    schema, root = dagster_internals.config_schema(job)
    ops = schema.get_config_snap(next(field.type_key for field in root.fields if field.name == "ops"))
    config = schema.get_config_snap(next(field.type_key for field in ops.fields if field.name == "table"))
    inner = schema.get_config_snap(next(f.type_key for f in config.fields if f.name == "config"))
    (rows,) = inner.fields
    assert (rows.name, rows.default_value_as_json_str) == ("rows", "3")


def test_check_history_has_reported_evaluations() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(TABLE, "not_empty", passed=True, metadata={"rows": 3})
        )
        (record,) = dagster_internals.check_history(instance, CHECK, 10, None)
        assert record.evaluation.metadata["rows"].value == 3
        assert list(dagster_internals.check_history(instance, CHECK, 10, record.id)) == []


def test_lazy_definitions_are_recognized() -> None:
    @dg.definitions
    def defs() -> dg.Definitions:
        return dg.Definitions()

    assert dagster_internals.is_lazy_definitions(defs)
    assert not dagster_internals.is_lazy_definitions(dg.Definitions())
