"""Checks of an asset: one declaration gives the check's spec and its result, so that the two cannot differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from jukebox_orch.assets.metadata import json_safe
from jukebox_orch.contract import InputError, ModelProject


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        value: what was measured; threshold: what it had to be.
        text: one sentence about both, for a person.
        metadata: more to show beside the result.
    """

    passed: bool
    value: Any
    threshold: Any
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """A check of an asset.

    Attributes:
        name: of the check, below its asset.
        description: what it demands.
        judge: (project, value) -> outcome.
        blocking: whether its failure stops everything downstream; otherwise it warns.
    """

    name: str
    description: str
    judge: Callable[[ModelProject, Any], Outcome]
    blocking: bool = True


def check_results(project: ModelProject, checks: Sequence[Check], value: Any) -> list[dg.AssetCheckResult]:
    """The result of every check on the value."""
    return [check_result(check, check.judge(project, value)) for check in checks]


def check_result(check: Check, outcome: Outcome) -> dg.AssetCheckResult:
    """The outcome with the name and the severity of its check."""
    return dg.AssetCheckResult(
        passed=bool(outcome.passed),
        check_name=check.name,
        severity=dg.AssetCheckSeverity.ERROR if check.blocking else dg.AssetCheckSeverity.WARN,
        description=outcome.text,
        metadata={
            "value": json_safe(outcome.value),
            "threshold": json_safe(outcome.threshold),
            **outcome.metadata,
        },
    )


def failed_blocking(results: Sequence[dg.AssetCheckResult]) -> list[dg.AssetCheckResult]:
    """The results that stop a run."""
    return [r for r in results if not r.passed and r.severity == dg.AssetCheckSeverity.ERROR]


def refuse_unless_passed(
    asset_name: str, project: ModelProject, checks: Sequence[Check], value: Any, remedy: str
) -> None:
    """Refuse a value that fails a blocking check: a failed check stops its own run only, a later run starts after it.

    Raises:
        InputError: naming the asset, its failed checks and what to do.
    """
    failed = failed_blocking(check_results(project, [check for check in checks if check.blocking], value))
    if failed:
        reasons = "; ".join(f"{result.check_name}: {result.description}" for result in failed)
        raise InputError(f"{asset_name} did not pass its checks ({reasons}): {remedy}")
