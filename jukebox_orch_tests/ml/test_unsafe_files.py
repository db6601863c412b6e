"""Unsafe model files are refused before anything in them is loaded."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from jukebox_orch.ml.keras_runtime import UnsafeFileError, load_keras
from jukebox_orch.ml.onnx_predictor import OnnxPredictor, refuse_external_data


def keras_file(folder: Path, *layers: Any) -> Path:
    import keras

    path = folder / "model.keras"
    keras.Sequential([keras.Input((2,)), *layers]).save(path)
    return path


def test_lambda_layer_is_refused(tmp_path: Path):
    import keras

    path = keras_file(tmp_path, keras.layers.Lambda(lambda x: x, name="payload"))
    with pytest.raises(
        UnsafeFileError, match=r"layer 'payload' is a Lambda layer, which is Python code; use a layer class"
    ):
        load_keras(path)


def test_nested_lambda_layer_is_refused(tmp_path: Path):
    import keras

    inner = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x, name="deep")])
    with pytest.raises(UnsafeFileError, match="'deep'"):
        load_keras(keras_file(tmp_path, inner))


@pytest.mark.parametrize("name", ["model.h5", "model.pkl", "model.hdf5", "saved_model.pb", "model"])
def test_other_model_files_are_refused(name: str, tmp_path: Path):
    good = keras_file(tmp_path)
    path = good.rename(tmp_path / name)
    with pytest.raises(UnsafeFileError, match=r"only \.keras archives are loaded"):
        load_keras(path)


def test_pickle_with_keras_suffix_is_refused(tmp_path: Path):
    path = tmp_path / "model.keras"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnsafeFileError, match=r"only \.keras archives are loaded"):
        load_keras(path)


def test_archive_without_configuration_is_refused(tmp_path: Path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
    with pytest.raises(UnsafeFileError, match=r"config\.json is missing: not a \.keras archive"):
        load_keras(path)


def test_foreign_object_in_configuration_is_not_run(tmp_path: Path):
    path = keras_file(tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"].append(
        {
            "module": "os",
            "class_name": "system",
            "config": {"command": f"touch {tmp_path / 'executed'}"},
            "registered_name": "system",
            "build_config": None,
        }
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "config.json": json.dumps(config)}.items():
            archive.writestr(name, content)
    with pytest.raises((TypeError, ValueError)):
        load_keras(path)
    assert not (tmp_path / "executed").exists()


def external(tensor: TensorProto) -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.ClearField("int64_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return tensor


def onnx_with_external_data(where: str) -> bytes:
    weights = external(helper.make_tensor("weights", TensorProto.FLOAT, [1], [1.0]))
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("indices", TensorProto.INT64, [1], [0]),
        [1],
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])
    constant = helper.make_node("Constant", [], ["weights"], value=weights)
    add = helper.make_node("Add", ["x", "weights"], ["y"])
    graph = helper.make_graph([add], "g", [x], [y])
    functions = []
    if where == "initializer":
        graph.initializer.append(weights)
    elif where == "constant":
        graph.node.insert(0, constant)
    elif where == "subgraph":
        inner = helper.make_graph([constant], "inner", [], [helper.make_tensor_value_info("weights", 1, [1])])
        flag = helper.make_node("If", ["x"], ["weights"], then_branch=inner, else_branch=inner)
        graph.node.insert(0, flag)
    elif where == "sparse initializer":
        external(sparse.values)
        graph.sparse_initializer.append(sparse)
    elif where == "function":
        functions.append(
            helper.make_function("own", "F", [], ["weights"], [constant], [helper.make_opsetid("", 18)])
        )
    return helper.make_model(graph, functions=functions).SerializeToString()


@pytest.mark.parametrize("where", ["initializer", "constant", "subgraph", "sparse initializer", "function"])
def test_onnx_with_external_data_is_refused(where: str):
    content = onnx_with_external_data(where)
    with pytest.raises(
        UnsafeFileError,
        match=r"stored outside the ONNX file, in '\.\./\.\./etc/passwd'; save the model as one file",
    ):
        refuse_external_data(content)
    with pytest.raises(UnsafeFileError):
        OnnxPredictor(content)


@pytest.mark.parametrize(
    "content", [b"", b"not onnx", pickle.dumps({"a": 1})], ids=["empty", "text", "pickle"]
)
def test_invalid_onnx_bytes_are_refused(content: bytes):
    with pytest.raises(ValueError, match=r"ONNX|onnxruntime"):
        OnnxPredictor(content)
