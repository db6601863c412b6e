"""Decides whether a version replaces the champion, and moves the aliases on promotion and rollback.

A change of champion is written to the registered model's tag `champion_history` before the first alias moves, and
marked as done after the last one. A change that a crash interrupted is finished, or undone if its version can no
longer be verified, before anything else happens to the model's aliases.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from jukebox_orch.contract import Features, Gates, ModelProject
from jukebox_orch.ml.artifacts import EvaluationReport
from jukebox_orch.ml.evaluation import basis_problem, score_champion
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
PROMOTION_TAG = "promotion"
"""Tag of a version: how it became or was champion, or why it stays challenger."""
_HISTORY_LENGTH = 20
_TAG_LENGTH = 5000
"""MLflow refuses longer values of a registered model's tag."""


@dataclass(frozen=True)
class Candidate:
    """A registered version that may become champion.

    Attributes:
        evaluation, features: its metrics, and the features they were computed on.
        gates: how much worse than the champion its primary metric may be.
    """

    model_name: str
    number: str
    evaluation: EvaluationReport
    features: Features
    gates: Gates


@dataclass(frozen=True)
class PromotionDecision:
    """Whether the candidate becomes champion, and the reason."""

    promote: bool
    reason: str


@dataclass(frozen=True)
class ChampionChange:
    """One change of champion, as recorded in the registry.

    Attributes:
        version: the version that became champion.
        at: time in UTC, ISO 8601.
        by: who moved it: user and run.
        why: the reason.
        before: aliases that the change moves -> the version that had it; empty text: none had it.
        rollback: whether it goes back to an earlier champion.
        done: whether all aliases were moved.
    """

    version: str
    at: str
    by: str
    why: str
    before: dict[str, str]
    rollback: bool = False
    done: bool = True

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> ChampionChange:
        """Read an entry of the history. Those of older versions have neither `before`, `rollback` nor `done`."""
        fields: dict[str, Any] = {"before": {}, **entry}
        return cls(**fields)


def decide_promotion(
    project: ModelProject, mlflow: MlflowResource, store: ModelStore, candidate: Candidate
) -> PromotionDecision:
    """Compare the candidate with the current champion on the candidate's test split.

    Only a champion of the same dataset name, split kind and primary metric is replaced. If the champion has changed
    since the evaluation, the new champion is scored.
    """
    champion = current_champion(mlflow, store, candidate.model_name)
    if champion is None:
        return PromotionDecision(True, "first version")
    evaluation = candidate.evaluation
    if champion.version == candidate.number:
        difference = evaluation.basis and champion.basis and champion.basis.difference(evaluation.basis)
        kept = f"; it keeps what it was registered with, this run has {difference}" if difference else ""
        return PromotionDecision(True, f"is champion already{kept}")
    if evaluation.basis is None:
        return PromotionDecision(False, "the evaluation records no dataset name: materialize it again")
    if problem := basis_problem(evaluation.basis, champion):
        return PromotionDecision(False, problem)
    scores, problem = evaluation.champion, evaluation.champion_problem
    if scores is None or (scores.model_name, scores.version) != (candidate.model_name, champion.version):
        scores, problem = score_champion(project, candidate.features, champion)
    if scores is None:
        return PromotionDecision(False, f"it cannot be compared: {problem}")
    metric = evaluation.primary_metric
    ours, theirs = evaluation.test.metrics[metric], scores.metrics[metric]
    tolerance = project.task.tolerance(candidate.gates, theirs)
    better = project.task.not_worse(ours, theirs, tolerance)
    return PromotionDecision(
        better,
        f"test {metric} {ours:.4f}, champion version {champion.version} has {theirs:.4f} on the same split"
        + ("" if better else f", tolerance {tolerance:.4g}"),
    )


def promote(
    mlflow: MlflowResource,
    model_name: str,
    number: str,
    *,
    aliases: Sequence[str] = (),
    by: str,
    why: str,
    rollback: bool = False,
) -> ChampionChange | None:
    """Move `champion` and the other aliases to the version, and record who did it and why.

    The caller holds the model's lock, verified the version and finished an interrupted change.

    Returns:
        The change; None if the version is champion already.
    """
    client = mlflow.client()
    held = aliases_of(client, model_name)
    moved = {a: held.get(a, "") for a in dict.fromkeys([CHAMPION, *aliases]) if held.get(a) != number}
    if CHAMPION not in moved:
        for alias in moved:
            client.set_registered_model_alias(model_name, alias, number)
        return None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    change = ChampionChange(number, now, by, why, moved, rollback, done=False)
    history = champion_history(mlflow, model_name)
    _write(mlflow, model_name, [*history, change])
    return _finish(mlflow, model_name, history, change)


def finish_interrupted(mlflow: MlflowResource, store: ModelStore, model_name: str) -> ChampionChange | None:
    """Finish a change of champion that was interrupted between its aliases; undo it if its version does not verify.

    Returns:
        The change, with `done`, or without if it was undone; None if no change was interrupted.
    """
    history = champion_history(mlflow, model_name)
    if not history or history[-1].done:
        return None
    *earlier, change = history
    try:
        verify(mlflow, store, model_name, change.version)
    except RegistrationError:
        client = mlflow.client()
        held = aliases_of(client, model_name)
        for alias, number in change.before.items():
            if number and held.get(alias) != number:
                client.set_registered_model_alias(model_name, alias, number)
            elif not number and alias in held:
                client.delete_registered_model_alias(model_name, alias)
        _write(mlflow, model_name, earlier)
        return change
    return _finish(mlflow, model_name, earlier, change)


def move_champion(
    mlflow: MlflowResource, store: ModelStore, model_name: str, version: str, *, by: str, why: str
) -> ChampionChange:
    """Make a version champion, whatever it was trained and judged on.

    Other aliases of the replaced version, such as `staging` and `production`, move too; `challenger` stays.

    Args:
        version: its number; empty: the champion before the current one.
        by: user and run that move it; a second attempt of the same run changes nothing.

    Raises:
        RegistrationError: the version does not exist, is champion already or cannot be verified, or there is no
            previous champion.
    """
    interrupted = finish_interrupted(mlflow, store, model_name)
    history = champion_history(mlflow, model_name)
    if history and history[-1].by == by:
        return history[-1]
    if not version and interrupted and interrupted.rollback and interrupted.done:
        return interrupted  # who repeats an interrupted rollback means that one, not the version before it
    aliases = aliases_of(mlflow.client(), model_name)
    replaced = aliases.get(CHAMPION, "")
    rollback, version = not version, version or _champion_before(history, replaced)
    if not version:
        raise RegistrationError(
            f"{model_name}: no champion before version {replaced or 'none'}: promote a version that you name"
        )
    verify(mlflow, store, model_name, version)
    others = [a for a, holder in aliases.items() if holder == replaced and a not in (CHAMPION, CHALLENGER)]
    change = promote(mlflow, model_name, version, aliases=others, by=by, why=why, rollback=rollback)
    if change is None:
        raise RegistrationError(f"{model_name}: version {version} is champion already: nothing to do")
    return change


def champion_history(mlflow: MlflowResource, model_name: str) -> list[ChampionChange]:
    """Return the changes of champion, oldest first, at most 20."""
    found = find_model(mlflow.client(), model_name)
    entries = json.loads(found.tags.get(_HISTORY, "[]")) if found else []
    return [ChampionChange.parse(entry) for entry in entries]


def _finish(
    mlflow: MlflowResource, model_name: str, earlier: Sequence[ChampionChange], change: ChampionChange
) -> ChampionChange:
    client = mlflow.client()
    for alias in change.before:
        client.set_registered_model_alias(model_name, alias, change.version)
    how = "by a rollback" if change.rollback else "by a promotion"
    client.set_model_version_tag(
        model_name, change.version, PROMOTION_TAG, f"became champion: {change.why} ({change.by}, {change.at})"
    )
    if replaced := change.before.get(CHAMPION):
        text = f"was champion until version {change.version} replaced it {how} ({change.by}, {change.at})"
        client.set_model_version_tag(model_name, replaced, PROMOTION_TAG, text)
    done = replace(change, done=True)
    _write(mlflow, model_name, [*earlier, done])
    return done


def _write(mlflow: MlflowResource, model_name: str, history: Sequence[ChampionChange]) -> None:
    """Write the newest entries that the tag can hold."""
    entries = [vars(change) for change in history[-_HISTORY_LENGTH:]]
    # Not as ASCII: one long reason in another script would fill the tag, and the change itself would be dropped.
    while len(text := json.dumps(entries, ensure_ascii=False)) > _TAG_LENGTH:
        entries.pop(0)
    mlflow.client().set_registered_model_tag(model_name, _HISTORY, text)


def _champion_before(history: Sequence[ChampionChange], current: str) -> str:
    """Return the champion to go back to; empty if there is none. A second rollback goes further back."""
    champions: list[str] = []
    for change in history:
        if change.rollback and change.version in champions:
            del champions[champions.index(change.version) :]
        champions.append(change.version)
    return next((version for version in reversed(champions) if version != current), "")
