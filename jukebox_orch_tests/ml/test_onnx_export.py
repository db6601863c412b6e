"""The ONNX file gives the outputs of Keras for any number of rows, and has a documented interface and metadata."""

import json
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from jukebox_orch.contract import Features, ModelProject, Normalization, ShareSplit, Split
from jukebox_orch.ml import drift
from jukebox_orch.ml.artifacts import OPSET, OnnxModel, StoredFeatures, TrainedModel
from jukebox_orch.ml.keras_runtime import predict
from jukebox_orch.ml.onnx_export import compare, export
from jukebox_orch.ml.onnx_predictor import OnnxPredictor
from jukebox_orch.ml.training import train
from jukebox_orch_tests.support.projects import Blobs, Rents


class Pictures(Blobs):
    """A project with one uint8 tensor as input, instead of columns."""

    name = "pictures"

    def build_features(self, dataset: Any, split: Any, seed: int) -> Features:
        random = np.random.default_rng(0)

        def make_split(name: str) -> Split:
            y = np.arange(30) % 3
            x = (random.integers(0, 40, (30, 4, 4, 1)) + 80 * y[:, None, None, None]).astype(np.uint8)
            return Split.of_rows(x, y, np.array([f"{name}{i}" for i in range(30)]))

        return Features(
            make_split("a"),
            make_split("b"),
            make_split("c"),
            ("image",),
            self.colors,
            Normalization.unit(0, 255),
        )

    def build_model(self, features: Features, hyperparameters: Any) -> keras.Model:
        layers = [keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
        return keras.Sequential([keras.Input(features.shape), *layers])


def exported(project: ModelProject, version: str = "") -> tuple[TrainedModel, Features, OnnxModel]:
    data = project.load(project.source())
    features = project.build_features(data, ShareSplit(), 42)
    feature_set = StoredFeatures(features, "d", drift.profile(project.drift_table(data)))
    model = train(project, feature_set, project.hyperparameters(epochs=3), 1, print)
    return model, features, export(project, model, features, version)


@pytest.fixture(scope="module", params=[Blobs, Rents, Pictures], ids=lambda p: p.name)
def case(request: pytest.FixtureRequest) -> tuple[ModelProject, TrainedModel, Features, OnnxModel]:
    project = request.param()
    return project, *exported(project, "1.2.3")


def test_outputs_equal_keras_on_test_split(case):
    project, model, features, onnx_model = case
    theirs = predict(model.keras_model, features.arrays(features.test))
    ours = OnnxPredictor(onnx_model.content).predict(features.raw(features.test))
    size = max(1.0, float(np.abs(theirs).max()))
    difference = float(np.abs(ours - theirs).max()) / size
    assert difference <= 1e-5
    assert onnx_model.report.max_abs_difference == pytest.approx(difference)
    assert onnx_model.report.test_rows == len(features.test)
    assert onnx_model.report.agreement == project.task.agreement(ours, theirs) == 1


def test_inputs_and_outputs_have_documented_interface(case):
    project, _, features, onnx_model = case
    dtype = "tensor(uint8)" if project.name == "pictures" else "tensor(float)"
    if project.name == "pictures":
        assert onnx_model.report.inputs == {"image": [dtype, "batch", 4, 4, 1]}
    else:
        assert onnx_model.report.inputs == {name: [dtype, "batch", 1] for name in features.inputs}
    outputs = len(features.labels) or 1
    assert onnx_model.report.outputs == {project.task.output: ["tensor(float)", "batch", outputs]}


def test_outputs_do_not_depend_on_batch_size(case):
    _, _, features, onnx_model = case
    predictor = OnnxPredictor(onnx_model.content)
    raw = features.raw(features.test)
    batch = predictor.predict(raw)
    single = np.concatenate(
        [predictor.predict(features.raw(features.test, slice(i, i + 1))) for i in range(5)]
    )
    np.testing.assert_allclose(single, batch[:5], rtol=1e-5, atol=1e-6)
    repeats = 5_000 // len(features.test) + 1
    many = {name: np.concatenate([values] * repeats) for name, values in raw.items()}
    assert len(predictor.predict(many)) == repeats * len(features.test)
    assert onnx_model.report.single_row_difference <= 1e-5


def test_metadata_has_project_features_labels_and_lineage(case):
    project, _, features, onnx_model = case
    properties = (
        onnxruntime.InferenceSession(onnx_model.content, providers=["CPUExecutionProvider"])
        .get_modelmeta()
        .custom_metadata_map
    )
    assert properties["project"] == project.name
    assert properties["task"] == project.task.kind
    assert json.loads(properties["features"]) == list(features.inputs)
    assert json.loads(properties["labels"]) == list(features.labels)
    assert properties["version"] == "1.2.3"
    assert properties["dataset_digest"] == "d"
    assert OnnxPredictor(onnx_model.content).labels == features.labels


def test_file_is_valid_self_contained_and_documented_opset(case):
    *_, onnx_model = case
    proto = onnx.load_model_from_string(onnx_model.content)
    onnx.checker.check_model(proto, full_check=True)
    (opset,) = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    assert opset == onnx_model.report.opset == OPSET == 18
    assert {o.domain for o in proto.opset_import} <= {"", "ai.onnx", "ai.onnx.ml"}
    assert not onnx_model.report.external_data
    assert onnx_model.report.checker_error == ""


def test_equal_network_and_metadata_give_equal_file(case):
    project, _, _, onnx_model = case
    assert exported(project, "1.2.3")[2].report.sha256 == onnx_model.report.sha256
    assert exported(project, "1.2.4")[2].report.sha256 != onnx_model.report.sha256


def test_compare_detects_differences():
    """The comparison must be able to fail: one output is changed, and one row gets another decision."""
    project = Blobs()
    model, features, onnx_model = exported(project)
    outputs = predict(model.keras_model, features.arrays(features.test))
    changed = outputs.copy()
    changed[0, outputs[0].argmax()] -= 0.01
    report = compare(project, onnx_model.content, features, changed)
    assert report.max_abs_difference == pytest.approx(0.01, abs=1e-4)
    rolled = outputs.copy()
    rolled[0] = np.roll(rolled[0], 1)
    assert compare(project, onnx_model.content, features, rolled).agreement < 1
