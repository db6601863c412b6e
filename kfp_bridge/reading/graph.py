"""Reads a Dagster job, or a selection of its assets, as a frozen `PipelineGraph`.

Anything without a counterpart in KFP becomes a report row with the outcome `unmapped`; a strict export fails if there
is such a row.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from kfp_bridge.dagster_internals import job_assets, job_nodes, upstream_nodes
from kfp_bridge.names import collisions, identifier, is_label, name_problem, task_name
from kfp_bridge.pipeline_graph import (
    ARTIFACT_TYPE_KEY,
    ARTIFACT_TYPES,
    Asset,
    Check,
    CodeLocation,
    ImportedAsset,
    MappingRow,
    Parameter,
    PipelineGraph,
    Pod,
    Step,
)
from kfp_bridge.reading.caching import read_cache, rerun_rows
from kfp_bridge.reading.code_location import PIPELINE_JOB, resolve_job
from kfp_bridge.reading.importers import read_import
from kfp_bridge.reading.pods import K8S_TAG, read_pod, with_labels
from kfp_bridge.reading.retries import op_definitions, read_retry
from kfp_bridge.reading.run_config import read_parameters
from kfp_bridge.reading.schedules import read_schedules, read_sensors
from kfp_bridge.reading.task_parameters import with_parameters


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
        job: an asset job; without it the pipeline is the selection (default: all assets).
        select: Dagster's asset selection syntax, for example `key:"jukebox/onnx_model"+`.
        name: pipeline name; default: the job's.
        instance: where the last materializations of assets outside the selection are looked up.
        pod_config: settings of every task's pod in the format of the `dagster-k8s/config` tag, as an executor
            has them in Dagster; an asset's own tag takes precedence.

    Raises:
        BridgeError: unknown job or a selection that selects nothing or cannot be parsed.
    """
    resolved = resolve_job(defs, job, select)
    reader = _GraphReader(resolved, instance, pod_config or {})
    steps = reader.steps()
    service_account = reader.service_account()
    parameters, rows = read_parameters(resolved)
    steps, task_rows = with_parameters(resolved, steps, parameters)
    task_rows += rerun_rows(steps)
    schedules, schedule_rows = read_schedules(defs, resolved, parameters)
    rows = [*reader.rows, *rows, *task_rows, *schedule_rows, *read_sensors(defs, resolved)]
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
        self.definitions = {
            _node_name(definition): definition
            for definition in self.graph.assets_defs
            if definition.is_executable
        }
        self.producers = {
            key.to_user_string(): name
            for name, definition in self.definitions.items()
            for key in definition.keys
        }
        self.waits_for = upstream_nodes(job)

    def steps(self) -> list[Step]:
        self.report_different_partitions()
        return [self.step(node) for node in job_nodes(self.job)]

    def step(self, node: Any) -> Step:
        definition: dg.AssetsDefinition = self.definitions[node.name]
        assets = tuple(
            self.asset(definition, key)
            for key in sorted(definition.keys, key=lambda key: key.to_user_string())
        )
        checks = tuple(
            Check(spec.asset_key.to_user_string(), spec.name, spec.blocking, _one_line(spec.description))
            for spec in sorted(
                definition.check_specs, key=lambda spec: (spec.asset_key.to_user_string(), spec.name)
            )
            if spec.key in definition.check_keys
        )
        for check in checks:
            effect = "exits non-zero when it fails" if check.blocking else "reports"
            place = "part of its asset's task" if assets else f"task {task_name(node.name)}"
            self.mapped(f"check {check}", "blocking" if check.blocking else "check", f"{place}, {effect}")
        inputs = tuple(sorted(self.inputs(definition)))
        producers = {self.producers[key] for key in inputs if key in self.producers}
        after = tuple(sorted(self.waits_for.get(node.name, set()) - producers - {node.name}))
        for gate in after:
            self.mapped(f"task {task_name(node.name)}", "waits for", f"after {task_name(gate)}")
        retry, retry_rows = read_retry(self.job, node)
        cache, cache_row = read_cache(definition, assets, inputs)
        self.rows += [*retry_rows, cache_row]
        return Step(
            name=node.name,
            assets=assets,
            checks=checks,
            inputs=inputs,
            after=after,
            parameters=(),
            retry=retry,
            pod=self.pod(node, assets),
            cache=cache,
        )

    def asset(self, definition: dg.AssetsDefinition, key: dg.AssetKey) -> Asset:
        spec = definition.get_asset_spec(key)
        name = key.to_user_string()
        artifact_type = self.artifact_type(name, spec, has_value=_has_value(definition, key))
        becomes = f"artifact {artifact_type}" if artifact_type else "task without a value artifact"
        self.mapped(f"asset {name}", "value", f"task {task_name(_node_name(definition))}, {becomes}")
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
            reason = wanted if declared is None else f"{declared!r} is not a KFP artifact type; {wanted}"
            self.unmapped(f"asset {name}", ARTIFACT_TYPE_KEY, reason)
            return "Artifact"
        return str(declared)

    def inputs(self, definition: dg.AssetsDefinition) -> Iterable[str]:
        """Yield the keys of the upstream assets whose artifacts the step takes; import those outside the job."""
        for input_name, key in definition.keys_by_input_name.items():
            name = key.to_user_string()
            if key in definition.keys:
                continue  # inside one multi-asset
            if key in self.selected:
                self.report_partition_mapping(definition, key)
                yield name
                continue
            loads = definition.node_def.input_dict[input_name].dagster_type.kind.name != "NOTHING"
            if name not in self.imports:
                found, row = read_import(self.instance, self.graph, key, loads=loads)
                self.rows.append(row)
                if found is not None:
                    self.imports[name] = found
            if name in self.imports:
                yield name

    def pod(self, node: Any, assets: tuple[Asset, ...]) -> Pod:
        subject = f"task {task_name(node.name)}"
        tags = {**getattr(node.definition, "tags", {}), **node.tags}
        pod, account, rows = read_pod(tags.get(K8S_TAG), self.pod_config, subject)
        self.service_accounts.add(account)
        self.rows += rows
        for op in op_definitions(node.definition):
            if op is not node.definition and K8S_TAG in op.tags:
                self.unmapped(subject, K8S_TAG, f"on op {op.name}: set it on the graph")
        labels, annotations = _labels(assets)
        return with_labels(pod, labels, annotations)

    def service_account(self) -> str | None:
        accounts = self.service_accounts - {None}
        if len(accounts) > 1:
            self.unmapped(
                "job", "service_account_name", f"KFP takes one per run: {sorted(map(str, accounts))}"
            )
        return min((account for account in accounts if account), default=None)

    def report_different_partitions(self) -> None:
        partitions = {
            definition.partitions_def
            for definition in self.definitions.values()
            if definition.partitions_def is not None
        }
        if len(partitions) > 1:
            reason = "assets have different partitions; export them one by one"
            self.unmapped("job", "partitions_def", reason)

    def report_partition_mapping(self, definition: dg.AssetsDefinition, key: dg.AssetKey) -> None:
        mapping = definition.get_partition_mapping(key)
        same = (dg.IdentityPartitionMapping(), dg.TimeWindowPartitionMapping())
        if mapping is not None and mapping not in same:
            reason = f"{type(mapping).__name__} reads other partitions than the run's own"
            name = next(iter(definition.keys)).to_user_string() if definition.keys else _node_name(definition)
            self.unmapped(f"asset {name}", "partition_mapping", reason)

    def mapped(self, subject: str, field: str, becomes: str) -> None:
        self.rows.append(MappingRow(subject, field, becomes))

    def unmapped(self, subject: str, field: str, reason: str) -> None:
        self.rows.append(MappingRow(subject, field, reason, "unmapped"))


def _node_name(definition: dg.AssetsDefinition) -> str:
    return definition.node_def.name


def _has_value(definition: dg.AssetsDefinition, key: dg.AssetKey) -> bool:
    output = definition.node_def.output_dict[definition.get_output_name_for_asset_key(key)]
    return output.dagster_type.kind.name != "NOTHING"


def _labels(assets: tuple[Asset, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Return group and tags as labels where Kubernetes allows the value, everything else as annotations."""
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
    """Return a row for every name that KFP or Kubernetes would refuse, change or confuse with another."""
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
