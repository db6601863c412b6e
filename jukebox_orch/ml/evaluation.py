"""Evaluates a model, the baselines and the current champion on the same, untouched test split."""

from __future__ import annotations

import numpy as np

from jukebox_orch.contract import Features, Gates, ModelProject, Split
from jukebox_orch.ml import project_calls
from jukebox_orch.ml.artifacts import (
    ChampionScores,
    ComparisonBasis,
    EvaluationReport,
    LoadedVersion,
    Scores,
    StoredFeatures,
    TrainedModel,
)
from jukebox_orch.ml.keras_runtime import UnsafeFileError, predict, project_keras
from jukebox_orch.ml.onnx_predictor import OnnxPredictor


def evaluate(
    project: ModelProject,
    trained: TrainedModel,
    stored: StoredFeatures,
    champion: LoadedVersion | None,
    gates: Gates,
    *,
    chosen: bool = False,
) -> tuple[EvaluationReport, np.ndarray]:
    """Score the model, its slices, the baselines and the champion.

    Args:
        champion: the version to compare with, the current champion or a base that the run names.
        gates: thresholds for the scores; stored in the report.
        chosen: whether the run names `champion`; the current champion is compared only on the same basis.

    Returns:
        The report and the model's predictions (n, outputs) on the test split.
    """
    features, task = stored.features, project.task
    test = features.test
    with project_keras(project, seed=0):
        prediction = predict(trained.keras_model, features.arrays(test))
    name, baseline = task.baseline(features.train, test)
    baselines = {name: baseline, **project_calls.baselines(project, features, name)}
    champion_scores, problem = score_champion(project, features, champion)
    basis = ComparisonBasis(
        dataset_name=stored.origin.name if stored.origin else "",
        split_kind=stored.split_kind,
        primary_metric=task.primary,
    )
    if champion and not problem and not chosen:
        problem = basis_problem(basis, champion)
    baseline_scores = [_scores(project, label, test, predicted) for label, predicted in baselines.items()]
    reference = (champion_scores or baseline_scores[0]).metrics[task.primary]
    report = EvaluationReport(
        task=task.kind,
        primary_metric=task.primary,
        higher_is_better=task.higher_is_better,
        metric_floor=gates.metric_floor,
        champion_tolerance=task.tolerance(gates, reference),
        model_digest=trained.report.model_digest,
        features_digest=stored.digest,
        dataset_digest=stored.dataset_digest,
        test=_scores(project, "model", test, prediction),
        slices=[
            _scores(project, label, _subset(test, mask), prediction[mask])
            for label, mask in test.slices.items()
            if mask.any()
        ],
        baselines=baseline_scores,
        champion=champion_scores,
        champion_problem=problem,
        collapsed=task.collapsed(test, prediction, features.labels),
        details=task.details(test, prediction, features.labels),
        basis=basis,
    )
    return report, prediction


def basis_problem(basis: ComparisonBasis, champion: LoadedVersion) -> str:
    """Return why only a person may replace the champion by a model of this basis; empty if they can be compared."""
    if champion.basis is None:
        return (
            f"champion version {champion.version} was registered without the name of its dataset, "
            "so a comparison may be unfair"
        )
    if difference := champion.basis.difference(basis):
        return f"unlike champion version {champion.version}, this model has {difference}"
    return ""


def score_champion(
    project: ModelProject, features: Features, champion: LoadedVersion | None
) -> tuple[ChampionScores | None, str]:
    """Return the champion's metrics on this test split, or the reason why it cannot be compared."""
    if champion is None:
        return None, ""
    if champion.problem:
        return None, champion.problem
    try:
        predictor = OnnxPredictor(champion.content)
    except (UnsafeFileError, ValueError) as error:
        return None, f"version {champion.version}: {error}"
    if difference := _interface_difference(predictor, features):
        return None, f"version {champion.version} {difference}"
    prediction = predictor.predict(features.raw(features.test))
    if features.labels:
        prediction = prediction[:, [predictor.labels.index(label) for label in features.labels]]
    metrics = project.task.score(features.test, prediction)
    scores = ChampionScores(
        model_name=champion.model_name, version=champion.version, sha256=champion.sha256, metrics=metrics
    )
    return scores, ""


def _interface_difference(predictor: OnnxPredictor, features: Features) -> str:
    """Return how the file's inputs or labels differ from those of the features; empty if they are the same."""
    raw = features.raw(features.test, slice(1))
    if set(predictor.inputs) != set(raw):
        return f"has different inputs: {', '.join(predictor.inputs)}"
    for given in predictor.session.get_inputs():
        if tuple(given.shape[1:]) != raw[given.name].shape[1:]:
            return f"has inputs of a different shape: {given.name} {given.shape}"
        if predictor.dtypes[given.name] != raw[given.name].dtype:
            return f"has inputs of a different type: {given.name} {given.type}"
    if sorted(predictor.labels) != sorted(features.labels):
        return f"has different labels: {', '.join(predictor.labels)}"
    return ""


def _scores(project: ModelProject, name: str, split: Split, prediction: np.ndarray) -> Scores:
    metrics = project.task.score(split, prediction)
    return Scores(name=name, rows=round(float(split.weight.sum())), metrics=metrics)


def _subset(split: Split, mask: np.ndarray) -> Split:
    # Scores need no inputs.
    return Split({}, split.y[mask], split.weight[mask], split.keys)
