"""`onnx_model`: the trained model as one ONNX file, compared with Keras. Runs in parallel with `evaluation`."""

import dagster as dg

from jukebox_orch.assets import trained_model as training_module
from jukebox_orch.assets.check_builder import Check, Outcome, check_results
from jukebox_orch.assets.metadata import table
from jukebox_orch.assets.training_graph import AssetNode, TrainingGraph
from jukebox_orch.contract import ModelProject
from jukebox_orch.ml.artifacts import OPSET, OnnxModel, OnnxReport, StoredFeatures, TrainedModel
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.storage.artifact_store import ArtifactStore

NODE = AssetNode(
    name="onnx_model",
    description="Single-file ONNX model that takes raw features; labels, features and lineage in its metadata.",
    kinds=frozenset({"onnx", "tensorflow"}),
    artifact_type="Model",
    inputs=("trained_model", "features"),
    settings=("version",),
    reuse=True,
    tracked=True,
)
_LARGE = 100 * 2**20


def _same_as_keras(project: ModelProject, report: OnnxReport) -> Outcome:
    difference, tolerance = report.max_abs_difference, project.parity_tolerance
    text = f"largest difference over {report.test_rows:,} test entries: {difference:.2g}"
    return Outcome(difference <= tolerance, difference, tolerance, text)


def _same_decisions(project: ModelProject, report: OnnxReport) -> Outcome:
    return Outcome(report.agreement == 1, report.agreement, 1.0, f"{report.agreement:.2%} of entries agree")


def _valid(project: ModelProject, report: OnnxReport) -> Outcome:
    error = report.checker_error
    return Outcome(not error, error or "valid", "valid", "onnx.checker, full")


def _dynamic_batch(project: ModelProject, report: OnnxReport) -> Outcome:
    sizes = {name: shape[1] for name, shape in (report.inputs | report.outputs).items()}
    fixed = {name: size for name, size in sizes.items() if isinstance(size, int)}
    single, tolerance = report.single_row_difference, project.parity_tolerance
    text = f"fixed: {fixed}" if fixed else f"a single row differs by {single:.2g}"
    return Outcome(not fixed and single <= tolerance, single, tolerance, text)


def _self_contained(project: ModelProject, report: OnnxReport) -> Outcome:
    return Outcome(not report.external_data, report.external_data, False, "no external data")


def _size(project: ModelProject, report: OnnxReport) -> Outcome:
    return Outcome(report.bytes < _LARGE, report.bytes, _LARGE, f"{report.bytes / 2**20:.2f} MiB")


def _opset(project: ModelProject, report: OnnxReport) -> Outcome:
    return Outcome(report.opset == OPSET, report.opset, OPSET, f"IR version {report.ir_version}")


CHECKS = (
    Check(
        "same_as_keras",
        "Outputs differ from Keras by at most the project's parity_tolerance on the whole test split.",
        _same_as_keras,
    ),
    Check(
        "same_decisions",
        "ONNX and Keras make the same decision for every row of the test split.",
        _same_decisions,
    ),
    Check("valid", "The ONNX checker accepts the file.", _valid),
    Check(
        "dynamic_batch",
        "Inputs and outputs take any number of rows; a single row gives the same output.",
        _dynamic_batch,
    ),
    Check("self_contained", "No weights are stored outside the file.", _self_contained),
    Check("size", f"The file is smaller than {_LARGE // 2**20} MiB.", _size, blocking=False),
    Check("opset", f"The operator set is {OPSET}.", _opset, blocking=False),
)


def onnx_model_asset(graph: TrainingGraph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""

    @graph.asset(NODE, CHECKS)
    def onnx_model(
        context: dg.AssetExecutionContext,
        trained_model: TrainedModel,
        features: StoredFeatures,
        artifact_store: dg.ResourceParam[ArtifactStore],
        mlflow: MlflowResource,  # for the status of the run
    ):
        from jukebox_orch.ml.onnx_export import export

        settings = graph.settings(NODE, context)
        training_module.refuse_other_features(trained_model, features)
        inputs = {"trained_model": trained_model.report.model_digest, "features": features.digest}
        fingerprint = graph.fingerprint(NODE, inputs, settings)
        reused = artifact_store.find_reusable(context.instance, graph.key(NODE.name), fingerprint)
        onnx: OnnxModel = (
            reused.value
            if reused
            else export(graph.project, trained_model, features.features, settings.version)
        )
        report = onnx.report
        return dg.MaterializeResult(
            value=reused or onnx,
            data_version=dg.DataVersion(report.sha256),
            metadata={
                "fingerprint": fingerprint,
                "onnx_sha256": report.sha256,
                "onnx bytes": report.bytes,
                "opset": report.opset,
                "inputs": table(_tensors(report.inputs)),
                "outputs": table(_tensors(report.outputs)),
                "max_abs_difference": report.max_abs_difference,
                "reused": bool(reused),
            },
            check_results=check_results(graph.project, CHECKS, report),
        )

    return onnx_model


def _tensors(tensors: dict[str, list[str | int]]) -> list[dict[str, object]]:
    return [
        {"name": name, "type": kind, "shape": str(list(shape))} for name, (kind, *shape) in tensors.items()
    ]
