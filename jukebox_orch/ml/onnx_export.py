"""Exports the trained model as one ONNX file and compares it with Keras on the whole test split.

The file takes raw features (it contains the normalization), has the project's input names and a dynamic batch
dimension, and stores labels, features and lineage in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jukebox_orch.contract import Features, ModelProject
from jukebox_orch.ml.artifacts import OPSET, OnnxModel, OnnxReport, TrainedModel
from jukebox_orch.ml.keras_runtime import predict, seeded_keras
from jukebox_orch.ml.onnx_predictor import OnnxPredictor

if TYPE_CHECKING:
    import keras
    import onnx


def export(project: ModelProject, trained: TrainedModel, features: Features, version: str = "") -> OnnxModel:
    """Convert the trained model and compare the file with Keras on the whole test split.

    Args:
        version: label of the model version, written to the file's metadata with the digests of data and model.
    """
    report = trained.report
    lineage = {
        "version": version,
        "dataset_digest": report.dataset_digest,
        "features_digest": report.features_digest,
        "model_digest": report.model_digest,
    }
    keras_test = predict(trained.keras_model, features.test.x)
    content = _convert(project, trained.keras_model, features, lineage)
    return OnnxModel(content, compare(project, content, features, keras_test))


def compare(project: ModelProject, content: bytes, features: Features, keras_test: np.ndarray) -> OnnxReport:
    """Check an ONNX file and measure its differences from Keras.

    Args:
        keras_test: Keras' outputs (n, outputs) for `features.test.x`.
    """
    import onnx

    proto = onnx.load_model_from_string(content)
    try:
        onnx.checker.check_model(proto, full_check=True)
        checker_error = ""
    except onnx.checker.ValidationError as error:
        checker_error = str(error)
    predictor = OnnxPredictor(content)
    ours = predictor.predict(features.test.x)
    single = predictor.predict(features.test.x[:1])
    # float32 has seven digits, so large regression outputs differ by more than probabilities do.
    size = max(1.0, float(np.abs(keras_test).max()))
    return OnnxReport(
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        opset=proto.opset_import[0].version,
        ir_version=proto.ir_version,
        inputs={i.name: [i.type, *i.shape] for i in predictor.session.get_inputs()},
        outputs={o.name: [o.type, *o.shape] for o in predictor.session.get_outputs()},
        metadata=predictor.metadata,
        test_rows=len(ours),
        max_abs_difference=float(np.abs(ours - keras_test).max()) / size,
        agreement=project.task.agreement(ours, keras_test),
        single_row_difference=float(np.abs(single - ours[:1]).max()) / size,
        external_data=False,  # OnnxPredictor refuses files with external data
        checker_error=checker_error,
    )


def _convert(
    project: ModelProject, model: keras.Model, features: Features, metadata: Mapping[str, str]
) -> bytes:
    keras = seeded_keras(seed=0)
    import onnx
    import tensorflow as tf
    import tf2onnx

    dtype = features.train.x.dtype.name
    if features.columns:
        inputs = [keras.Input((1,), dtype=dtype, name=name) for name in features.inputs]
        raw = keras.layers.Concatenate(name="features")(inputs) if len(inputs) > 1 else inputs[0]
    else:
        inputs = [keras.Input(features.shape, dtype=dtype, name=features.inputs[0])]
        raw = inputs[0]
    # The name of the last layer becomes the name of the output in the file.
    output = keras.layers.Activation("linear", name=project.task.output)(model(raw, training=False))
    wrapper = keras.Model(inputs, output, name="serving")
    signature = [tf.TensorSpec((None, *i.shape[1:]), i.dtype, name=i.name) for i in inputs]
    proto, _ = tf2onnx.convert.from_keras(wrapper, input_signature=signature, opset=OPSET)
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]
    _renumber_names(proto.graph)
    onnx.helper.set_model_props(
        proto,
        {
            "project": project.name,
            "task": project.task.kind,
            "features": json.dumps(features.inputs),
            "labels": json.dumps(features.labels),
            **metadata,
        },
    )
    return proto.SerializeToString(deterministic=True)


def _renumber_names(graph: onnx.GraphProto) -> None:
    """Number generated names from 0: tf2onnx counts per process, so earlier conversions would change the file."""
    numbers: dict[str, str] = {}

    def renumbered(name: str) -> str:
        base, separator, number = name.rpartition("__")
        if not (separator and number.isdigit()):
            return name
        return numbers.setdefault(name, f"{base}__{len(numbers)}")

    graphs = [graph]
    while graphs:
        current = graphs.pop()
        for tensor in current.initializer:
            tensor.name = renumbered(tensor.name)
        for node in current.node:
            node.name = renumbered(node.name)
            node.input[:] = [renumbered(name) for name in node.input]
            node.output[:] = [renumbered(name) for name in node.output]
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
