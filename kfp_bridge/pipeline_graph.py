"""The exported graph as frozen values: `reading` builds it, `compiling` writes it, `verifying` compares it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ARTIFACT_TYPES = ("Artifact", "ClassificationMetrics", "Dataset", "HTML", "Markdown", "Metrics", "Model")
ARTIFACT_TYPE_KEY = "kfp/artifact_type"
CACHE_KEY = "kfp/cache"
CONFIG_KEY = "kfp/config"

COMMAND = ("python", "-m", "kfp_bridge.step")
"""Container command of every task."""

STEP_VERSION = 1
"""Version of the JSON argument of `kfp_bridge.step`; an exported YAML and the image it runs in must have the same."""

INFO_MARK = "kfp-bridge: "
"""Starts the line of the pipeline description that holds the fields for which a pipeline spec has no place."""

# Output artifacts of every task, in addition to the values of its assets.
RECORD = "dagster_record"
METRICS = "dagster_metrics"
REPORT = "dagster_report"
REPORT_HTML = "dagster_report_html"
CONFUSION_MATRIX = "dagster_confusion_matrix"

ParameterType = Literal["STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", "LIST", "STRUCT"]
Outcome = Literal["mapped", "not exported", "unmapped"]


@dataclass(frozen=True)
class CodeLocation:
    """Where the container finds the Definitions: exactly one of an importable module or a Python file."""

    module: str | None = None
    file: str | None = None
    attribute: str | None = None

    def __str__(self) -> str:
        place = self.module or self.file or "?"
        return f"{place}:{self.attribute}" if self.attribute else place


@dataclass(frozen=True)
class Parameter:
    """One leaf of the run config. `path` is its position there; `default` is None if it has none."""

    name: str
    path: tuple[str, ...]
    type: ParameterType
    default: Any
    required: bool
    description: str


@dataclass(frozen=True)
class Asset:
    """One asset. `key` is its `a/b` form; `artifact_type` is None for an asset without a value."""

    key: str
    artifact_type: str | None
    code_version: str | None
    group: str | None
    description: str
    kinds: tuple[str, ...]
    owners: tuple[str, ...]
    tags: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Check:
    """One asset check. `blocking`: its failure (severity ERROR) stops everything downstream."""

    asset: str
    name: str
    blocking: bool
    description: str

    def __str__(self) -> str:
        return f"{self.asset}:{self.name}"


@dataclass(frozen=True)
class Retry:
    """Retries of a task; `delay` in whole seconds; `factor` 1 for a constant delay, 2 for an exponential one."""

    count: int
    delay: int
    factor: float


@dataclass(frozen=True)
class Pod:
    """Settings of a task's pod; secrets by reference only. Sequences are sorted, so equal settings compare equal."""

    cpu_request: str | None = None
    cpu_limit: str | None = None
    memory_request: str | None = None
    memory_limit: str | None = None
    accelerator_type: str | None = None
    accelerator_count: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    secret_env: tuple[tuple[str, str, str, bool], ...] = ()
    """(variable, secret, key, optional)"""
    config_map_env: tuple[tuple[str, str, str, bool], ...] = ()
    field_env: tuple[tuple[str, str], ...] = ()
    pvc_mounts: tuple[tuple[str, str, str], ...] = ()
    """(claim, mount path, sub path)"""
    secret_mounts: tuple[tuple[str, str, bool], ...] = ()
    config_map_mounts: tuple[tuple[str, str, bool], ...] = ()
    empty_dirs: tuple[tuple[str, str, str, str], ...] = ()
    """(volume, mount path, medium, size limit)"""
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[tuple[str, str, str, str, int | None], ...] = ()
    """(key, operator, value, effect, seconds)"""
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    image_pull_policy: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    timeout_seconds: int | None = None

    @property
    def environment(self) -> str | None:
        """Digest of the variables and of the references to mounted secrets and config maps; None without any.

        KFP's cache key does not include them, although they may change a result. The content of a secret or
        config map is not part of the digest.
        """
        settings = (
            self.env,
            self.secret_env,
            self.config_map_env,
            self.secret_mounts,
            self.config_map_mounts,
        )
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12] if any(settings) else None


@dataclass(frozen=True)
class Step:
    """One task: the assets that one op (or graph) makes and the checks it runs.

    `inputs` are asset keys whose artifacts the task takes; `after` are names of steps it only waits for.
    """

    name: str
    assets: tuple[Asset, ...]
    checks: tuple[Check, ...]
    inputs: tuple[str, ...]
    after: tuple[str, ...]
    parameters: tuple[str, ...]
    retry: Retry | None
    pod: Pod
    cache: bool


@dataclass(frozen=True)
class ImportedAsset:
    """An asset outside the selection whose last materialization is used: `record` is that materialization."""

    key: str
    artifact_type: str
    uri: str
    record: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Schedule:
    """A schedule of the job; `parameters` override the pipeline's defaults."""

    name: str
    cron: tuple[str, ...]
    timezone: str
    running: bool
    parameters: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class MappingRow:
    """One row of the mapping report: the KFP counterpart of something in Dagster, or why there is none."""

    subject: str
    field: str
    becomes: str
    outcome: Outcome = "mapped"


@dataclass(frozen=True)
class PipelineGraph:
    """Everything of a Dagster job that the exported pipeline must reproduce."""

    name: str
    job: str | None
    select: str | None
    description: str
    source: CodeLocation
    steps: tuple[Step, ...]
    imports: tuple[ImportedAsset, ...]
    parameters: tuple[Parameter, ...]
    partitioned: bool
    schedules: tuple[Schedule, ...]
    service_account: str | None
    report: tuple[MappingRow, ...]

    @property
    def unmapped(self) -> tuple[MappingRow, ...]:
        """Rows that stop a strict export."""
        return tuple(row for row in self.report if row.outcome == "unmapped")
