"""`registered_model`: the model in the model store and in the registry, read back from both, with its aliases."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from jukebox_orch.assets import evaluation as evaluation_module
from jukebox_orch.assets import features as features_module
from jukebox_orch.assets import onnx_model as onnx_module
from jukebox_orch.assets.check_builder import Check, Outcome, check_results, refuse_unless_passed
from jukebox_orch.assets.mlflow_run import LAST_ASSET, mlflow_run, short_name
from jukebox_orch.assets.training_graph import AssetNode, TrainingGraph
from jukebox_orch.contract import InputError, ModelProject
from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.ml.artifacts import (
    DataOrigin,
    EvaluationReport,
    OnnxModel,
    RegisteredModel,
    StoredFeatures,
)
from jukebox_orch.registry.mlflow_resource import MlflowResource, event_tags
from jukebox_orch.storage.model_store import ModelStore

if TYPE_CHECKING:
    from jukebox_orch.registry.model_files import ModelFiles
    from jukebox_orch.registry.promotion import ChampionChange, PromotionDecision
    from jukebox_orch.registry.registration import RegistrationRequest, RegistrationResult

NODE = AssetNode(
    name=LAST_ASSET,
    description="The model in the model store, and its version, metrics, lineage and aliases in MLflow.",
    kinds=frozenset({"mlflow", "onnx"}),
    artifact_type="Artifact",
    inputs=("onnx_model", "evaluation", "features"),
    settings=("gates", "model_name", "version", "stage", "prod_flag"),
    serialized=True,  # another run must not change the aliases between reading and setting them
    tracked=True,
)


@dataclass(frozen=True)
class Registration:
    """A registered version and the decision about the champion.

    Attributes:
        remedy: how a person makes the version champion.
    """

    added: "RegistrationResult"
    decision: "PromotionDecision"
    remedy: str


def _reads_back(project: ModelProject, registration: Registration) -> Outcome:
    from jukebox_orch.registry.versions import EXAMPLE_TOLERANCE

    difference = registration.added.example_difference
    return Outcome(
        difference <= EXAMPLE_TOLERANCE,
        difference,
        EXAMPLE_TOLERANCE,
        "store and registry contain the registered file; "
        f"the prediction of its example differs by {difference:.2g}",
    )


def _promoted(project: ModelProject, registration: Registration) -> Outcome:
    decision = registration.decision
    if decision.promote:
        return Outcome(True, "champion", "champion", decision.reason)
    text = f"stays challenger: {decision.reason}. {registration.remedy}"
    return Outcome(False, "challenger", "champion", text)


CHECKS = (
    Check(
        "reads_back",
        "Store and registry contain the recorded file, and it predicts the recorded example.",
        _reads_back,
    ),
    Check(
        "promoted",
        "The version became champion: there was none, or it is not worse than one of the same dataset, split and "
        "metric.",
        _promoted,
        blocking=False,
    ),
)


def registered_model_asset(graph: TrainingGraph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""
    project = graph.project

    @graph.asset(NODE, CHECKS)
    def registered_model(
        context: dg.AssetExecutionContext,
        onnx_model: OnnxModel,
        evaluation: EvaluationReport,
        features: StoredFeatures,
        mlflow: MlflowResource,
        model_store: ModelStore,
        code: dg.ResourceParam[DeployedCode],
    ):
        from jukebox_orch.registry.model_files import ModelFiles
        from jukebox_orch.registry.promotion import finish_interrupted
        from jukebox_orch.registry.registration import add_version

        settings = graph.settings(NODE, context)
        _refuse_unchecked(project, onnx_model, evaluation, features)
        origin = features_module.origin_of_features(features)
        name = graph.model_name(settings, origin.sample)
        run_id = mlflow_run(context, mlflow, graph.name, (origin, features.dataset_digest), code)
        lineage = _lineage(graph, context.run, evaluation, origin) | {
            "mlflow_run_id": run_id,
            "git_commit": code.commit or "unknown",
            "version_label": settings.version,
        }
        files = ModelFiles(project, name, settings.version, onnx_model, evaluation, features, lineage)
        with mlflow.lock(name):
            if change := finish_interrupted(mlflow, model_store, name):
                ended = "finished" if change.done else "undone, because its version does not verify"
                context.log.warning(
                    f"{name}: an interrupted change of champion to version {change.version} was {ended}"
                )
            result = add_version(mlflow, model_store, _request(mlflow, model_store, run_id, files))
            remedy = (
                f"To make it champion, run the job {graph.name}_promote with version: '{result.number}', "
                f"model_name: {name} and a reason"
            )
            decision, aliases = _promote(context, mlflow, model_store, files, result.number, settings, remedy)
        mlflow.client().update_run(run_id, name=f"{name} {result.number} on {short_name(origin)}")
        registered = RegisteredModel(
            model_name=name,
            version=result.number,
            label=settings.version,
            uri=f"models:/{name}/{result.number}",
            store_path=str(model_store.entry(name, result.number)),
            sha256=onnx_model.report.sha256,
            aliases=aliases,
            metrics=evaluation.test.metrics,
            adopted=result.adopted,
            mlflow_run_id=run_id,
        )
        return dg.MaterializeResult(
            value=registered,
            data_version=dg.DataVersion(f"{name}-{result.number}-{registered.sha256[:16]}"),
            metadata=_metadata(registered, evaluation.primary_metric, model_store)
            | {
                "dataset name": origin.name,
                "aliases now": dg.MetadataValue.url(mlflow.model_url(name)),
                "mlflow run": dg.MetadataValue.url(mlflow.url(graph.name, run_id)),
            },
            check_results=check_results(project, CHECKS, Registration(result, decision, remedy)),
        )

    return registered_model


def _refuse_unchecked(
    project: ModelProject, onnx_model: OnnxModel, evaluation: EvaluationReport, features: StoredFeatures
) -> None:
    """Raise if the values do not belong together or did not pass their checks."""
    if onnx_model.report.metadata.get("model_digest") != evaluation.model_digest:
        raise InputError("onnx_model and evaluation are of different models: materialize both again")
    if features.digest != evaluation.features_digest:
        raise InputError("evaluation used other features than the latest ones: materialize it again")
    if evaluation.basis is None:
        raise InputError(
            "evaluation was stored by an older version, without the dataset's name: materialize it again"
        )
    remedy = "not registered; correct the data, settings or gates and train again"
    refuse_unless_passed("evaluation", project, evaluation_module.checks(project), evaluation, remedy)
    refuse_unless_passed("onnx_model", project, onnx_module.CHECKS, onnx_model.report, remedy)


def _lineage(
    graph: TrainingGraph, run: dg.DagsterRun, evaluation: EvaluationReport, origin: DataOrigin
) -> dict[str, str]:
    """Return the run, code, data and digests that the model comes from."""
    return {
        **(evaluation.basis.model_dump() if evaluation.basis else {}),
        "source": origin.source,
        "dagster_run_id": run.run_id,
        "code_version": graph.code_version,
        "dataset_digest": evaluation.dataset_digest,
        "features_digest": evaluation.features_digest,
        "model_digest": evaluation.model_digest,
        "project": graph.name,
        **event_tags(run),
    }


def _request(
    mlflow: MlflowResource, store: ModelStore, run_id: str, files: "ModelFiles"
) -> "RegistrationRequest":
    from jukebox_orch.registry import kserve, tracking
    from jukebox_orch.registry.registration import RegistrationRequest

    evaluation, name = files.evaluation, files.model_name
    metric = evaluation.primary_metric
    tags: Mapping[str, Any] = {
        **{k: v for k, v in files.lineage.items() if v},
        **{f"test_{k}": f"{v:.6g}" for k, v in evaluation.test.metrics.items()},
        "server_url": kserve.server_url(store, name),
    }
    return RegistrationRequest(
        model_name=name,
        onnx=files.onnx,
        mlflow_run_id=run_id,
        log_model=lambda: tracking.log_onnx(
            mlflow, run_id, files.onnx, files.example_inputs, evaluation.test.metrics
        ),
        files=lambda number: files.side_files(store, number),
        tags=tags,
        description=f"{files.project.description} Test {metric}: {evaluation.test.metrics[metric]:.4f}.",
    )


def _promote(
    context: dg.AssetExecutionContext,
    mlflow: MlflowResource,
    store: ModelStore,
    files: "ModelFiles",
    number: str,
    settings: Any,
    remedy: str,
) -> tuple["PromotionDecision", list[str]]:
    """Make the version champion if it may replace the present one; return the decision and the version's aliases.

    The decision is recorded in MLflow, and a change of champion as an observation of the asset.
    """
    from jukebox_orch.registry.promotion import PROMOTION_TAG, Candidate, decide_promotion, promote
    from jukebox_orch.registry.versions import CHALLENGER, CHAMPION

    name = files.model_name
    candidate = Candidate(name, number, files.evaluation, files.features.features, settings.gates)
    decision = decide_promotion(files.project, mlflow, store, candidate)
    if not decision.promote:
        text = f"stays challenger: {decision.reason}. {remedy}"
        mlflow.client().set_model_version_tag(name, number, PROMOTION_TAG, text)
        context.log.warning(f"{name} version {number} {text}")
        return decision, [CHALLENGER]
    stage = "production" if settings.prod_flag else settings.stage
    by = f"dagster run {context.run.run_id}"
    if change := promote(mlflow, name, number, aliases=[stage], by=by, why=decision.reason):
        context.log_event(champion_observation(context.asset_key, name, change))
    return decision, [CHALLENGER, CHAMPION, stage]


def champion_observation(
    asset: dg.AssetKey, model_name: str, change: "ChampionChange"
) -> dg.AssetObservation:
    """Return the change of champion as an event of the asset, so that its page shows the current champion."""
    return dg.AssetObservation(
        asset,
        description=f"champion of {model_name}: version {change.version}",
        metadata={
            "model name": model_name,
            "champion": change.version,
            "champion before": change.before.get("champion", "") or "none",
            "aliases moved": ", ".join(change.before),
            "reason": change.why,
            "by": change.by,
        },
    )


def _metadata(registered: RegisteredModel, metric: str, store: ModelStore) -> dict[str, Any]:
    from jukebox_orch.registry import kserve

    name, number = registered.model_name, registered.version
    entry = store.entry(name, number)
    return {
        "model name": name,
        "version": number,
        "model store": dg.MetadataValue.path(str(entry / "model.onnx")),
        "onnx_sha256": registered.sha256,
        "was registered before": registered.adopted,
        "storage uri": kserve.storage_uri(store, name, number),
        "model server": kserve.server_url(store, name),
        "model card": dg.MetadataValue.md((entry / "README.md").read_text()),
        f"test_{metric}": registered.metrics[metric],
    }
