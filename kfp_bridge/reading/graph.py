"""A Dagster job, or a selection of assets, as a frozen `PipelineGraph`.

Read through the API of `Definitions` and `JobDefinition` alone. What has no counterpart in KFP does not
disappear: it becomes a row with the outcome `unmapped`, and a strict export stops at such rows.
"""

import graphlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from kfp_bridge.dagster_internals import job_assets, job_nodes, upstream_nodes
from kfp_bridge.names import collisions, identifier, is_label, name_problem, task_name
from kfp_bridge.pipeline_graph import (
    ARTIFACT_TYPE_KEY,
    ARTIFACT_TYPES,
    CACHE_KEY,
    Asset,
    Check,
    CodeLocation,
    ImportedAsset,
    MappingRow,
    Parameter,
    PipelineGraph,
    Pod,
    Retry,
    Step,
)
from kfp_bridge.reading.definitions import PIPELINE_JOB, resolve_job
from kfp_bridge.reading.importers import read_import
from kfp_bridge.reading.pods import K8S_TAG, read_pod, with_labels
from kfp_bridge.reading.run_config import read_parameters
from kfp_bridge.reading.schedules import read_schedules, read_sensors
from kfp_bridge.reading.task_parameters import with_parameters

_RETRY_SECONDS = 3600
"""KFP starts no attempt later than this after the first one started, and ends one that still runs then."""


def read_graph(
    defs: dg.Definitions,
    source: CodeLocation,
    *,
    job: str | None = None,
    select: str | None = None,
    name: str | None = None,
    instance: dg.DagsterInstance | None = None,
    pod_config: Mapping[str, Any] | None = None,
) -> PipelineGraph:
    """Read the job, or the part of it that `select` names, as one pipeline.

    Args:
        defs: the code location.
        source: where the container will load `defs` from.
        job: an asset job; without it the selection (all assets by default) is the pipeline.
        select: Dagster's asset selection syntax, for example `key:"jukebox/onnx_model"+`.
        name: pipeline name; by default the job's.
        instance: where the last materializations of assets outside the selection are looked up.
        pod_config: settings of every task's pod in the form of the `dagster-k8s/config` tag, as an executor
            has them in Dagster; what an asset's own tag says wins.

    Raises:
        BridgeError: unknown job or a selection that selects nothing or cannot be parsed.
    """
    resolved = resolve_job(defs, job, select)
    reader = _GraphReader(resolved, instance, pod_config or {})
    steps = reader.steps()
    service_account = reader.service_account()
    parameters, rows = read_parameters(resolved)
    steps, reach_rows = with_parameters(resolved, steps, parameters)
    reach_rows += _cache_rows(steps)
    schedules, schedule_rows = read_schedules(defs, resolved, parameters)
    rows = [*reader.rows, *rows, *reach_rows, *schedule_rows, *read_sensors(defs, resolved)]
    pipeline_name = task_name(name or job or PIPELINE_JOB)
    imports = tuple(sorted(reader.imports.values(), key=lambda item: item.key))
    rows += _name_rows(name or job or PIPELINE_JOB, steps, imports, parameters)
    return PipelineGraph(
        name=pipeline_name,
        job=job,
        select=select,
        description=" ".join((resolved.description or "").split()),
        source=source,
        steps=steps,
        imports=imports,
        parameters=parameters,
        partitioned=resolved.partitions_def is not None,
        schedules=schedules,
        service_account=service_account,
        report=tuple(rows),
    )


class _GraphReader:
    """Reads the nodes of one resolved job, in the order of their names."""

    def __init__(
        self, job: dg.JobDefinition, instance: dg.DagsterInstance | None, pod_config: Mapping[str, Any]
    ) -> None:
        self.job = job
        self.pod_config = pod_config
        self.instance = instance
        self.graph = job_assets(job).asset_graph
        self.selected = set(job_assets(job).executable_asset_keys)
        self.imports: dict[str, ImportedAsset] = {}
        self.rows: list[MappingRow] = []
        self.service_accounts: set[str | None] = set()
        self.made_by = {_node_name(made): made for made in self.graph.assets_defs if made.is_executable}
        self.producers = {
            key.to_user_string(): name for name, made in self.made_by.items() for key in made.keys
        }
        self.waits_for = upstream_nodes(job)

    def steps(self) -> list[Step]:
        self.refuse_partition_differences()
        return [self.step(node) for node in job_nodes(self.job)]

    def step(self, node: Any) -> Step:
        made: dg.AssetsDefinition = self.made_by[node.name]
        assets = tuple(
            self.asset(made, key) for key in sorted(made.keys, key=lambda key: key.to_user_string())
        )
        checks = tuple(
            Check(spec.asset_key.to_user_string(), spec.name, spec.blocking, _one_line(spec.description))
            for spec in sorted(
                made.check_specs, key=lambda spec: (spec.asset_key.to_user_string(), spec.name)
            )
            if spec.key in made.check_keys
        )
        for check in checks:
            gate = "exits non-zero when it fails" if check.blocking else "reports"
            place = "part of its asset's task" if assets else f"task {task_name(node.name)}"
            self.rows.append(
                MappingRow(f"check {check}", "blocking" if check.blocking else "check", f"{place}, {gate}")
            )
        inputs = tuple(sorted(self.inputs(made)))
        producers = {self.producers[key] for key in inputs if key in self.producers}
        after = tuple(sorted(self.waits_for.get(node.name, set()) - producers - {node.name}))
        for gate in after:
            self.rows.append(
                MappingRow(f"task {task_name(node.name)}", "waits for", f"after {task_name(gate)}")
            )
        return Step(
            name=node.name,
            assets=assets,
            checks=checks,
            inputs=inputs,
            after=after,
            parameters=(),
            retry=self.retry(node),
            pod=self.pod(node, assets),
            cache=self.cache(made, assets, inputs),
        )

    def asset(self, made: dg.AssetsDefinition, key: dg.AssetKey) -> Asset:
        spec = made.get_asset_spec(key)
        name = key.to_user_string()
        artifact_type = self.artifact_type(name, spec, has_value=_has_value(made, key))
        becomes = f"artifact {artifact_type}" if artifact_type else "task without a value artifact"
        self.rows.append(
            MappingRow(f"asset {name}", "value", f"task {task_name(_node_name(made))}, {becomes}")
        )
        return Asset(
            key=name,
            artifact_type=artifact_type,
            code_version=spec.code_version,
            group=spec.group_name,
            description=_one_line(spec.description),
            kinds=tuple(sorted(spec.kinds)),
            owners=tuple(sorted(spec.owners)),
            tags=tuple(sorted((k, v) for k, v in spec.tags.items() if not k.startswith("dagster/kind/"))),
        )

    def artifact_type(self, name: str, spec: dg.AssetSpec, *, has_value: bool) -> str | None:
        declared = spec.metadata.get(ARTIFACT_TYPE_KEY)
        declared = getattr(declared, "value", declared)
        if not has_value or declared == "None":
            return None
        if declared not in ARTIFACT_TYPES:
            choices = ", ".join(ARTIFACT_TYPES)
            wanted = (
                f"declare metadata {{{ARTIFACT_TYPE_KEY!r}: …}}, one of {choices}, or 'None' for no value"
            )
            reason = wanted if declared is None else f"{declared!r} is no KFP artifact type; {wanted}"
            self.rows.append(MappingRow(f"asset {name}", ARTIFACT_TYPE_KEY, reason, "unmapped"))
            return "Artifact"
        return str(declared)

    def inputs(self, made: dg.AssetsDefinition) -> Iterable[str]:
        """Keys of the upstream assets whose artifacts the step takes; those not in the job are imported."""
        for input_name, key in made.keys_by_input_name.items():
            name = key.to_user_string()
            if key in made.keys:
                continue  # inside one multi-asset
            if key in self.selected:
                self.refuse_partition_mapping(made, key)
                yield name
                continue
            loads = made.node_def.input_dict[input_name].dagster_type.kind.name != "NOTHING"
            if name not in self.imports:
                found, row = read_import(self.instance, self.graph, key, loads=loads)
                self.rows.append(row)
                if found is not None:
                    self.imports[name] = found
            if name in self.imports:
                yield name

    def retry(self, node: Any) -> Retry | None:
        policies = {op.retry_policy or self.job.op_retry_policy for op in _op_definitions(node.definition)}
        if node.retry_policy:
            policies = {node.retry_policy}
        subject = f"task {task_name(node.name)}"
        if len(policies) > 1:
            self.rows.append(
                MappingRow(subject, "RetryPolicy", "ops of one graph have different policies", "unmapped")
            )
        policy = next(iter(policies))
        if policy is None or len(policies) > 1:
            return None
        if policy.backoff is dg.Backoff.LINEAR or policy.jitter is not None:
            what = "linear backoff" if policy.backoff is dg.Backoff.LINEAR else "jitter"
            self.rows.append(MappingRow(subject, "RetryPolicy", f"KFP has no {what}", "unmapped"))
        factor = 2.0 if policy.backoff is dg.Backoff.EXPONENTIAL else 1.0
        retry = Retry(policy.max_retries, math.ceil(policy.delay or 0), factor)  # KFP counts whole seconds
        if sum(retry.delay * factor**tried for tried in range(retry.count)) > _RETRY_SECONDS:
            reason = "its delays add up to more than the hour that KFP gives all attempts after the first"
            self.rows.append(MappingRow(subject, "RetryPolicy", reason, "unmapped"))
        self.rows.append(
            MappingRow(
                subject,
                "RetryPolicy",
                f"{retry.count} retries, first after {retry.delay} s, factor {retry.factor}",
            )
        )
        return retry

    def pod(self, node: Any, assets: tuple[Asset, ...]) -> Pod:
        subject = f"task {task_name(node.name)}"
        tags = {**getattr(node.definition, "tags", {}), **node.tags}
        pod, account, rows = read_pod(tags.get(K8S_TAG), self.pod_config, subject)
        self.service_accounts.add(account)
        self.rows += rows
        for op in _op_definitions(node.definition):
            if op is not node.definition and K8S_TAG in op.tags:
                self.rows.append(
                    MappingRow(subject, K8S_TAG, f"on op {op.name}: set it on the graph", "unmapped")
                )
        labels, annotations = _labels(assets)
        return with_labels(pod, labels, annotations)

    def cache(self, made: dg.AssetsDefinition, assets: tuple[Asset, ...], inputs: tuple[str, ...]) -> bool:
        """KFP may reuse a task only when everything that decides its result is in its cache key."""
        declared = [made.get_asset_spec(key).metadata.get(CACHE_KEY) for key in made.keys]
        declared = [getattr(value, "value", value) for value in declared]
        wanted = False not in declared
        decided = bool(inputs) or all(value is True for value in declared)
        honest = bool(assets) and decided and all(asset.code_version for asset in assets)
        subject = f"task {task_name(_node_name(made))}"
        if honest and wanted:
            self.rows.append(
                MappingRow(subject, "code_version", "cached: parameters carry it and the input digests")
            )
        else:
            why = (
                f"{CACHE_KEY} is False"
                if not wanted
                else f"it has no code_version, or neither an input nor {CACHE_KEY}: True"
                if assets
                else "a check"
            )
            self.rows.append(MappingRow(subject, "caching", f"always runs: {why}"))
        return honest and wanted

    def service_account(self) -> str | None:
        accounts = self.service_accounts - {None}
        if len(accounts) > 1:
            self.rows.append(
                MappingRow(
                    "job",
                    "service_account_name",
                    f"KFP takes one per run: {sorted(map(str, accounts))}",
                    "unmapped",
                )
            )
        return min((account for account in accounts if account), default=None)

    def refuse_partition_differences(self) -> None:
        partitions = {
            made.partitions_def for made in self.made_by.values() if made.partitions_def is not None
        }
        if len(partitions) > 1:
            self.rows.append(
                MappingRow(
                    "job",
                    "partitions_def",
                    "assets have different partitions; export them one by one",
                    "unmapped",
                )
            )

    def refuse_partition_mapping(self, made: dg.AssetsDefinition, key: dg.AssetKey) -> None:
        mapping = made.get_partition_mapping(key)
        same = (dg.IdentityPartitionMapping(), dg.TimeWindowPartitionMapping())
        if mapping is not None and mapping not in same:
            reason = f"{type(mapping).__name__} reads other partitions than the run's own"
            name = next(iter(made.keys)).to_user_string() if made.keys else _node_name(made)
            self.rows.append(MappingRow(f"asset {name}", "partition_mapping", reason, "unmapped"))


def _node_name(made: dg.AssetsDefinition) -> str:
    return made.node_def.name


def _op_definitions(definition: Any) -> list[dg.OpDefinition]:
    if isinstance(definition, dg.OpDefinition):
        return [definition]
    return [op for inner in definition.node_defs for op in _op_definitions(inner)]


def _has_value(made: dg.AssetsDefinition, key: dg.AssetKey) -> bool:
    output = made.node_def.output_dict[made.get_output_name_for_asset_key(key)]
    return output.dagster_type.kind.name != "NOTHING"


def _cache_rows(steps: Sequence[Step]) -> list[MappingRow]:
    """Cached tasks that KFP nevertheless runs every time: it knows an input by the artifact's id, and a task that
    runs makes new artifacts, however equal."""
    producers = {asset.key: step for step in steps for asset in step.assets}
    makers = {
        step.name: sorted(producers[key].name for key in step.inputs if key in producers) for step in steps
    }
    cached = {step.name: step.cache for step in steps}
    anew: dict[str, str | None] = {}  # the task that makes each one run
    for name in graphlib.TopologicalSorter(makers).static_order():
        anew[name] = (
            next((anew[maker] for maker in makers[name] if anew[maker]), None) if cached[name] else name
        )
    return [
        MappingRow(
            f"task {task_name(step.name)}",
            "caching",
            f"runs with task {task_name(cause)}, which always runs: its artifacts are new to KFP's cache",
        )
        for step in steps
        if step.cache and (cause := anew[step.name])
    ]


def _labels(assets: tuple[Asset, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Group and tags as labels where Kubernetes allows the value, everything else as annotations."""
    tags = {key: value for asset in assets for key, value in asset.tags}
    groups = sorted({asset.group for asset in assets if asset.group})
    labels = {key: value for key, value in tags.items() if is_label(key, value)}
    if len(groups) == 1 and is_label("dagster/group", groups[0]):
        labels["dagster/group"] = groups[0]
    rest = {key: value for key, value in tags.items() if key not in labels}
    annotations = {
        "dagster/assets": ",".join(asset.key for asset in assets),
        "dagster/owners": ",".join(sorted({owner for asset in assets for owner in asset.owners})),
        "dagster/kinds": ",".join(sorted({kind for asset in assets for kind in asset.kinds})),
        "dagster/description": " | ".join(asset.description for asset in assets if asset.description),
        "dagster/tags": json.dumps(rest, sort_keys=True) if rest else "",
    }
    return labels, {key: value for key, value in annotations.items() if value}


def _name_rows(
    name: str, steps: Sequence[Step], imports: tuple[ImportedAsset, ...], parameters: tuple[Parameter, ...]
) -> list[MappingRow]:
    """Every name that KFP or Kubernetes would refuse, change or confuse with another."""
    keys = [asset.key for step in steps for asset in step.assets] + [item.key for item in imports]
    rows = []
    for subject, original in [("pipeline", name), *(("task", step.name) for step in steps)]:
        if problem := name_problem(original, task_name(original)):
            rows.append(MappingRow(f"{subject} {original}", "name", problem, "unmapped"))
    rows += [
        MappingRow(
            f"asset {key}",
            "name",
            f"has non-ASCII characters or leaves no usable KFP name: {key!r}",
            "unmapped",
        )
        for key in keys
        if not key.isascii() or not identifier(key)
    ]
    clashes = collisions([(step.name, task_name(step.name)) for step in steps])
    clashes += collisions([(key, identifier(key)) for key in keys])
    rows += [
        MappingRow(f"{', '.join(originals)}", "name", f"all become {converted!r} in KFP", "unmapped")
        for converted, originals in clashes
    ]
    taken = {identifier(key) for key in keys} | {"partition_key", "code_version", "imports"}
    for parameter in parameters:
        if not parameter.name.isidentifier() or parameter.name in taken:
            reason = "is also an artifact or parameter of the pipeline; rename the config field"
            rows.append(MappingRow(f"parameter {parameter.name}", "name", reason, "unmapped"))
    return rows


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
