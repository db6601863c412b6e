"""`registered_model`: the model in the model store and in the registry, read back from both, with its aliases."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from jukebox_orch.assets import evaluation as evaluation_module
from jukebox_orch.assets import onnx_model as onnx_module
from jukebox_orch.assets.check_builder import Check, Outcome, check_results, refuse_unless_passed
from jukebox_orch.assets.training_graph import AssetNode, TrainingGraph
from jukebox_orch.contract import InputError, ModelProject
from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.ml.artifacts import EvaluationReport, OnnxModel, RegisteredModel, StoredFeatures
from jukebox_orch.registry.mlflow_resource import MlflowResource, event_tags
from jukebox_orch.storage.model_store import ModelStore

if TYPE_CHECKING:
    from jukebox_orch.registry.model_files import ModelFiles
    from jukebox_orch.registry.registration import RegistrationRequest, RegistrationResult

NODE = AssetNode(
    name="registered_model",
    description="The model in the model store, and its version, metrics, lineage and aliases in MLflow.",
    kinds=frozenset({"mlflow", "onnx"}),
    artifact_type="Artifact",
    inputs=("onnx_model", "evaluation", "features"),
    settings=("gates", "model_name", "version", "stage", "prod_flag"),
    serialized=True,  # another run must not change the aliases between reading and setting them
)


def _reads_back(project: ModelProject, result: "RegistrationResult") -> Outcome:
    from jukebox_orch.registry.versions import EXAMPLE_TOLERANCE

    difference = result.example_difference
    return Outcome(
        difference <= EXAMPLE_TOLERANCE,
        difference,
        EXAMPLE_TOLERANCE,
        "store and registry contain the registered file; "
        f"the prediction of its example differs by {difference:.2g}",
    )


CHECKS = (
    Check(
        "reads_back",
        "Store and registry contain the recorded file, and it predicts the recorded example.",
        _reads_back,
    ),
)


def registered_model_asset(graph: TrainingGraph) -> dg.AssetsDefinition:
    """Define the asset and its check."""
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
        from jukebox_orch.registry.registration import add_version

        settings = graph.settings(NODE, context)
        _refuse_unchecked(project, onnx_model, evaluation, features)
        name = settings.model_name
        run_id = mlflow.run_id(context.run, graph.name, {"project": graph.name})
        lineage = _lineage(graph, context.run, evaluation) | {
            "mlflow_run_id": run_id,
            "git_commit": code.commit or "unknown",
            "version_label": settings.version,
        }
        files = ModelFiles(project, name, settings.version, onnx_model, evaluation, features, lineage)
        with mlflow.lock(name):
            result = add_version(mlflow, model_store, _request(mlflow, model_store, run_id, files))
            aliases = _promote(context, mlflow, model_store, files, result.number, settings)
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
            | {"mlflow run": dg.MetadataValue.url(mlflow.url(graph.name, run_id))},
            check_results=check_results(project, CHECKS, result),
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
    remedy = "not registered; correct the data, settings or gates and train again"
    refuse_unless_passed("evaluation", project, evaluation_module.CHECKS, evaluation, remedy)
    refuse_unless_passed("onnx_model", project, onnx_module.CHECKS, onnx_model.report, remedy)


def _lineage(graph: TrainingGraph, run: dg.DagsterRun, evaluation: EvaluationReport) -> dict[str, str]:
    """Return the run, code and digests that the model comes from."""
    return {
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
        log_model=lambda: tracking.log_onnx(mlflow, run_id, files.onnx, files.example_inputs),
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
) -> list[str]:
    """Make the version champion if it is not worse than the present one; return the aliases of the version."""
    from jukebox_orch.registry.promotion import Candidate, decide_promotion, promote
    from jukebox_orch.registry.versions import CHALLENGER, CHAMPION

    name, tolerance = files.model_name, settings.gates.champion_tolerance
    candidate = Candidate(name, number, files.evaluation, files.features.features, tolerance)
    decision = decide_promotion(files.project, mlflow, store, candidate)
    if not decision.promote:
        context.log.warning(f"the champion stays: {decision.reason}")
        return [CHALLENGER]
    stage = "production" if settings.prod_flag else settings.stage
    promote(mlflow, name, number, alias=stage, by=f"dagster run {context.run.run_id}", why=decision.reason)
    return [CHALLENGER, CHAMPION, stage]


def _metadata(registered: RegisteredModel, metric: str, store: ModelStore) -> dict[str, Any]:
    from jukebox_orch.registry import kserve

    name, number = registered.model_name, registered.version
    entry = store.entry(name, number)
    return {
        "model": f"{name} version {number}",
        "aliases": ", ".join(registered.aliases),
        "model store": dg.MetadataValue.path(str(entry / "model.onnx")),
        "onnx_sha256": registered.sha256,
        "was registered before": registered.adopted,
        "storage uri": kserve.storage_uri(store, name, number),
        "model server": kserve.server_url(store, name),
        "model card": dg.MetadataValue.md((entry / "README.md").read_text()),
        f"test_{metric}": registered.metrics[metric],
    }
