"""`trained_model`: the Keras model. Needs features and a validation that let them pass."""

import math
from typing import Any

import dagster as dg

from jukebox_orch.assets.features import feature_gates
from jukebox_orch.assets.metadata import image, refuse_failed, shown, verdict
from jukebox_orch.assets.training_graph import Check, Graph
from jukebox_orch.assets.validated_data import validation_checks
from jukebox_orch.contract.project import InputError
from jukebox_orch.ml.artifacts import FeatureSet, TrainedModel, Training, ValidationReport
from jukebox_orch.registry.mlflow_resource import MlflowTracking
from jukebox_orch.storage.artifact_store import ArtifactStore

NOUN = "trained_model"
# Relative to the validation metric; more than this apart, the model has learnt the training rows by heart.
_OVERFITTING_GAP = 0.25


def trained_model_asset(graph: Graph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""

    @graph.asset(
        NOUN,
        kinds={"keras", "tensorflow"},
        artifact_type="Model",
        description="Keras model from raw inputs to outputs, normalisation inside, with its training history.",
        upstream=["features", "validated_data"],
        checks=[
            Check("finite_loss", "Training and validation loss are numbers in every epoch."),
            Check("beats_baseline", "Better on the validation split than the rule that ignores the inputs."),
            Check("overfitting", "Train and validation metric are close.", blocking=False),
        ],
    )
    def trained_model(
        context: dg.AssetExecutionContext,
        features: FeatureSet,
        validated_data: ValidationReport,
        artifact_store: dg.ResourceParam[ArtifactStore],
        mlflow: MlflowTracking,
    ):
        from jukebox_orch.assets import figures
        from jukebox_orch.ml.training import train
        from jukebox_orch.registry import tracking

        settings = graph.settings(NOUN, context)
        if features.dataset_digest != validated_data.dataset_digest:
            raise InputError(
                "features and validated_data come from different datasets "
                f"({features.dataset_digest[:12]} and {validated_data.dataset_digest[:12]}): materialize both again"
            )
        refuse_failed("validated_data", validation_checks(graph, validated_data), "correct the data")
        refuse_failed("features", feature_gates(features.features), "correct the data or the split")
        fingerprint = graph.fingerprint(
            NOUN,
            {"features": features.digest},
            hyperparameters=settings.hyperparameters,
            seed=settings.seed,
        )
        stored = artifact_store.recall(context.instance, graph.key(NOUN), fingerprint)
        model: TrainedModel = (
            stored.value
            if stored
            else train(graph.project, features, settings.hyperparameters, settings.seed, context.log.info)
        )
        training = model.training
        curves = figures.png(figures.learning_curves(training.history))
        run_id = mlflow.run_id(context.run, graph.name, {"project": graph.name})
        tracking.log_dataset(
            mlflow,
            run_id,
            name=f"{graph.name} dataset",
            digest=features.dataset_digest,
            source=str(graph.key("dataset").to_user_string()),
            profile={name: len(part) for name, part in features.features.parts.items()},
        )
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
        )
        if not stored:
            tracking.log_keras(mlflow, run_id, model.keras_model, features.features)
        checks = training_checks(graph, training)
        mlflow.finish(run_id, checks)
        task = graph.project.task
        return dg.MaterializeResult(
            value=stored or model,
            data_version=dg.DataVersion(training.model_digest),
            metadata={
                "fingerprint": fingerprint,
                "epochs": len(training.history["loss"]),
                "refit epochs": len(training.history.get("refit_loss", ())),
                "training seconds": round(training.seconds, 1),
                f"train {task.primary}": shown(training.train[task.primary]),
                f"validation {task.primary}": shown(training.validation[task.primary]),
                "learning curves": image(curves, "learning curves"),
                "mlflow run": dg.MetadataValue.url(mlflow.url(graph.name, run_id)),
                "reused": bool(stored),
            },
            check_results=checks,
        )

    return trained_model


def training_checks(graph: Graph, training: Training) -> list[dg.AssetCheckResult]:
    """The verdict of every check on the training."""
    return [_finite_loss(training), _beats_baseline(graph, training), _overfitting(graph, training)]


def _finite_loss(training: Training) -> dg.AssetCheckResult:
    losses = {name: values for name, values in training.history.items() if name.endswith("loss")}
    bad = [
        f"{name} of epoch {epoch + 1} is {value}"
        for name, values in losses.items()
        for epoch, value in enumerate(values)
        if not math.isfinite(value)
    ]
    text = "; ".join(bad[:3]) or f"last loss {training.history['loss'][-1]:.4g}"
    return verdict("finite_loss", not bad, training.history["loss"][-1], "finite", text)


def _beats_baseline(graph: Graph, training: Training) -> dg.AssetCheckResult:
    task = graph.project.task
    value, baseline = training.validation[task.primary], training.baseline[task.primary]
    return verdict(
        "beats_baseline",
        task.not_worse(value, baseline) and value != baseline,
        value,
        baseline,
        f"validation {task.primary} {value:.4g}, {training.baseline_name} has {baseline:.4g}",
    )


def _overfitting(graph: Graph, training: Training) -> dg.AssetCheckResult:
    metric: Any = graph.project.task.primary
    seen, unseen = training.train[metric], training.validation[metric]
    gap = abs(seen - unseen) / max(abs(seen), abs(unseen), 1e-12)
    better_on_train = graph.project.task.not_worse(seen, unseen)
    return verdict(
        "overfitting",
        not (better_on_train and gap > _OVERFITTING_GAP),
        gap,
        _OVERFITTING_GAP,
        f"{metric} {seen:.4g} on train, {unseen:.4g} on validation: {gap:.0%} apart",
        warn=True,
    )
