"""Predicts with an ONNX file through onnxruntime; refuses files with external data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jukebox_orch.contract.memmap import iter_entries
from jukebox_orch.ml.keras_runtime import UnsafeFileError, scoring_batch

if TYPE_CHECKING:
    import onnx


class OnnxPredictor:
    """Predicts with an ONNX file on the CPU; outputs are in the order of the file.

    Attributes:
        inputs: names of the inputs, in order.
        dtypes: the arrays' types by input; text is `object`.
        labels: class names from the file's metadata; empty for regression.
        metadata: all of the file's metadata.
    """

    def __init__(self, content: bytes) -> None:
        """Load the file's bytes.

        Raises:
            UnsafeFileError: a tensor is stored outside the file.
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
        self.dtypes = {i.name: INPUT_TYPES.get(i.type, np.dtype(object)) for i in self.session.get_inputs()}
        self.labels: tuple[str, ...] = tuple(json.loads(self.metadata.get("labels", "[]")))

    def predict(self, raw: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the outputs (n, outputs) for raw inputs by name (n, …), computed in batches."""
        outputs = [
            self.session.run(None, {name: np.ascontiguousarray(values) for name, values in chunk.items()})[0]
            for chunk in iter_entries(raw, scoring_batch(raw))
        ]
        return np.concatenate(outputs)  # pyright: ignore[reportCallIssue, reportArgumentType]


INPUT_TYPES: dict[str, np.dtype] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(string)": np.dtype(object),
}
"""Types of inputs that the product's files have."""


def refuse_external_data(content: bytes) -> None:
    """Refuse a model with tensors in other files.

    Raises:
        UnsafeFileError: names the tensor and its path.
        ValueError: the bytes are not an ONNX model.
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
                f"tensor {tensor.name!r} is stored outside the ONNX file, in {location!r}; save the model as one file"
            )


def _tensors(model: onnx.ModelProto) -> list[Any]:
    """Return every tensor that can hold data: initializers and node attributes, also in subgraphs and functions."""
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
