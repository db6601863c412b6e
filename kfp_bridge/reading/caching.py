"""Which tasks KFP may take from its cache, and which cached tasks still run every time."""

import graphlib
from collections.abc import Sequence

import dagster as dg

from kfp_bridge.names import task_name
from kfp_bridge.pipeline_graph import CACHE_KEY, Asset, MappingRow, Step


def read_cache(
    definition: dg.AssetsDefinition, assets: Sequence[Asset], inputs: Sequence[str]
) -> tuple[bool, MappingRow]:
    """Return whether KFP may reuse the task, with a report row.

    It may only if its cache key has everything that decides the task's result.
    """
    declared = [definition.get_asset_spec(key).metadata.get(CACHE_KEY) for key in definition.keys]
    declared = [getattr(value, "value", value) for value in declared]
    wanted = False not in declared
    determined = bool(inputs) or all(value is True for value in declared)
    complete_key = bool(assets) and determined and all(asset.code_version for asset in assets)
    subject = f"task {task_name(definition.node_def.name)}"
    if complete_key and wanted:
        return True, MappingRow(subject, "code_version", "cached: parameters carry it and the input digests")
    why = (
        f"{CACHE_KEY} is False"
        if not wanted
        else f"it has no code_version, or neither an input nor {CACHE_KEY}: True"
        if assets
        else "a check"
    )
    return False, MappingRow(subject, "caching", f"always runs: {why}")


def rerun_rows(steps: Sequence[Step]) -> list[MappingRow]:
    """Return a row for each cached task that KFP still runs every time.

    KFP identifies an input by its artifact's id, and a task that runs makes new artifacts, even if their content is
    equal.
    """
    producers = {asset.key: step for step in steps for asset in step.assets}
    upstream = {
        step.name: sorted(producers[key].name for key in step.inputs if key in producers) for step in steps
    }
    cached = {step.name: step.cache for step in steps}
    causes: dict[str, str | None] = {}  # by step: the always running step that makes it run
    for name in graphlib.TopologicalSorter(upstream).static_order():
        causes[name] = (
            next((causes[above] for above in upstream[name] if causes[above]), None) if cached[name] else name
        )
    return [
        MappingRow(
            f"task {task_name(step.name)}",
            "caching",
            f"runs with task {task_name(cause)}, which always runs: its artifacts are new to KFP's cache",
        )
        for step in steps
        if step.cache and (cause := causes[step.name])
    ]
