"""`onnx_model`: the same model as one ONNX file, proved to say what Keras says. Runs beside evaluation."""

import dagster as dg

from jukebox_orch.assets.metadata import records, verdict
from jukebox_orch.assets.training_graph import Check, Graph
from jukebox_orch.contract.project import InputError
from jukebox_orch.ml.artifacts import OPSET, FeatureSet, OnnxReport, TrainedModel
from jukebox_orch.storage.artifact_store import ArtifactStore

NOUN = "onnx_model"
_LARGE = 100 * 2**20


def onnx_model_asset(graph: Graph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""
    tolerance = graph.project.parity_tolerance

    @graph.asset(
        NOUN,
        kinds={"onnx", "tensorflow"},
        artifact_type="Model",
        description="Single-file ONNX model that takes raw features; labels, features and lineage in its metadata.",
        upstream=["trained_model", "features"],
        checks=[
            Check(
                "same_as_keras",
                f"Outputs differ by at most {tolerance:g} from Keras on the whole test split.",
            ),
            Check("same_decisions", "Every row of the test split gets the same decision as from Keras."),
            Check("valid", "The ONNX checker accepts the file."),
            Check(
                "dynamic_batch", "Inputs and outputs take any number of rows; one row gives the same answer."
            ),
            Check("self_contained", "No weights are stored outside the file."),
            Check("size", f"The file is smaller than {_LARGE // 2**20} MiB.", blocking=False),
            Check("opset", f"The operator set is {OPSET}.", blocking=False),
        ],
    )
    def onnx_model(
        context: dg.AssetExecutionContext,
        trained_model: TrainedModel,
        features: FeatureSet,
        artifact_store: dg.ResourceParam[ArtifactStore],
    ):
        from jukebox_orch.ml.onnx_export import export
        from jukebox_orch.ml.training import predict

        settings = graph.settings(NOUN, context)
        training = trained_model.training
        if training.features_digest != features.digest:
            raise InputError(
                "trained_model was trained on other features than the latest ones "
                f"({training.features_digest[:12]}, {features.digest[:12]}): materialize it again"
            )
        inputs = {"trained_model": training.model_digest, "features": features.digest}
        fingerprint = graph.fingerprint(NOUN, inputs, version=settings.version)
        stored = artifact_store.recall(context.instance, graph.key(NOUN), fingerprint)
        if stored is None:
            lineage = {
                "version": settings.version,
                "dataset_digest": training.dataset_digest,
                "features_digest": training.features_digest,
                "model_digest": training.model_digest,
            }
            keras_model = trained_model.keras_model
            keras_test = predict(keras_model, features.features.test.x)
            onnx = export(graph.project, keras_model, features.features, lineage, keras_test)
        else:
            onnx = stored.value
        report = onnx.report
        return dg.MaterializeResult(
            value=stored or onnx,
            data_version=dg.DataVersion(report.sha256),
            metadata={
                "fingerprint": fingerprint,
                "onnx_sha256": report.sha256,
                "onnx bytes": report.bytes,
                "opset": report.opset,
                "inputs": records(_tensors(report.inputs)),
                "outputs": records(_tensors(report.outputs)),
                "max_abs_difference": report.max_abs_difference,
                "reused": bool(stored),
            },
            check_results=onnx_checks(graph, report),
        )

    return onnx_model


def onnx_checks(graph: Graph, report: OnnxReport) -> list[dg.AssetCheckResult]:
    """The verdict of every check on the file."""
    tolerance = graph.project.parity_tolerance
    difference, single = report.max_abs_difference, report.single_row_difference
    dimensions = {name: shape[1] for name, shape in (report.inputs | report.outputs).items()}
    fixed = {name: size for name, size in dimensions.items() if isinstance(size, int)}
    return [
        verdict(
            "same_as_keras",
            difference <= tolerance,
            difference,
            tolerance,
            f"largest difference over {report.test_rows:,} test entries: {difference:.2g}",
        ),
        verdict(
            "same_decisions",
            report.agreement == 1,
            report.agreement,
            1.0,
            f"{report.agreement:.2%} of entries agree",
        ),
        verdict(
            "valid", not report.checker_error, report.checker_error or "valid", "valid", "onnx.checker, full"
        ),
        verdict(
            "dynamic_batch",
            not fixed and single <= tolerance,
            single,
            tolerance,
            f"fixed: {fixed}" if fixed else f"one row alone differs by {single:.2g}",
        ),
        verdict("self_contained", not report.external_data, report.external_data, False, "no external data"),
        verdict(
            "size", report.bytes < _LARGE, report.bytes, _LARGE, f"{report.bytes / 2**20:.2f} MiB", warn=True
        ),
        verdict(
            "opset", report.opset == OPSET, report.opset, OPSET, f"IR version {report.ir_version}", warn=True
        ),
    ]


def _tensors(tensors: dict[str, list[str | int]]) -> list[dict[str, object]]:
    return [
        {"name": name, "type": kind, "shape": str(list(shape))} for name, (kind, *shape) in tensors.items()
    ]
