"""Dagster's retry policies as KFP's retries, and what KFP cannot express of them."""

import math
from typing import Any

import dagster as dg

from kfp_bridge.names import task_name
from kfp_bridge.pipeline_graph import MappingRow, Retry

_RETRY_SECONDS = 3600
"""KFP starts no attempt later than this after the first one started, and ends one that is still running then."""


def read_retry(job: dg.JobDefinition, node: Any) -> tuple[Retry | None, list[MappingRow]]:
    """Return the retries of a node's task, None without a policy, with the report rows."""
    subject = f"task {task_name(node.name)}"
    policies = {op.retry_policy or job.op_retry_policy for op in op_definitions(node.definition)}
    if node.retry_policy:
        policies = {node.retry_policy}
    if len(policies) > 1:
        return None, [_unmapped(subject, "ops of one graph have different policies")]
    (policy,) = policies
    if policy is None:
        return None, []
    rows = []
    if policy.backoff is dg.Backoff.LINEAR or policy.jitter is not None:
        what = "linear backoff" if policy.backoff is dg.Backoff.LINEAR else "jitter"
        rows.append(_unmapped(subject, f"KFP has no {what}"))
    factor = 2.0 if policy.backoff is dg.Backoff.EXPONENTIAL else 1.0
    retry = Retry(policy.max_retries, math.ceil(policy.delay or 0), factor)  # KFP counts whole seconds
    if sum(retry.delay * factor**tried for tried in range(retry.count)) > _RETRY_SECONDS:
        reason = "its delays add up to more than the hour that KFP allows all attempts after the first"
        rows.append(_unmapped(subject, reason))
    becomes = f"{retry.count} retries, first after {retry.delay} s, factor {retry.factor}"
    return retry, [*rows, MappingRow(subject, "RetryPolicy", becomes)]


def op_definitions(definition: Any) -> list[dg.OpDefinition]:
    """Return the op itself, or every op of a graph."""
    if isinstance(definition, dg.OpDefinition):
        return [definition]
    return [op for inner in definition.node_defs for op in op_definitions(inner)]


def _unmapped(subject: str, reason: str) -> MappingRow:
    return MappingRow(subject, "RetryPolicy", reason, "unmapped")
