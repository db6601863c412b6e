"""Exports the trained model as one ONNX file and compares it with Keras on the whole test split.

The file takes raw features (it contains the normalization), has the project's input names and a dynamic batch
dimension, and stores labels, features and lineage in its metadata.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jukebox_orch.contract import Categories, Columns, Features, InputError, ModelProject
from jukebox_orch.ml.artifacts import OPSET, OnnxModel, OnnxReport, TrainedModel
from jukebox_orch.ml.keras_runtime import load_keras, model_input, predict, project_keras
from jukebox_orch.ml.onnx_operators import insert_label_encoder, rewrite_operators, unsupported_operators
from jukebox_orch.ml.onnx_predictor import OnnxPredictor
from jukebox_orch.ml.project_calls import custom_objects, error_text

if TYPE_CHECKING:
    import keras
    import onnx

_TRIED_ENTRIES = 32


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
    with project_keras(project, seed=0):
        model = trained.keras_model
        keras_test = predict(model, features.arrays(features.test))
        content = convert(project, model, features, lineage)
    return OnnxModel(content, compare(project, content, features, keras_test))


def try_export(project: ModelProject, model: keras.Model, features: Features) -> None:
    """Save, load and convert a model that is not yet trained: what cannot be exported is refused before the fit.

    Raises:
        InputError: names the layer and operator, or what Keras says, and what to do.
    """
    where = f"{project.name}: build_model():"
    some, raw = _tried_entries(features)
    try:
        ours, again = predict(model, some), predict(model, some)
    except Exception as error:
        hint = (
            "; a category that the training split does not have is the code `size - 1`"
            if _categories(features)
            else ""
        )
        raise InputError(
            f"{where} the network cannot predict: {error_text(error)}; correct its layers{hint}"
        ) from error
    if difference := _difference(again, ours):
        raise InputError(
            f"{where} the network predicts differently each time, by {difference:.3g}: be random in training only"
        )
    with tempfile.TemporaryDirectory(prefix="keras-") as folder:
        path = Path(folder) / "model.keras"
        try:
            model.save(path)
            with _only_custom_objects(project):
                loaded = load_keras(path)
        except Exception as error:
            raise InputError(
                f"{where} the model cannot be stored and loaded without code: {error_text(error)}; "
                "name own layers and functions in custom_objects(); a lambda has no name"
            ) from error
    if difference := _difference(predict(loaded, some), ours):
        raise InputError(
            f"{where} the stored model predicts otherwise, by {difference:.3g}: "
            "own layers need get_config() with all their arguments"
        )
    predictor = OnnxPredictor(convert(project, model, features, {}))
    if (difference := _difference(predictor.predict(raw), ours)) > project.parity_tolerance:
        raise InputError(
            f"{where} the ONNX file predicts otherwise than Keras, by {difference:.3g} with the "
            f"initial weights (parity_tolerance {project.parity_tolerance:g}): replace the layer that differs, or "
            "raise the tolerance"
        )


def _tried_entries(features: Features) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the first training entries as the Keras model and as the ONNX file take them.

    The last one has an unknown value in every category: no split may have one, but a client will send it.
    """
    x = features.train.x
    tensors, raw = {}, {}
    for block in features.blocks:
        values = (x[block.name] if isinstance(x, Mapping) else x)[:_TRIED_ENTRIES]
        last = np.array([block.size - 1], np.int32) if isinstance(block, Categories) else values[-1:]
        values = np.concatenate([values, last])
        tensors[block.name] = block.tensor(values)
        raw |= block.raw(values)
    return tensors, raw


def _categories(features: Features) -> bool:
    return any(isinstance(block, Categories) for block in features.blocks)


@contextmanager
def _only_custom_objects(project: ModelProject) -> Iterator[None]:
    """Load as another process does: classes that importing the project's layers registers with Keras are unknown."""
    import keras

    registered = keras.saving.get_custom_objects()
    before = dict(registered)
    registered.clear()
    try:
        with keras.saving.custom_object_scope(custom_objects(project)):
            yield
    finally:
        registered.clear()
        registered.update(before)


def compare(project: ModelProject, content: bytes, features: Features, keras_test: np.ndarray) -> OnnxReport:
    """Check an ONNX file and measure its differences from Keras.

    Args:
        keras_test: Keras' outputs (n, outputs) for the test split.
    """
    import onnx

    proto = onnx.load_model_from_string(content)
    try:
        onnx.checker.check_model(proto, full_check=True)
        checker_error = ""
    except onnx.checker.ValidationError as error:
        checker_error = str(error)
    predictor = OnnxPredictor(content)
    ours = predictor.predict(features.raw(features.test))
    single = predictor.predict(features.raw(features.test, slice(1)))
    return OnnxReport(
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        opset=proto.opset_import[0].version,
        ir_version=proto.ir_version,
        inputs={i.name: [i.type, *i.shape] for i in predictor.session.get_inputs()},
        outputs={o.name: [o.type, *o.shape] for o in predictor.session.get_outputs()},
        metadata=predictor.metadata,
        test_rows=len(ours),
        max_abs_difference=_difference(ours, keras_test),
        agreement=project.task.agreement(ours, keras_test, project.parity_tolerance),
        single_row_difference=_difference(single, ours[:1], keras_test),
        external_data=False,  # OnnxPredictor refuses files with external data
        checker_error=checker_error,
    )


def convert(
    project: ModelProject, model: keras.Model, features: Features, metadata: Mapping[str, str]
) -> bytes:
    """Convert a Keras model that takes `Features.arrays` to an ONNX file that takes `Features.raw`.

    Raises:
        InputError: an operator has no equal in ONNX; names it and its layer.
    """
    import keras
    import onnx
    import tensorflow as tf
    import tf2onnx

    keras.utils.clear_session(free_memory=False)  # it numbers layers, and their names are in the file
    inputs: list[Any] = []
    tensors: dict[str, Any] = {}
    for block, x in zip(features.blocks, features.arrays(features.train).values(), strict=True):
        shape = (1,) if isinstance(block, Columns) else x.shape[1:]
        own = [keras.Input(shape, dtype=x.dtype.name, name=name) for name in block.inputs]
        inputs += own
        suffix = f"_{block.name}" if len(features.blocks) > 1 else ""
        joined = keras.layers.Concatenate(name=f"features{suffix}", dtype=x.dtype.name)
        tensors[block.name] = joined(own) if len(own) > 1 else own[0]
    # The name of the last layer becomes the name of the output in the file.
    output = keras.layers.Activation("linear", dtype="float32", name=project.task.output)(
        model(model_input(tensors), training=False)
    )
    wrapper = keras.Model(inputs, output, name="serving")
    signature = [tf.TensorSpec((None, *i.shape[1:]), i.dtype, name=i.name) for i in inputs]
    # It logs operators that it does not know, some of which are replaced below, and continues.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    proto, _ = tf2onnx.convert.from_keras(wrapper, input_signature=signature, opset=OPSET)
    rewrite_operators(proto.graph)
    if unsupported := unsupported_operators(proto, [layer.name for layer in _all_layers(model)]):
        raise InputError(
            f"{project.name}: build_model(): ONNX has no equal of {'; '.join(unsupported)}: use another layer"
        )
    for block in features.blocks:
        if isinstance(block, Categories):
            insert_label_encoder(proto, block)
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]
    _renumber_names(proto.graph)
    onnx.helper.set_model_props(
        proto,
        {
            "project": project.name,
            "task": project.task.kind,
            "features": json.dumps(features.input_names),
            "labels": json.dumps(features.labels),
            **metadata,
        },
    )
    return proto.SerializeToString(deterministic=True)


def _all_layers(model: Any) -> list[Any]:
    """Return the layers of a model and of the models in it."""
    layers: list[Any] = []
    for layer in model.layers:
        layers += [layer, *(_all_layers(layer) if hasattr(layer, "layers") else [])]
    return layers


def _difference(ours: np.ndarray, theirs: np.ndarray, sized_by: np.ndarray | None = None) -> float:
    """Return the largest difference, relative to the largest output if that is above 1.

    float32 has seven digits, so large regression outputs differ by more than probabilities do.
    """
    size = max(1.0, float(np.abs(theirs if sized_by is None else sized_by).max()))
    return float(np.abs(ours - theirs).max()) / size


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
