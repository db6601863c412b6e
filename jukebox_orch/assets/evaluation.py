"""`evaluation`: good enough, and not worse than the champion? Runs beside the ONNX conversion."""

import math
import re
from typing import TYPE_CHECKING, Any

import dagster as dg

from jukebox_orch.assets.metadata import image, records, refuse_failed, verdict
from jukebox_orch.assets.trained_model import training_checks
from jukebox_orch.assets.training_graph import Check, Graph
from jukebox_orch.contract.project import InputError
from jukebox_orch.ml.artifacts import EvaluationReport, FeatureSet, TrainedModel
from jukebox_orch.registry.mlflow_resource import MlflowTracking
from jukebox_orch.storage.model_store import ModelStore

if TYPE_CHECKING:
    import numpy as np

NOUN = "evaluation"
_WORST_CLASSES = 10


def evaluation_asset(graph: Graph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""

    @graph.asset(
        NOUN,
        kinds={"scikitlearn", "json"},
        artifact_type="Artifact",
        description="Metrics on the untouched test split, beside simple baselines and the current champion.",
        upstream=["trained_model", "features"],
        cacheable=False,
        checks=[
            Check("metric_floor", f"Test {graph.project.task.primary} reaches the configured floor."),
            Check(
                "not_worse_than_champion",
                "As good, within the tolerance, as the champion or the base that the run names, on the same test "
                "split; while there is neither, as the task's baseline.",
            ),
            Check("class_collapse", "No class that occurs is never predicted.", blocking=False),
        ],
    )
    def evaluation(
        context: dg.AssetExecutionContext,
        trained_model: TrainedModel,
        features: FeatureSet,
        mlflow: MlflowTracking,
        model_store: ModelStore,
    ):
        from jukebox_orch.ml.evaluation import evaluate
        from jukebox_orch.ml.formats import format_of
        from jukebox_orch.registry import tracking
        from jukebox_orch.registry.registration import base_version, current_champion

        settings = graph.settings(NOUN, context)
        if trained_model.training.features_digest != features.digest:
            raise InputError(
                "trained_model was trained on other features than the latest ones "
                f"({trained_model.training.features_digest[:12]}, {features.digest[:12]}): materialize it again"
            )
        refuse_failed("trained_model", training_checks(graph, trained_model.training), "train it again")
        base = settings.base_model_name
        champion = (
            base_version(mlflow, model_store, base)
            if base
            else current_champion(mlflow, model_store, settings.model_name)
        )
        if base and champion is None:
            raise InputError(
                f"base_model_name = {base!r}: the registry has no such version, or no champion of it"
            )
        report, prediction = evaluate(graph.project, trained_model, features, champion, settings.gates)
        if base and report.champion_problem:
            raise InputError(f"base_model_name = {base!r}: cannot be compared: {report.champion_problem}")
        checks = evaluation_checks(graph, report)
        pictures = _figures(graph, report, features, prediction)
        run_id = mlflow.run_id(context.run, graph.name, {"project": graph.name})
        tracking.log_evaluation(
            mlflow,
            run_id,
            {f"test_{name}": value for name, value in report.test.metrics.items()}
            | {
                f"{_key(scores.name)}_{name}": value
                for scores in [*report.slices, *report.baselines]
                for name, value in scores.metrics.items()
            },
            {"evaluation": report.model_dump(mode="json")},
            pictures,
        )
        mlflow.finish(run_id, checks)
        return dg.MaterializeResult(
            value=report,
            data_version=dg.DataVersion(format_of(report).digest(report)),
            metadata={
                **{f"test {name}": value for name, value in report.test.metrics.items()},
                "comparison": records(_comparison(report)),
                "mlflow run": dg.MetadataValue.url(mlflow.url(graph.name, run_id)),
                **{name: image(png, name) for name, png in pictures.items()},
                **_tables(report),
            },
            check_results=checks,
        )

    return evaluation


def evaluation_checks(graph: Graph, report: EvaluationReport) -> list[dg.AssetCheckResult]:
    """The verdict of every check on the evaluation."""
    return [_metric_floor(graph, report), _not_worse_than_champion(graph, report), _class_collapse(report)]


def _metric_floor(graph: Graph, report: EvaluationReport) -> dg.AssetCheckResult:
    floor, value = report.metric_floor, report.test.metrics[report.primary_metric]
    text = f"test {report.primary_metric} {value:.4g}"
    if floor is None:
        text += "; gates.metric_floor sets none"
        return verdict("metric_floor", math.isfinite(value), value, "none", text)
    text += f", must be {'at least' if report.higher_is_better else 'at most'} {floor:.4g}"
    return verdict("metric_floor", graph.project.task.not_worse(value, floor), value, floor, text)


def _not_worse_than_champion(graph: Graph, report: EvaluationReport) -> dg.AssetCheckResult:
    metric, tolerance = report.primary_metric, report.champion_tolerance
    value = report.test.metrics[metric]
    if report.champion_problem:
        text = f"cannot be compared, so the champion will not be replaced: {report.champion_problem}"
        return verdict("not_worse_than_champion", True, value, "no comparison", text, warn=True)
    if report.champion is None:
        reference, label = report.baselines[0].metrics[metric], report.baselines[0].name
        text = f"there is no champion yet; {label} has {reference:.4g}"
    else:
        reference = report.champion.metrics[metric]
        label = f"{report.champion.model_name} version {report.champion.version}"
        text = f"{label} has {reference:.4g} on the same split"
    return verdict(
        "not_worse_than_champion",
        graph.project.task.not_worse(value, reference, tolerance),
        value,
        reference,
        f"test {metric} {value:.4g}; {text}, tolerance {tolerance:.4g}",
        metadata={"compared_with": label, "tolerance": tolerance},
    )


def _class_collapse(report: EvaluationReport) -> dg.AssetCheckResult:
    collapsed = report.collapsed
    text = f"never predicted: {', '.join(collapsed[:10])}" if collapsed else "every class is predicted"
    return verdict("class_collapse", not collapsed, len(collapsed), 0, text, warn=True)


def _comparison(report: EvaluationReport) -> list[dict[str, Any]]:
    rows = [report.test, *report.slices, *report.baselines]
    table = [{"what": scores.name, "rows": scores.rows, **scores.metrics} for scores in rows]
    if report.champion:
        what = f"{report.champion.model_name} version {report.champion.version}"
        table.append({"what": what, "rows": report.test.rows, **report.champion.metrics})
    return table


def _tables(report: EvaluationReport) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    if "per_class" in report.details:
        worst = sorted(report.details["per_class"], key=lambda row: row["f1"])
        tables["weakest classes"] = records(worst[:_WORST_CLASSES])
        tables["confusion_matrix"] = dg.MetadataValue.json(report.details["confusion_matrix"])
    if "residuals" in report.details:
        tables["residuals"] = records(report.details["residuals"])
    return tables


def _figures(
    graph: Graph, report: EvaluationReport, features: FeatureSet, prediction: "np.ndarray"
) -> dict[str, bytes]:
    """Pictures as PNG, rendered once for the event log and for MLflow."""
    from jukebox_orch.assets import figures

    made = dict(graph.project.figures(features.features, prediction))
    if "confusion_matrix" in report.details:
        made["confusion matrix plot"] = figures.confusion_matrix(**report.details["confusion_matrix"])
        made["calibration"] = figures.calibration(report.details["calibration"])
    else:
        made["predictions"] = figures.predictions(features.features.test.y, prediction)
    return {name: figures.png(figure) for name, figure in made.items()}


def _key(name: str) -> str:
    """A metric name that MLflow takes, from the name of a slice or baseline."""
    return re.sub(r"[^\w.-]", "_", name)
