"""Decides whether a version replaces the champion, and moves the aliases on promotion and rollback."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from jukebox_orch.contract import Features, ModelProject
from jukebox_orch.ml.artifacts import EvaluationReport
from jukebox_orch.ml.evaluation import score_champion
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.registry.versions import (
    CHALLENGER,
    CHAMPION,
    RegistrationError,
    aliases_of,
    current_champion,
    find_model,
    verify,
)
from jukebox_orch.storage.model_store import ModelStore

_HISTORY = "champion_history"
_HISTORY_LENGTH = 20


@dataclass(frozen=True)
class Candidate:
    """A registered version that may become champion.

    Attributes:
        evaluation, features: its metrics, and the features they were computed on.
        tolerance: how much worse than the champion its primary metric may be.
    """

    model_name: str
    number: str
    evaluation: EvaluationReport
    features: Features
    tolerance: float


@dataclass(frozen=True)
class PromotionDecision:
    """Whether the candidate becomes champion, and the reason."""

    promote: bool
    reason: str


def decide_promotion(
    project: ModelProject, mlflow: MlflowResource, store: ModelStore, candidate: Candidate
) -> PromotionDecision:
    """Compare the candidate with the current champion on the candidate's test split.

    If the champion has changed since the evaluation, the new champion is scored.
    """
    champion = current_champion(mlflow, store, candidate.model_name)
    if champion is None:
        return PromotionDecision(True, "first version")
    if champion.version == candidate.number:
        return PromotionDecision(True, "is champion already")
    evaluation = candidate.evaluation
    scores, problem = evaluation.champion, evaluation.champion_problem
    if scores is None or (scores.model_name, scores.version) != (candidate.model_name, champion.version):
        scores, problem = score_champion(project, candidate.features, champion)
    if scores is None:
        return PromotionDecision(False, f"it cannot be compared: {problem}")
    metric = evaluation.primary_metric
    ours, theirs = evaluation.test.metrics[metric], scores.metrics[metric]
    return PromotionDecision(
        project.task.not_worse(ours, theirs, candidate.tolerance),
        f"test {metric} {ours:.4f}, champion version {champion.version} {theirs:.4f} on the same split",
    )


def promote(mlflow: MlflowResource, model_name: str, number: str, *, alias: str, by: str, why: str) -> None:
    """Move the aliases `champion` and `alias` to the version, and record who did it and why."""
    client = mlflow.client()
    aliases = aliases_of(client, model_name)
    if aliases.get(CHAMPION) != number:
        entry = {
            "version": number,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "by": by,
            "why": why,
        }
        history = [*champion_history(mlflow, model_name), entry][-_HISTORY_LENGTH:]
        client.set_registered_model_tag(model_name, _HISTORY, json.dumps(history))
        client.set_registered_model_alias(model_name, CHAMPION, number)
    if aliases.get(alias) != number:
        client.set_registered_model_alias(model_name, alias, number)


def rollback(
    mlflow: MlflowResource, store: ModelStore, model_name: str, version: str, *, by: str, why: str
) -> tuple[str | None, str]:
    """Move the champion to `version`; if it is empty, to the previous champion.

    Other aliases of the replaced version, such as `staging` and `production`, move too; `challenger` stays.

    Args:
        by: user and run that move it; a second attempt of the same run continues the first one.

    Returns:
        The previous and the new champion version.

    Raises:
        RegistrationError: the version does not exist, there is no previous champion, or the version's file or
            example prediction cannot be verified.
    """
    client = mlflow.client()
    aliases, history = aliases_of(client, model_name), champion_history(mlflow, model_name)
    replaced = aliases.get(CHAMPION)
    if history and history[-1]["by"] == by:
        version = version or history[-1]["version"]
        replaced = next((e["version"] for e in reversed(history[:-1]) if e["version"] != version), replaced)
    version = version or _champion_before(history, replaced)
    if not version:
        raise RegistrationError(f"{model_name}: no champion before version {replaced}; name a version")
    verify(mlflow, store, model_name, version)
    promote(mlflow, model_name, version, alias=CHAMPION, by=by, why=why)
    for alias, holder in aliases.items():
        if holder == replaced and alias not in (CHAMPION, CHALLENGER):
            client.set_registered_model_alias(model_name, alias, version)
    return replaced, version


def champion_history(mlflow: MlflowResource, model_name: str) -> list[dict[str, str]]:
    """Return which version became champion, when, by whom and why; oldest first, at most 20 entries."""
    found = find_model(mlflow.client(), model_name)
    return json.loads(found.tags.get(_HISTORY, "[]")) if found else []


def _champion_before(history: Sequence[Mapping[str, str]], current: str | None) -> str:
    """Return the last champion before `current` became champion most recently; empty if there is none."""
    indices = [i for i, entry in enumerate(history) if entry["version"] == current]
    before = [e["version"] for e in history[: indices[-1] if indices else None] if e["version"] != current]
    return before[-1] if before else ""
