"""Decides whether a version replaces the champion, and moves the aliases `champion` and stage there and back."""

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
        evaluation, features: its metrics, and the features that they were computed on.
        tolerance: how much worse than the champion still passes.
    """

    model_name: str
    number: str
    evaluation: EvaluationReport
    features: Features
    tolerance: float


@dataclass(frozen=True)
class PromotionDecision:
    """Whether the candidate becomes champion, and why or why not."""

    promote: bool
    reason: str


def decide_promotion(
    project: ModelProject, mlflow: MlflowResource, store: ModelStore, candidate: Candidate
) -> PromotionDecision:
    """Compare the candidate with the champion of this moment on the candidate's test split.

    The champion may have changed since the evaluation: then it is scored again.
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
    """Move `champion` and the stage's alias to the version, and record who did it and why."""
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
    """Move the champion to `version`, or to the one before the current one when empty.

    The other aliases of the version that is left, such as `staging` and `production`, move along; `challenger` stays.

    Args:
        by: who moves it, and by which run: a second attempt of the same run goes on with what the first began.

    Returns:
        The version that was champion, and the one that is now.

    Raises:
        RegistrationError: no such version, none before, or its file or example prediction do not verify.
    """
    client = mlflow.client()
    aliases, history = aliases_of(client, model_name), champion_history(mlflow, model_name)
    left = aliases.get(CHAMPION)
    if history and history[-1]["by"] == by:
        version = version or history[-1]["version"]
        left = next((e["version"] for e in reversed(history[:-1]) if e["version"] != version), left)
    version = version or _champion_before(history, left)
    if not version:
        raise RegistrationError(f"{model_name}: no champion before version {left}; name a version")
    verify(mlflow, store, model_name, version)
    promote(mlflow, model_name, version, alias=CHAMPION, by=by, why=why)
    for alias, holder in aliases.items():
        if holder == left and alias not in (CHAMPION, CHALLENGER):
            client.set_registered_model_alias(model_name, alias, version)
    return left, version


def champion_history(mlflow: MlflowResource, model_name: str) -> list[dict[str, str]]:
    """Which version became champion, when, by which run and why; oldest first, at most 20 entries."""
    found = find_model(mlflow.client(), model_name)
    return json.loads(found.tags.get(_HISTORY, "[]")) if found else []


def _champion_before(history: Sequence[Mapping[str, str]], current: str | None) -> str:
    """The champion before `current` was it for the last time; empty when there is none."""
    times = [i for i, entry in enumerate(history) if entry["version"] == current]
    before = [e["version"] for e in history[: times[-1] if times else None] if e["version"] != current]
    return before[-1] if before else ""
