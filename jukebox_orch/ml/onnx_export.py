"""Keras to ONNX, and the proof that both say the same.

The file takes raw features (normalisation is inside), names its inputs as the project does, has a dynamic
batch dimension and carries labels, features and lineage in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jukebox_orch.contract.memmap import pieces
from jukebox_orch.contract.project import Features, ModelProject
from jukebox_orch.ml.artifacts import OPSET, OnnxModel, OnnxReport
from jukebox_orch.ml.training import scoring_batch, seeded_keras

if TYPE_CHECKING:
    import keras
    import onnx


class UnsafeFileError(ValueError):
    """A model file of a kind that can run code or point outside itself."""


def export(
    project: ModelProject,
    model: keras.Model,
    features: Features,
    metadata: Mapping[str, str],
    keras_test: np.ndarray,
) -> OnnxModel:
    """Convert `model` and compare it with Keras on the whole test split.

    Args:
        metadata: written into the file's metadata properties beside labels and features.
        keras_test: Keras' outputs (n, outputs) for `features.test.x`.
    """
    content = _convert(project, model, features, metadata)
    return OnnxModel(content, _prove(project, content, features, keras_test))


class OnnxPredictor:
    """An ONNX file ready to predict with onnxruntime on the CPU, outputs as in the file.

    Attributes:
        inputs: names of the inputs, in order.
        labels: class names from the file's metadata; empty for regression.
        metadata: all of the file's metadata.
    """

    def __init__(self, content: bytes) -> None:
        """Load the file's bytes.

        Raises:
            UnsafeFileError: weights are stored outside the file.
            ValueError: not a model that onnxruntime can read.
        """
        import onnxruntime

        refuse_external_data(content)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 2
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ValueError(f"onnxruntime cannot read the model: {error}") from error
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self.inputs = tuple(i.name for i in self.session.get_inputs())
        self.labels: tuple[str, ...] = tuple(json.loads(self.metadata.get("labels", "[]")))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Outputs (n, outputs) for raw inputs (n, …), in batches of bounded size."""
        parts = [self.session.run(None, self.feed(piece))[0] for _, piece in pieces(x, scoring_batch(x))]
        return np.concatenate(parts)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def feed(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """One array per input of the file: a column each, or the whole tensor.

        Raises:
            ValueError: the shape of `x` is not what the file takes.
        """
        if len(self.inputs) == 1:
            return {self.inputs[0]: np.ascontiguousarray(x)}
        if x.ndim != 2 or x.shape[1] != len(self.inputs):
            raise ValueError(f"the model takes {len(self.inputs)} inputs of shape [batch, 1], not {x.shape}")
        return {name: np.ascontiguousarray(x[:, i : i + 1]) for i, name in enumerate(self.inputs)}


def refuse_external_data(content: bytes) -> None:
    """Refuse a file whose tensors live in other files.

    Raises:
        UnsafeFileError: naming the tensor and the path it points to.
        ValueError: the bytes are no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import external_data_helper

    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ValueError(f"not an ONNX model: {error}") from error
    for tensor in _tensors(model):
        if external_data_helper.uses_external_data(tensor):
            location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "?")
            raise UnsafeFileError(
                f"tensor {tensor.name!r} is stored outside the ONNX file, in {location!r}: refused"
            )


def _tensors(model: onnx.ModelProto) -> list[Any]:
    """Every tensor that can carry data: initializers and attributes of nodes, in subgraphs and functions too."""
    import onnx

    found: list[Any] = []
    graphs: list[Any] = [model.graph, *model.functions]
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    while graphs:
        graph = graphs.pop()
        sparse = []
        if isinstance(graph, onnx.GraphProto):
            found += graph.initializer
            sparse += graph.sparse_initializer
        for node in graph.node:
            for attribute in node.attribute:
                found += [attribute.t] if attribute.HasField("t") else []
                found += attribute.tensors
                sparse += [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
                sparse += attribute.sparse_tensors
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
        for tensor in sparse:
            found += [tensor.values, tensor.indices]
    return found


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
    # The last layer's name becomes the output's name in the file.
    output = keras.layers.Activation("linear", name=project.task.output)(model(raw, training=False))
    wrapper = keras.Model(inputs, output, name="serving")
    signature = [tf.TensorSpec((None, *i.shape[1:]), i.dtype, name=i.name) for i in inputs]
    proto, _ = tf2onnx.convert.from_keras(wrapper, input_signature=signature, opset=OPSET)
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]
    _number_names_from_the_start(proto.graph)
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


def _number_names_from_the_start(graph: onnx.GraphProto) -> None:
    """Make the file independent of what was converted before: tf2onnx counts names through a process' life."""
    numbers: dict[str, str] = {}

    def renumbered(name: str) -> str:
        base, mark, number = name.rpartition("__")
        if not (mark and number.isdigit()):
            return name
        return numbers.setdefault(name, f"{base}__{len(numbers)}")

    graphs = [graph]
    while graphs:
        inner = graphs.pop()
        for tensor in inner.initializer:
            tensor.name = renumbered(tensor.name)
        for node in inner.node:
            node.name = renumbered(node.name)
            node.input[:] = [renumbered(name) for name in node.input]
            node.output[:] = [renumbered(name) for name in node.output]
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _prove(project: ModelProject, content: bytes, features: Features, keras_test: np.ndarray) -> OnnxReport:
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
    # float32 has seven digits: outputs in the thousands, as of a regression, differ by more than probabilities.
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
        external_data=False,  # OnnxPredictor has refused it
        checker_error=checker_error,
    )
