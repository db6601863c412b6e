"""`registered_model`: in the model store and in the registry, read back from both, with its aliases."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
import yaml

from jukebox_orch.assets.evaluation import evaluation_checks
from jukebox_orch.assets.metadata import refuse_failed, verdict
from jukebox_orch.assets.onnx_model import onnx_checks
from jukebox_orch.assets.training_graph import Check, Graph
from jukebox_orch.contract.project import InputError
from jukebox_orch.deployed_code import Code
from jukebox_orch.ml.artifacts import EvaluationReport, FeatureSet, OnnxModel, RegisteredModel
from jukebox_orch.registry.mlflow_resource import MlflowTracking, event_tags
from jukebox_orch.storage.model_store import ModelStore

if TYPE_CHECKING:
    import numpy as np

NOUN = "registered_model"
_EXAMPLE_ROWS = 2


def registered_model_asset(graph: Graph) -> dg.AssetsDefinition:
    """Define the asset and its check."""

    @graph.asset(
        NOUN,
        kinds={"mlflow", "onnx"},
        artifact_type="Artifact",
        description="The model where a server reaches it, and its version, metrics, lineage and aliases in MLflow.",
        upstream=["onnx_model", "evaluation", "features"],
        cacheable=False,
        checks=[
            Check(
                "reads_back",
                "Store and registry hold the recorded file, and it predicts the recorded example.",
            )
        ],
        # One registration at a time, also over many machines: the aliases are read, compared and set.
        pool=f"{graph.name}_registration",
    )
    def registered_model(
        context: dg.AssetExecutionContext,
        onnx_model: OnnxModel,
        evaluation: EvaluationReport,
        features: FeatureSet,
        mlflow: MlflowTracking,
        model_store: ModelStore,
        code: Code,
    ):
        from jukebox_orch.registry import tracking
        from jukebox_orch.registry.model_card import model_card
        from jukebox_orch.registry.registration import (
            CHALLENGER,
            CHAMPION,
            EXAMPLE_TOLERANCE,
            Registration,
            add_version,
            promote,
        )

        settings = graph.settings(NOUN, context)
        if onnx_model.report.metadata.get("model_digest") != evaluation.model_digest:
            raise InputError("onnx_model and evaluation are of different models: materialize both again")
        if features.digest != evaluation.features_digest:
            raise InputError("evaluation was made on other features than the latest: materialize it again")
        refuse_failed("evaluation", evaluation_checks(graph, evaluation), "it is not registered")
        refuse_failed("onnx_model", onnx_checks(graph, onnx_model.report), "it is not registered")
        run_id = mlflow.run_id(context.run, graph.name, {"project": graph.name})
        lineage = {
            "dagster_run_id": context.run.run_id,
            "mlflow_run_id": run_id,
            "git_commit": code.commit() or "unknown",
            "code_version": graph.code_version,
            "dataset_digest": evaluation.dataset_digest,
            "features_digest": evaluation.features_digest,
            "model_digest": evaluation.model_digest,
            "version_label": settings.version,
            "project": graph.name,
            **event_tags(context.run),
        }
        name = settings.model_name
        example = _example(onnx_model, features)

        def files(number: str) -> dict[str, bytes]:
            card = model_card(
                graph.project,
                title=f"{name} version {number}" + (f" ({settings.version})" if settings.version else ""),
                report=evaluation,
                onnx=onnx_model.report,
                feature_set=features,
                lineage={**lineage, "onnx_sha256": onnx_model.report.sha256},
            )
            return _side_files(
                model_store, name, number, card, onnx_model, evaluation, features, example, lineage
            )

        registration = Registration(
            model_name=name,
            onnx=onnx_model,
            mlflow_run_id=run_id,
            log_model=lambda: tracking.log_onnx(
                mlflow, run_id, onnx_model, _arrays(example["inputs"], features)
            ),
            files=files,
            tags={k: v for k, v in lineage.items() if v}
            | {f"test_{k}": f"{v:.6g}" for k, v in evaluation.test.metrics.items()}
            | {"server_url": model_store.server_url(name)},
            description=f"{graph.project.description} Test {evaluation.primary_metric}: "
            f"{evaluation.test.metrics[evaluation.primary_metric]:.4f}.",
        )
        aliases = [CHALLENGER]
        stage = "production" if settings.prod_flag else settings.stage
        with mlflow.lock(name):
            added = add_version(mlflow, model_store, registration)
            number = added.number
            why = _may_replace_champion(
                graph, mlflow, model_store, name, number, evaluation, features, settings
            )
            if why is not None:
                promote(mlflow, name, number, alias=stage, by=f"dagster run {context.run.run_id}", why=why)
                aliases += [CHAMPION, stage]
        entry = model_store.entry(name, number)
        registered = RegisteredModel(
            model_name=name,
            version=number,
            label=settings.version,
            uri=f"models:/{name}/{number}",
            store_path=str(entry),
            sha256=onnx_model.report.sha256,
            aliases=aliases,
            metrics=evaluation.test.metrics,
            adopted=added.adopted,
            mlflow_run_id=run_id,
        )
        return dg.MaterializeResult(
            value=registered,
            data_version=dg.DataVersion(f"{name}-{number}-{onnx_model.report.sha256[:16]}"),
            metadata={
                "model": f"{name} version {number}",
                "aliases": ", ".join(aliases),
                "model store": dg.MetadataValue.path(str(entry / "model.onnx")),
                "onnx_sha256": registered.sha256,
                "was registered before": added.adopted,
                "storage uri": model_store.storage_uri(name, number),
                "model server": model_store.server_url(name),
                "mlflow run": dg.MetadataValue.url(mlflow.url(graph.name, run_id)),
                "model card": dg.MetadataValue.md((entry / "README.md").read_text()),
                f"test_{evaluation.primary_metric}": evaluation.test.metrics[evaluation.primary_metric],
            },
            check_results=[
                verdict(
                    "reads_back",
                    added.example_difference <= EXAMPLE_TOLERANCE,
                    added.example_difference,
                    EXAMPLE_TOLERANCE,
                    f"store and registry hold {registered.sha256[:12]}…; "
                    f"the example is predicted {added.example_difference:.2g} off",
                )
            ],
        )

    return registered_model


def _may_replace_champion(
    graph: Graph,
    mlflow: MlflowTracking,
    model_store: ModelStore,
    name: str,
    number: str,
    evaluation: EvaluationReport,
    features: FeatureSet,
    settings: Any,
) -> str | None:
    """Why the version may become champion; None when it may not.

    The champion may have changed since the evaluation: it is scored again on the same test split.
    """
    from jukebox_orch.ml.evaluation import score_champion
    from jukebox_orch.registry.registration import current_champion

    champion = current_champion(mlflow, model_store, name)
    if champion is None:
        return "first version"
    if champion.version == number:
        return "is champion already"
    scores = evaluation.champion
    if scores is None or (scores.model_name, scores.version) != (name, champion.version):
        scores, problem = score_champion(graph.project, features.features, champion)
        if scores is None:
            dg.get_dagster_logger().warning(f"the champion stays: it cannot be compared: {problem}")
            return None
    metric, tolerance = evaluation.primary_metric, settings.gates.champion_tolerance
    ours, theirs = evaluation.test.metrics[metric], scores.metrics[metric]
    text = f"test {metric} {ours:.4f}, champion version {champion.version} {theirs:.4f} on the same split"
    if not graph.project.task.not_worse(ours, theirs, tolerance):
        dg.get_dagster_logger().warning(f"the champion stays: {text}")
        return None
    return text


def _example(onnx_model: OnnxModel, features: FeatureSet) -> dict[str, dict[str, Any]]:
    """The first rows of the test split with the file's own prediction."""
    import numpy as np

    from jukebox_orch.ml.onnx_export import OnnxPredictor

    predictor = OnnxPredictor(onnx_model.content)
    x = np.asarray(features.features.test.x[:_EXAMPLE_ROWS])
    output = next(iter(onnx_model.report.outputs))
    return {
        "inputs": {name: value.tolist() for name, value in predictor.feed(x).items()},
        "outputs": {output: predictor.predict(x).tolist()},
    }


def _side_files(
    model_store: ModelStore,
    name: str,
    number: str,
    card: str,
    onnx_model: OnnxModel,
    evaluation: EvaluationReport,
    features: FeatureSet,
    example: Mapping[str, Any],
    lineage: Mapping[str, str],
) -> dict[str, bytes]:
    from jukebox_orch.registry import tracking

    report = onnx_model.report
    described = {"inputs": report.inputs, "outputs": report.outputs}
    documents: dict[str, Any] = {
        "labels.json": list(features.features.labels),
        "features.json": described,
        "metrics.json": evaluation.test.metrics,
        "example.json": example,
        "profile.json": features.profile,
        "lineage.json": {**lineage, "onnx_sha256": report.sha256},
    }
    return {
        **{file: json.dumps(content, indent=1).encode() for file, content in documents.items()},
        "requirements.txt": "".join(f"{line}\n" for line in tracking.requirements()).encode(),
        "README.md": card.encode(),
        "inferenceservice.yaml": yaml.safe_dump(
            model_store.inference_service(name, number), sort_keys=False
        ).encode(),
    }


def _arrays(inputs: Mapping[str, Any], features: FeatureSet) -> "dict[str, np.ndarray]":
    import numpy as np

    return {name: np.asarray(value, features.features.train.x.dtype) for name, value in inputs.items()}
