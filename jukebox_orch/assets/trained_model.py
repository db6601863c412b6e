"""`trained_model`: the Keras model. Runs only after `features` and `validated_data` passed their blocking checks."""

import math

import dagster as dg

from jukebox_orch.assets import features as features_module
from jukebox_orch.assets import validated_data as validation_module
from jukebox_orch.assets.check_builder import (
    Check,
    Outcome,
    check_results,
    refuse_unless_passed,
)
from jukebox_orch.assets.metadata import image, json_safe
from jukebox_orch.assets.mlflow_run import mlflow_run
from jukebox_orch.assets.training_graph import AssetNode, StepResources, TrainingGraph
from jukebox_orch.contract import InputError, ModelProject
from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.ml.artifacts import StoredFeatures, TrainedModel, TrainingReport, ValidationReport
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.storage.artifact_store import ArtifactStore

NODE = AssetNode(
    name="trained_model",
    description="Keras model from raw inputs to outputs, including normalization, with its training history.",
    kinds=frozenset({"keras", "tensorflow"}),
    artifact_type="Model",
    inputs=("features", "validated_data"),
    settings=("hyperparameters", "seed"),
    resources=StepResources(cpu="1", memory="2Gi"),
    reuse=True,
    tracked=True,
)
# Relative to the larger of the two metrics; with a larger gap the model has memorised the training rows.
_OVERFITTING_GAP = 0.25


def _finite_loss(project: ModelProject, report: TrainingReport) -> Outcome:
    losses = {name: values for name, values in report.history.items() if name.endswith("loss")}
    bad = [
        f"{name} of epoch {epoch + 1} is {value}"
        for name, values in losses.items()
        for epoch, value in enumerate(values)
        if not math.isfinite(value)
    ]
    last = report.history["loss"][-1]
    return Outcome(not bad, last, "finite", "; ".join(bad[:3]) or f"last loss {last:.4g}")


def _beats_baseline(project: ModelProject, report: TrainingReport) -> Outcome:
    metric = project.task.primary
    value, baseline = report.validation[metric], report.baseline[metric]
    return Outcome(
        project.task.not_worse(value, baseline) and value != baseline,
        value,
        baseline,
        f"validation {metric} {value:.4g}, {report.baseline_name} has {baseline:.4g}",
    )


def _overfitting(project: ModelProject, report: TrainingReport) -> Outcome:
    metric = project.task.primary
    train, validation = report.train[metric], report.validation[metric]
    gap = abs(train - validation) / max(abs(train), abs(validation), 1e-12)
    better_on_train = project.task.not_worse(train, validation)
    return Outcome(
        not (better_on_train and gap > _OVERFITTING_GAP),
        gap,
        _OVERFITTING_GAP,
        f"{metric} {train:.4g} on train, {validation:.4g} on validation: {gap:.0%} apart",
    )


CHECKS = (
    Check("finite_loss", "Training and validation loss are finite in every epoch.", _finite_loss),
    Check(
        "beats_baseline",
        "Better on the validation split than a rule that ignores the inputs.",
        _beats_baseline,
    ),
    Check("overfitting", "Train and validation metric are close.", _overfitting, blocking=False),
)


def trained_model_asset(graph: TrainingGraph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""
    project = graph.project

    @graph.asset(NODE, CHECKS)
    def trained_model(
        context: dg.AssetExecutionContext,
        features: StoredFeatures,
        validated_data: ValidationReport,
        artifact_store: dg.ResourceParam[ArtifactStore],
        mlflow: MlflowResource,
        code: dg.ResourceParam[DeployedCode],
    ):
        from jukebox_orch.assets import figures
        from jukebox_orch.ml.training import train
        from jukebox_orch.registry import tracking

        settings = graph.settings(NODE, context)
        _refuse_unusable(project, features, validated_data)
        origin = features_module.origin_of_features(features)
        fingerprint = graph.fingerprint(NODE, {"features": features.digest}, settings)
        reused = artifact_store.find_reusable(context.instance, graph.key(NODE.name), fingerprint)
        model: TrainedModel = (
            reused.value
            if reused
            else train(project, features, settings.hyperparameters, settings.seed, context.log.info)
        )
        report = model.report
        curves = figures.png(figures.learning_curves(report.history))
        mlflow.end_abandoned(context.instance, graph.name)
        run_id = mlflow_run(context, mlflow, graph.name, (origin, features.dataset_digest), code)
        tracking.log_dataset(mlflow, run_id, features, origin)
        tracking.log_training(
            mlflow,
            run_id,
            model,
            {
                **settings.hyperparameters.model_dump(),
                "seed": settings.seed,
                "code_version": graph.code_version,
            },
            {"learning_curves": curves},
            network_of=None if reused else features.features,
        )
        metric = project.task.primary
        return dg.MaterializeResult(
            value=reused or model,
            data_version=dg.DataVersion(report.model_digest),
            metadata={
                "fingerprint": fingerprint,
                "epochs": len(report.history["loss"]),
                "refit epochs": len(report.history.get("refit_loss", ())),
                "training seconds": round(report.seconds, 1),
                f"train {metric}": json_safe(report.train[metric]),
                f"validation {metric}": json_safe(report.validation[metric]),
                "learning curves": image(curves, "learning curves"),
                "mlflow run": dg.MetadataValue.url(mlflow.url(graph.name, run_id)),
                "reused": bool(reused),
            },
            check_results=check_results(project, CHECKS, report),
        )

    return trained_model


def refuse_other_features(trained_model: TrainedModel, features: StoredFeatures) -> None:
    """Raise if the model was trained on other features than the given ones.

    Raises:
        InputError: with both digests and what to do.
    """
    if trained_model.report.features_digest != features.digest:
        raise InputError(
            "trained_model was trained on other features than the latest ones "
            f"({trained_model.report.features_digest[:12]}, {features.digest[:12]}): materialize it again"
        )


def _refuse_unusable(
    project: ModelProject, features: StoredFeatures, validated_data: ValidationReport
) -> None:
    """Raise if features and validation do not belong together or did not pass their checks."""
    if features.dataset_digest != validated_data.dataset_digest:
        raise InputError(
            "features and validated_data come from different datasets "
            f"({features.dataset_digest[:12]} and {validated_data.dataset_digest[:12]}): materialize both again"
        )
    refuse_unless_passed(
        "validated_data", project, validation_module.checks(project), validated_data, "correct the data"
    )
    refuse_unless_passed(
        "features",
        project,
        features_module.checks(project),
        features.features,
        "correct the data or the split",
    )
