"""Everything that this package uses of Dagster beyond its public API: one function each, with the reason.

`jukebox_orch_tests/bridge/test_dagster_internals.py` fails when Dagster changes one of them.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import dagster as dg


def job_assets(job: dg.JobDefinition) -> Any:
    """The job's asset graph and which of its assets the job runs.

    `JobDefinition.asset_layer` carries no @public mark, but what is marked gives the specs of assets only: not
    which checks block, what an op computes together, nor the IO managers and retry policies.
    """
    return job.asset_layer


def job_subset(
    job: dg.JobDefinition, assets: AbstractSet[dg.AssetKey], checks: AbstractSet[dg.AssetCheckKey]
) -> dg.JobDefinition:
    """The job reduced to exactly these assets and checks, with the run config form of the whole job.

    `JobDefinition.get_subset` carries no @public mark, but `execute_in_process(asset_selection=)` and
    `execute_job(asset_selection=)` cannot name checks: they would also run every standalone check.
    """
    return job.get_subset(asset_selection=assets, asset_check_selection=checks)


def job_nodes(job: dg.JobDefinition) -> Sequence[Any]:
    """The job's ops and graphs, by name.

    `JobDefinition.nodes` carries no @public mark; retry policies and tags of a node have no other source.
    """
    return sorted(job.nodes, key=lambda node: node.name)


def upstream_nodes(job: dg.JobDefinition) -> dict[str, set[str]]:
    """Node name -> names of the nodes that it waits for.

    `JobDefinition.dependencies` carries no @public mark; a check that only gates a node is visible there alone.
    """
    return {
        invocation.alias or invocation.name: {
            node.node for dependency in dependencies.values() for node in dependency.get_node_dependencies()
        }
        for invocation, dependencies in job.dependencies.items()
    }


def config_schema(job: dg.JobDefinition) -> tuple[Any, Any]:
    """The job's config schema, as the launchpad shows it, and the type of its root.

    `get_config_schema_snapshot` and `get_job_snapshot` carry no @public mark; no public API lists config fields.
    """
    schema = job.get_config_schema_snapshot()
    return schema, schema.get_config_snap(str(job.get_job_snapshot().mode_def_snaps[0].root_config_key))


def check_history(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey, limit: int, cursor: int | None
) -> Sequence[Any]:
    """The latest executions of a check before the cursor.

    `DagsterInstance` has no public method that lists check evaluations; its event log storage has.
    """
    return instance.event_log_storage.get_asset_check_execution_history(key, limit=limit, cursor=cursor)


def is_lazy_definitions(value: object) -> bool:
    """Whether the value is what `@dagster.definitions` returns, a type without a public name."""
    return type(value).__name__ == "LazyDefinitions"
