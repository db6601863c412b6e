"""`evaluation`: the model compared with its floor, baselines and the champion. Runs in parallel with `onnx_model`."""

import math
import re
from typing import TYPE_CHECKING, Any

import dagster as dg

from jukebox_orch.assets import features as features_module
from jukebox_orch.assets import trained_model as training_module
from jukebox_orch.assets.check_builder import (
    Check,
    Outcome,
    check_results,
    refuse_unless_passed,
)
from jukebox_orch.assets.metadata import image, table
from jukebox_orch.assets.mlflow_run import mlflow_run
from jukebox_orch.assets.run_config import refuse_other_kind
from jukebox_orch.assets.training_graph import AssetNode, TrainingGraph
from jukebox_orch.contract import InputError, ModelProject
from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.ml.artifacts import EvaluationReport, LoadedVersion, StoredFeatures, TrainedModel
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.storage.model_store import ModelStore

if TYPE_CHECKING:
    import numpy as np

NODE = AssetNode(
    name="evaluation",
    description="Metrics on the untouched test split, compared with simple baselines and the current champion.",
    kinds=frozenset({"scikitlearn", "json"}),
    artifact_type="Artifact",
    inputs=("trained_model", "features"),
    settings=("gates", "model_name", "base_model_name"),
    tracked=True,
)
_ILLEGAL_IN_MLFLOW = re.compile(r"[^\w.-]")


def _metric_floor(project: ModelProject, report: EvaluationReport) -> Outcome:
    floor, value = report.metric_floor, report.test.metrics[report.primary_metric]
    text = f"test {report.primary_metric} {value:.4g}"
    if floor is None:
        return Outcome(math.isfinite(value), value, "none", f"{text}; gates.metric_floor is not set")
    text += f", must be {'at least' if report.higher_is_better else 'at most'} {floor:.4g}"
    return Outcome(project.task.not_worse(value, floor), value, floor, text)


def _not_worse_than_champion(project: ModelProject, report: EvaluationReport) -> Outcome:
    metric, tolerance = report.primary_metric, report.champion_tolerance
    value = report.test.metrics[metric]
    if report.champion_problem:
        text = f"not compared, so the new version stays challenger: {report.champion_problem}"
        return Outcome(True, value, "no comparison", text)
    if report.champion is None:
        reference, label = report.baselines[0].metrics[metric], report.baselines[0].name
        text = f"there is no champion yet; {label} has {reference:.4g}"
    else:
        reference = report.champion.metrics[metric]
        label = f"{report.champion.model_name} version {report.champion.version}"
        text = f"{label} has {reference:.4g} on the same split"
    return Outcome(
        project.task.not_worse(value, reference, tolerance),
        value,
        reference,
        f"test {metric} {value:.4g}; {text}, tolerance {tolerance:.4g}",
        {"compared_with": label, "tolerance": tolerance},
    )


def _variety(project: ModelProject, report: EvaluationReport) -> Outcome:
    collapsed = report.collapsed
    text = f"never predicted: {', '.join(collapsed[:10])}" if collapsed else project.task.variety.passed
    return Outcome(not collapsed, len(collapsed), 0, text)


_CHECKS = (
    Check("metric_floor", "The primary metric on the test split reaches gates.metric_floor.", _metric_floor),
    Check(
        "not_worse_than_champion",
        "On the same test split, at most the tolerance worse than the champion or the base that the run names; "
        "without either, than the task's baseline.",
        _not_worse_than_champion,
    ),
)


def checks(project: ModelProject) -> tuple[Check, ...]:
    """Return the checks of the project's evaluation; the last has the words of its task."""
    words = project.task.variety
    return (*_CHECKS, Check(words.name, words.requires, _variety, blocking=False))


def evaluation_asset(graph: TrainingGraph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""
    project = graph.project

    rules = checks(project)

    @graph.asset(NODE, rules)
    def evaluation(
        context: dg.AssetExecutionContext,
        trained_model: TrainedModel,
        features: StoredFeatures,
        mlflow: MlflowResource,
        model_store: ModelStore,
        code: dg.ResourceParam[DeployedCode],
    ):
        from jukebox_orch.ml.artifact_formats import format_of
        from jukebox_orch.ml.evaluation import evaluate
        from jukebox_orch.registry import tracking

        settings = graph.settings(NODE, context)
        training_module.refuse_other_features(trained_model, features)
        refuse_unless_passed(
            "trained_model", project, training_module.CHECKS, trained_model.report, "train it again"
        )
        origin = features_module.origin_of_features(features)
        name = graph.model_name(settings, origin.sample)
        if settings.base_model_name:
            refuse_other_kind("base_model_name", settings.base_model_name, origin.sample)
        champion = _champion_or_base(mlflow, model_store, name, settings.base_model_name)
        report, prediction = evaluate(
            project,
            trained_model,
            features,
            champion,
            settings.gates,
            chosen=bool(settings.base_model_name),
        )
        if settings.base_model_name and report.champion_problem:
            raise InputError(
                f"base_model_name = {settings.base_model_name!r}: cannot be compared: {report.champion_problem}"
            )
        results = check_results(project, rules, report)
        plots = _figures(project, report, features, prediction)
        run_id = mlflow_run(context, mlflow, graph.name, (origin, features.dataset_digest), code)
        tracking.log_evaluation(
            mlflow, run_id, _metrics(report), {"evaluation": report.model_dump(mode="json")}, plots
        )
        return dg.MaterializeResult(
            value=report,
            data_version=dg.DataVersion(format_of(report).digest(report)),
            metadata={
                **{f"test {name}": value for name, value in report.test.metrics.items()},
                "comparison": table(_comparison(report)),
                "mlflow run": dg.MetadataValue.url(mlflow.url(graph.name, run_id)),
                **{name: image(png, name) for name, png in plots.items()},
                **_tables(project, report),
            },
            check_results=results,
        )

    return evaluation


def _champion_or_base(
    mlflow: MlflowResource, store: ModelStore, model_name: str, base: str
) -> LoadedVersion | None:
    """Return the version to compare with: the base that the run names, else the current champion."""
    from jukebox_orch.registry.versions import base_version, current_champion

    if not base:
        return current_champion(mlflow, store, model_name)
    found = base_version(mlflow, store, base)
    if found is None:
        raise InputError(
            f"base_model_name = {base!r}: the registry has no such version, or the model has no champion"
        )
    return found


def _metrics(report: EvaluationReport) -> dict[str, float]:
    """Return all scores by their names in MLflow."""
    test = {f"test_{name}": value for name, value in report.test.metrics.items()}
    return test | {
        f"{_ILLEGAL_IN_MLFLOW.sub('_', scores.name)}_{name}": value
        for scores in [*report.slices, *report.baselines]
        for name, value in scores.metrics.items()
    }


def _comparison(report: EvaluationReport) -> list[dict[str, Any]]:
    rows = [
        {"what": scores.name, "rows": scores.rows, **scores.metrics}
        for scores in [report.test, *report.slices, *report.baselines]
    ]
    if report.champion:
        what = f"{report.champion.model_name} version {report.champion.version}"
        rows.append({"what": what, "rows": report.test.rows, **report.champion.metrics})
    return rows


def _tables(project: ModelProject, report: EvaluationReport) -> dict[str, Any]:
    tables: dict[str, Any] = {name: table(rows) for name, rows in project.task.tables(report.details).items()}
    matrices = {name: value for name, value in report.details.items() if isinstance(value, dict)}
    return tables | {name: dg.MetadataValue.json(value) for name, value in matrices.items()}


def _figures(
    project: ModelProject, report: EvaluationReport, features: StoredFeatures, prediction: "np.ndarray"
) -> dict[str, bytes]:
    """Return the figures as PNG, rendered once for both the event log and MLflow."""
    from jukebox_orch.assets import figures
    from jukebox_orch.ml import project_calls

    plots = project_calls.figures(project, features.features, prediction)
    plots |= project.task.figures(features.features.test, prediction, report.details)
    return {name: figures.png(figure) for name, figure in plots.items()}
