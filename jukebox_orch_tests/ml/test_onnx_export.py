"""The ONNX file: the same outputs as Keras, for any number of rows, with what a server and a person need to know."""

import json
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from jukebox_orch.contract import Features, ModelProject, Normalization, Split
from jukebox_orch.ml import drift
from jukebox_orch.ml.artifacts import OPSET, OnnxModel, StoredFeatures, TrainedModel
from jukebox_orch.ml.keras_runtime import predict
from jukebox_orch.ml.onnx_export import compare, export
from jukebox_orch.ml.onnx_predictor import OnnxPredictor
from jukebox_orch.ml.training import train
from jukebox_orch_tests.support.projects import Blobs, Rents, ShareSplit


class Pictures(Blobs):
    """One uint8 tensor as the input, in place of columns."""

    name = "pictures"

    def build_features(self, dataset: Any, split: Any, seed: int) -> Features:
        random = np.random.default_rng(0)

        def part(name: str) -> Split:
            y = np.arange(30) % 3
            x = (random.integers(0, 40, (30, 4, 4, 1)) + 80 * y[:, None, None, None]).astype(np.uint8)
            return Split.of_rows(x, y, np.array([f"{name}{i}" for i in range(30)]))

        return Features(part("a"), part("b"), part("c"), ("image",), self.colors, Normalization.unit(0, 255))

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


def test_outputs_equal_keras_on_the_whole_test_split(case):
    project, model, features, made = case
    theirs = predict(model.keras_model, features.test.x)
    ours = OnnxPredictor(made.content).predict(features.test.x)
    size = max(1.0, float(np.abs(theirs).max()))
    difference = float(np.abs(ours - theirs).max()) / size
    assert difference <= 1e-5
    assert made.report.max_abs_difference == pytest.approx(difference)
    assert made.report.test_rows == len(features.test)
    assert made.report.agreement == project.task.agreement(ours, theirs) == 1


def test_inputs_and_outputs_have_the_documented_names_types_and_shapes(case):
    project, _, features, made = case
    dtype = "tensor(uint8)" if project.name == "pictures" else "tensor(float)"
    if features.columns:
        assert made.report.inputs == {name: [dtype, "batch", 1] for name in features.inputs}
    else:
        assert made.report.inputs == {"image": [dtype, "batch", 4, 4, 1]}
    outputs = len(features.labels) or 1
    assert made.report.outputs == {project.task.output: ["tensor(float)", "batch", outputs]}


def test_any_number_of_rows_gives_the_same_answer_per_row(case):
    _, _, features, made = case
    predictor = OnnxPredictor(made.content)
    together = predictor.predict(features.test.x)
    alone = np.concatenate([predictor.predict(features.test.x[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, together[:5], rtol=1e-5, atol=1e-6)
    many = np.concatenate([features.test.x] * (5_000 // len(features.test) + 1))
    assert len(predictor.predict(many)) == len(many)
    assert made.report.single_row_difference <= 1e-5


def test_the_metadata_says_project_features_labels_and_lineage(case):
    project, _, features, made = case
    properties = (
        onnxruntime.InferenceSession(made.content, providers=["CPUExecutionProvider"])
        .get_modelmeta()
        .custom_metadata_map
    )
    assert properties["project"] == project.name
    assert properties["task"] == project.task.kind
    assert json.loads(properties["features"]) == list(features.inputs)
    assert json.loads(properties["labels"]) == list(features.labels)
    assert properties["version"] == "1.2.3"
    assert properties["dataset_digest"] == "d"
    assert OnnxPredictor(made.content).labels == features.labels


def test_the_file_is_valid_of_the_documented_opset_and_self_contained(case):
    *_, made = case
    proto = onnx.load_model_from_string(made.content)
    onnx.checker.check_model(proto, full_check=True)
    (opset,) = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    assert opset == made.report.opset == OPSET == 18
    assert {o.domain for o in proto.opset_import} <= {"", "ai.onnx", "ai.onnx.ml"}
    assert not made.report.external_data
    assert made.report.checker_error == ""


def test_the_same_network_is_the_same_file_and_other_metadata_another(case):
    project, _, _, made = case
    assert exported(project, "1.2.3")[2].report.sha256 == made.report.sha256
    assert exported(project, "1.2.4")[2].report.sha256 != made.report.sha256


def test_a_report_shows_a_difference_that_is_there():
    """The proof must be able to fail: Keras' outputs are moved and two rows swap their decision."""
    project = Blobs()
    model, features, made = exported(project)
    outputs = predict(model.keras_model, features.test.x)
    moved = outputs.copy()
    moved[0, outputs[0].argmax()] -= 0.01
    report = compare(project, made.content, features, moved)
    assert report.max_abs_difference == pytest.approx(0.01, abs=1e-4)
    turned = outputs.copy()
    turned[0] = np.roll(turned[0], 1)
    assert compare(project, made.content, features, turned).agreement < 1


def test_rows_of_another_shape_are_refused():
    predictor = OnnxPredictor(exported(Blobs())[2].content)
    with pytest.raises(ValueError, match=r"the model takes 3 inputs of shape \[batch, 1\], not \(2, 4\)"):
        predictor.predict(np.zeros((2, 4), np.float32))
