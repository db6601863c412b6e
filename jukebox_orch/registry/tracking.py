"""Logs results to the MLflow run of a Dagster run, with few requests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jukebox_orch.contract import Features
from jukebox_orch.ml.artifacts import DataOrigin, OnnxModel, StoredFeatures, TrainedModel
from jukebox_orch.ml.onnx_predictor import INPUT_TYPES
from jukebox_orch.registry.mlflow_resource import MlflowResource

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

_BATCH = 1000
_PARAMETER_LENGTH = 500
# What MLflow keeps of a dataset's name and digest.
_DATASET_NAME_LENGTH, _DATASET_DIGEST_LENGTH = 500, 36
_COLUMN_TYPES = {"float32": "float", "uint8": "integer", "int64": "long", "object": "string"}


def log_training(
    mlflow: MlflowResource,
    run_id: str,
    trained: TrainedModel,
    settings: Mapping[str, Any],
    figures: Mapping[str, bytes],
    network_of: Features | None = None,
) -> None:
    """Log parameters, curves per epoch, split metrics, figures as PNG and the network.

    Args:
        network_of: what the network was trained on; None: the network is not logged again.
    """
    from mlflow.entities import Metric, Param

    client, training = mlflow.client(), trained.report
    parameters = {k: str(v)[:_PARAMETER_LENGTH] for k, v in _flat(settings).items()}
    known = client.get_run(run_id).data.params
    # A retried step logs the same values again. MLflow refuses a parameter only if its value changes.
    new = [Param(key, value) for key, value in parameters.items() if key not in known]
    client.log_batch(run_id, params=new)
    # After the parameters, which MLflow shows with the logged model too.
    model_id = _log_keras(client, run_id, trained.keras_model, network_of) if network_of else None
    now = _milliseconds()
    curves = [
        Metric(name, value, now, epoch)
        for name, values in training.history.items()
        for epoch, value in enumerate(values)
        if np.isfinite(value)
    ]
    scores = [
        Metric(f"{split}_{name}", value, now, 0, model_id=model_id)
        for split, metrics in (("train", training.train), ("validation", training.validation))
        for name, value in metrics.items()
        if np.isfinite(value)
    ]
    log_metrics(client, run_id, [*curves, *scores, Metric("training_seconds", training.seconds, now, 0)])
    _log_figures(client, run_id, figures)


def log_dataset(mlflow: MlflowResource, run_id: str, stored: StoredFeatures, origin: DataOrigin) -> None:
    """Log the training data with its source and the schema of the model's inputs."""
    client = mlflow.client()
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.types import ColSpec, Schema, TensorSpec

    features = stored.features
    raw = features.raw(features.train, slice(1))
    # MLflow has no schema of columns and tensors together.
    is_table = all(array.shape[1:] == (1,) for array in raw.values())
    schema = Schema(
        [
            ColSpec(_COLUMN_TYPES[array.dtype.name], name)
            if is_table
            else TensorSpec(_plain(array.dtype), (-1, *array.shape[1:]), name)
            for name, array in raw.items()
        ]
    )
    kind = "mlflow_colspec" if is_table else "mlflow_tensorspec"
    rows = {name: round(float(split.weight.sum())) for name, split in features.splits.items()}
    dataset = Dataset(
        name=origin.name[-_DATASET_NAME_LENGTH:],
        digest=stored.dataset_digest[:_DATASET_DIGEST_LENGTH],
        source_type="jukebox-orchestrator",
        source=json.dumps({"source": origin.source}),
        schema=json.dumps({kind: schema.to_dict()}),
        profile=json.dumps({"digest": stored.dataset_digest, "rows": rows, "split": stored.split_kind}),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def log_evaluation(
    mlflow: MlflowResource,
    run_id: str,
    metrics: Mapping[str, float],
    tables: Mapping[str, Any],
    figures: Mapping[str, bytes],
) -> None:
    """Log metrics on the test split, tables as JSON and figures as PNG."""
    from mlflow.entities import Metric

    client, now = mlflow.client(), _milliseconds()
    log_metrics(client, run_id, [Metric(k, v, now, 0) for k, v in metrics.items() if np.isfinite(v)])
    for name, table in tables.items():
        client.log_dict(run_id, table, f"tables/{name}.json")
    _log_figures(client, run_id, figures)


def _log_keras(client: MlflowClient, run_id: str, model: keras.Model, features: Features) -> str:
    """Log the network as a `.keras` archive with signature and pinned requirements; return the logged model's id.

    All trained models can be loaded in Keras' safe mode, see `jukebox_orch.ml.keras_runtime.load_keras`.
    """
    from mlflow import keras as keras_flavor
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    arrays = features.arrays(features.train)
    inputs: list[Any] = [
        TensorSpec(array.dtype, (-1, *array.shape[1:]), "raw" if len(arrays) == 1 else name)
        for name, array in arrays.items()
    ]
    output = TensorSpec(np.dtype(np.float32), (-1, *model.output_shape[1:]), "output")
    # `mlflow.keras.log_model` needs an active run, and leaving it would mark the run as finished.
    logged = Model.log(
        None,
        keras_flavor,
        model_id=_new_model(client, run_id, "keras_model"),
        run_id=run_id,
        model=model,
        signature=ModelSignature(Schema(inputs), Schema([output])),
        # No input_example: mlflow.keras 3.17 writes it to a folder before it creates the folder.
        pip_requirements=_pinned("keras", "tensorflow", "numpy"),
    )
    return str(logged.model_id)


def log_onnx(
    mlflow: MlflowResource,
    run_id: str,
    onnx_model: OnnxModel,
    example: Mapping[str, np.ndarray],
    test_metrics: Mapping[str, float],
) -> str:
    """Log the ONNX file as a model with signature, example, requirements and test metrics; return its URI."""
    client = mlflow.client()
    import onnx
    from mlflow import onnx as onnx_flavor
    from mlflow.entities import Metric
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(tensors: Mapping[str, list[str | int]]) -> Schema:
        return Schema(
            [
                TensorSpec(_plain(INPUT_TYPES[str(kind)]), (-1, *map(int, shape[1:])), name)
                for name, (kind, *shape) in tensors.items()
            ]
        )

    report = onnx_model.report
    logged = Model.log(
        None,
        onnx_flavor,
        model_id=_new_model(client, run_id, "onnx_model"),
        run_id=run_id,
        onnx_model=onnx.load_model_from_string(onnx_model.content),
        signature=ModelSignature(schema(report.inputs), schema(report.outputs)),
        input_example=dict(example),
        pip_requirements=requirements(),
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    now = _milliseconds()
    metrics = [
        Metric(f"test_{name}", value, now, 0, model_id=logged.model_id)
        for name, value in test_metrics.items()
        if np.isfinite(value)
    ]
    log_metrics(client, run_id, metrics)
    return logged.model_uri


def _plain(dtype: np.dtype) -> np.dtype:
    """Return the type as MLflow names it: text is not an object."""
    return np.dtype(str) if dtype.name == "object" else dtype


def _new_model(client: MlflowClient, run_id: str, name: str) -> str:
    """Create a logged model of the run and return its id.

    `Model.log` would create it in the process's active experiment, which is another one than the run's.
    """
    run = client.get_run(run_id)
    created = client.create_logged_model(run.info.experiment_id, name, run_id, params=run.data.params)
    return str(created.model_id)


def requirements() -> list[str]:
    """Return the requirements of the ONNX file, pinned to the versions it was tested with."""
    return _pinned("onnxruntime", "onnx", "numpy")


def _pinned(*names: str) -> list[str]:
    return [f"{name}=={metadata.version(name)}" for name in names]


def log_metrics(client: MlflowClient, run_id: str, metrics: list[Any]) -> None:
    """Log metrics in batches of the size that the server accepts."""
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])


def _log_figures(client: MlflowClient, run_id: str, figures: Mapping[str, bytes]) -> None:
    if not figures:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, png in figures.items():
            file = Path(folder) / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png)
        client.log_artifacts(run_id, folder, "figures")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _milliseconds() -> int:
    import time

    return int(time.time() * 1000)
