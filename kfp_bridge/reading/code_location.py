"""Loads Definitions from a module or file, and resolves the job, or the part of it, to export or run."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import dagster as dg

from kfp_bridge.dagster_internals import is_lazy_definitions, job_assets, job_subset
from kfp_bridge.errors import BridgeError
from kfp_bridge.pipeline_graph import CodeLocation

PIPELINE_JOB = "kfp_pipeline"
"""Name of the job that is created when assets are selected without a job."""


def load_definitions(source: CodeLocation) -> dg.Definitions:
    """Import the module or file and return its Definitions.

    Raises:
        BridgeError: it cannot be imported, has no Definitions, or has several and no attribute is named.
    """
    module = _import(source)
    if source.attribute is not None:
        found = getattr(module, source.attribute, None)
        if found is None:
            raise BridgeError(
                f"{source}: has no attribute {source.attribute!r}; name the Definitions with -a"
            )
        return _as_definitions(found, str(source))
    candidates = {name: value for name, value in vars(module).items() if isinstance(value, dg.Definitions)}
    if not candidates:
        candidates = {n: v for n, v in vars(module).items() if is_lazy_definitions(v)}
    if len({id(value) for value in candidates.values()}) != 1:
        found = ", ".join(sorted(candidates)) or "none"
        raise BridgeError(f"{source}: expected one dagster.Definitions, found {found}; name one with -a")
    return _as_definitions(next(iter(candidates.values())), str(source))


def resolve_job(defs: dg.Definitions, job: str | None, select: str | None) -> dg.JobDefinition:
    """Return the job, or the part of it that `select` (Dagster's asset selection syntax) names.

    Raises:
        BridgeError: unknown job, a job of ops, a selection that cannot be parsed or selects nothing.
    """
    try:
        if job is None:
            unresolved = dg.define_asset_job(PIPELINE_JOB, selection=select or dg.AssetSelection.all())
            resolved = dg.Definitions.merge(defs, dg.Definitions(jobs=[unresolved])).resolve_job_def(
                PIPELINE_JOB
            )
        else:
            resolved = defs.resolve_job_def(job)
    except dg.DagsterError as error:
        raise BridgeError(
            f"job {job or PIPELINE_JOB!r}, selection {select or '*'!r}: {_reason(error)}"
        ) from error
    if job is not None and not resolved.is_asset_job:
        raise BridgeError(f"job {job!r} is a job of ops; only asset jobs are exported")
    if job is not None and select is not None:
        resolved = _select(resolved, select)
    if not list(job_assets(resolved).executable_asset_keys):
        raise BridgeError(f"selection {select!r} selects no asset that can be materialized")
    return resolved


def check_keys(job: dg.JobDefinition) -> set[dg.AssetCheckKey]:
    """Return the keys of all checks that the job runs."""
    return {
        key
        for definition in job_assets(job).asset_graph.assets_defs
        if definition.is_executable
        for key in definition.check_keys
    }


def partition_tags(
    job: dg.JobDefinition, partition: str | None, instance: dg.DagsterInstance
) -> dict[str, str]:
    """Return the run tags that select one partition; a dynamic partition is created first.

    Raises:
        BridgeError: the partition does not exist.
    """
    if partition is None or job.partitions_def is None:
        return {}
    if isinstance(job.partitions_def, dg.DynamicPartitionsDefinition) and job.partitions_def.name:
        instance.add_dynamic_partitions(job.partitions_def.name, [partition])
    if partition not in job.partitions_def.get_partition_keys(dynamic_partitions_store=instance):
        raise BridgeError(f"partition_key {partition!r}: job {job.name!r} has no such partition")
    return dict(job.get_tags_for_partition_key(partition, selected_asset_keys=None))


def _select(job: dg.JobDefinition, select: str) -> dg.JobDefinition:
    graph = job_assets(job).asset_graph
    try:
        selected = dg.AssetSelection.from_string(select).resolve(graph)
    except dg.DagsterError as error:
        raise BridgeError(f"selection {select!r} in job {job.name!r}: {error}") from error
    assets = selected & set(job_assets(job).executable_asset_keys)
    if not assets:
        raise BridgeError(f"selection {select!r} selects no asset of job {job.name!r}")
    return job_subset(job, assets, {key for key in check_keys(job) if key.asset_key in assets})


def _reason(error: BaseException) -> str:
    """Return the error with its causes: Dagster wraps the reason for an unresolvable job."""
    return f"{error}: {_reason(error.__cause__)}" if error.__cause__ is not None else str(error)


def _import(source: CodeLocation) -> ModuleType:
    try:
        if source.module is not None:
            # Find modules in the working folder, as Dagster does, in `python -m kfp_bridge.step` and in `kfp-bridge`.
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            return importlib.import_module(source.module)
        path = Path(source.file or "")
        if not path.is_file():
            raise BridgeError(f"{source}: no such file")
        name = f"kfp_bridge_loaded_{path.stem}"
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path.resolve()):
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path.resolve())
        if spec is None or spec.loader is None:
            raise BridgeError(f"{source}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except BridgeError:
        raise
    except Exception as error:
        raise BridgeError(f"cannot load {source}: {type(error).__name__}: {error}") from error
    return module


def _as_definitions(value: object, place: str) -> dg.Definitions:
    if isinstance(value, dg.Definitions):
        return value
    if callable(value):
        returned = value()
        if isinstance(returned, dg.Definitions):
            return returned
    raise BridgeError(f"{place}: is a {type(value).__name__}, expected dagster.Definitions")
