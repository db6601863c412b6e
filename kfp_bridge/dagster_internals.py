"""The parts of Dagster beyond its public API that this package uses: one function each, with the reason.

`jukebox_orch_tests/bridge/test_dagster_internals.py` fails when Dagster changes one of them.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import dagster as dg


def job_assets(job: dg.JobDefinition) -> Any:
    """Return the job's asset graph, with the keys of the assets that the job runs.

    `JobDefinition.asset_layer` has no @public mark, but the public API gives asset specs only: not which checks
    block, which assets one op computes, nor the IO managers and retry policies.
    """
    return job.asset_layer


def job_subset(
    job: dg.JobDefinition, assets: AbstractSet[dg.AssetKey], checks: AbstractSet[dg.AssetCheckKey]
) -> dg.JobDefinition:
    """Return the job reduced to exactly these assets and checks, with the run config schema of the complete job.

    `JobDefinition.get_subset` has no @public mark, but `execute_in_process(asset_selection=)` and
    `execute_job(asset_selection=)` cannot name checks: they would also run every standalone check.
    """
    return job.get_subset(asset_selection=assets, asset_check_selection=checks)


def job_nodes(job: dg.JobDefinition) -> Sequence[Any]:
    """Return the job's ops and graphs, sorted by name.

    `JobDefinition.nodes` has no @public mark; a node's retry policies and tags have no other source.
    """
    return sorted(job.nodes, key=lambda node: node.name)


def upstream_nodes(job: dg.JobDefinition) -> dict[str, set[str]]:
    """Return, by node name, the names of the nodes that it waits for.

    `JobDefinition.dependencies` has no @public mark, but only it shows a check that just gates a node.
    """
    return {
        invocation.alias or invocation.name: {
            node.node for dependency in dependencies.values() for node in dependency.get_node_dependencies()
        }
        for invocation, dependencies in job.dependencies.items()
    }


def config_schema(job: dg.JobDefinition) -> tuple[Any, Any]:
    """Return the job's config schema, as the launchpad shows it, and the type of its root.

    `get_config_schema_snapshot` and `get_job_snapshot` have no @public mark; no public API lists config fields.
    """
    schema = job.get_config_schema_snapshot()
    return schema, schema.get_config_snap(str(job.get_job_snapshot().mode_def_snaps[0].root_config_key))


def check_history(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey, limit: int, cursor: int | None
) -> Sequence[Any]:
    """Return the latest executions of a check before the cursor.

    `DagsterInstance` has no public method that lists check evaluations; its event log storage has one.
    """
    return instance.event_log_storage.get_asset_check_execution_history(key, limit=limit, cursor=cursor)


def is_lazy_definitions(value: object) -> bool:
    """Return whether the value was made by `@dagster.definitions`; its type has no public name."""
    return type(value).__name__ == "LazyDefinitions"
