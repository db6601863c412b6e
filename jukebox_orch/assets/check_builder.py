"""Checks of an asset. One declaration gives both the check's spec and its result, so they cannot differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from jukebox_orch.assets.metadata import json_safe
from jukebox_orch.contract import InputError, ModelProject


@dataclass(frozen=True)
class Outcome:
    """Result of a check.

    Attributes:
        value: the measured value.
        threshold: the required value.
        text: one sentence about both, shown to the user.
        metadata: additional metadata of the check result.
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
        name: name of the check within its asset.
        description: what it requires.
        evaluate: (project, value) -> outcome.
        blocking: True: a failure stops everything downstream. False: a failure is a warning.
    """

    name: str
    description: str
    evaluate: Callable[[ModelProject, Any], Outcome]
    blocking: bool = True


def check_results(project: ModelProject, checks: Sequence[Check], value: Any) -> list[dg.AssetCheckResult]:
    """Return the result of every check on the value."""
    return [check_result(check, check.evaluate(project, value)) for check in checks]


def check_result(check: Check, outcome: Outcome) -> dg.AssetCheckResult:
    """Return the outcome as a check result, with the check's name and severity."""
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
    """Return the results that stop a run."""
    return [r for r in results if not r.passed and r.severity == dg.AssetCheckSeverity.ERROR]


def refuse_unless_passed(
    asset_name: str, project: ModelProject, checks: Sequence[Check], value: Any, remedy: str
) -> None:
    """Raise if the value fails a blocking check. A failed check stops only its own run, not a later one.

    Raises:
        InputError: with the asset, its failed checks and what to do.
    """
    failed = failed_blocking(check_results(project, [check for check in checks if check.blocking], value))
    if failed:
        reasons = "; ".join(f"{result.check_name}: {result.description}" for result in failed)
        raise InputError(f"{asset_name} did not pass its checks ({reasons}): {remedy}")
