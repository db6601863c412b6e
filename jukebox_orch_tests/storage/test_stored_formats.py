"""Artifacts of older versions are read; those of another schema are refused with a reason."""

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from jukebox_orch.ml.artifact_formats import FORMATS, format_of
from jukebox_orch.ml.keras_runtime import UnsafeFileError, import_keras, predict
from jukebox_orch.ml.onnx_predictor import OnnxPredictor
from jukebox_orch.storage.artifact_store import ArtifactError, ArtifactStore
from jukebox_orch.storage.publishing import combined_digest, file_digest
from jukebox_orch_tests.support.deployment import Deployment

# Artifacts of one run of the project `blobs`, written by the code before formats had a schema number.
GOLDEN = Path(__file__).parent / "golden"
RECORDED: dict[str, dict[str, str]] = json.loads((GOLDEN / "materializations.json").read_text())


def read(asset: str, folder: Path, sha256: str) -> Any:
    metadata = {
        "path": dg.MetadataValue.path(str(folder)),
        "sha256": dg.MetadataValue.text(sha256),
        "format": dg.MetadataValue.text(RECORDED[asset]["format"]),
    }
    return ArtifactStore(root=str(folder.parent)).read(metadata, dg.AssetKey(["blobs", asset]))


@pytest.mark.parametrize("asset", RECORDED)
def test_artifact_of_older_version_is_read(asset: str) -> None:
    value = read(asset, GOLDEN / asset, RECORDED[asset]["sha256"])
    assert format_of(value).name == RECORDED[asset]["format"]
    if asset != "registered_model":  # its data version names the version, not the content
        assert format_of(value).digest(value) == RECORDED[asset]["data_version"]


def test_models_of_older_version_predict_the_same() -> None:
    features = read("features", GOLDEN / "features", RECORDED["features"]["sha256"]).features
    network = read("trained_model", GOLDEN / "trained_model", RECORDED["trained_model"]["sha256"]).keras_model
    onnx = read("onnx_model", GOLDEN / "onnx_model", RECORDED["onnx_model"]["sha256"])
    ours = OnnxPredictor(onnx.content).predict(features.raw(features.test))
    np.testing.assert_allclose(ours, predict(network, features.arrays(features.test)), atol=1e-5)


def test_format_names_equal_recorded_names() -> None:
    assert set(FORMATS) == {recorded["format"] for recorded in RECORDED.values()}


DOCUMENTS = {
    "validated_data": "report.json",
    "features": "features.json",
    "trained_model": "training.json",
    "evaluation": "report.json",
    "onnx_model": "report.json",
    "registered_model": "report.json",
}


@pytest.fixture
def other_network(tmp_path: Path) -> Path:
    """Return a valid file whose weights are all 7."""
    import keras

    path = tmp_path / "other.keras"
    network = keras.models.clone_model(golden_network())
    network.set_weights([np.full_like(weights, 7) for weights in network.get_weights()])
    network.save(path)
    return path


def golden_network() -> Any:
    return read("trained_model", GOLDEN / "trained_model", RECORDED["trained_model"]["sha256"]).keras_model


def test_network_swapped_before_use_is_refused(tmp_path: Path, other_network: Path) -> None:
    folder = tmp_path / "trained_model"
    shutil.copytree(GOLDEN / "trained_model", folder)
    trained = read("trained_model", folder, RECORDED["trained_model"]["sha256"])
    other_network.replace(folder / "model.keras")
    with pytest.raises(UnsafeFileError, match=r"model\.keras has sha256 .*: the file was changed after that"):
        _ = trained.keras_model


def test_network_swapped_while_it_is_loaded_is_not_read(
    tmp_path: Path, other_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swap the file where Keras takes over, after every check."""
    folder = tmp_path / "trained_model"
    shutil.copytree(GOLDEN / "trained_model", folder)
    trained = read("trained_model", folder, RECORDED["trained_model"]["sha256"])
    keras = import_keras()
    load_model = keras.saving.load_model
    opened: list[Path] = []

    def swap_and_load(path: Path, **options: Any) -> Any:
        shutil.copy(other_network, folder / "model.keras")
        opened.append(path)
        return load_model(path, **options)

    monkeypatch.setattr(keras.saving, "load_model", swap_and_load)
    weights = trained.keras_model.get_weights()
    monkeypatch.undo()
    for loaded, golden in zip(weights, golden_network().get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, golden)
    (copy,) = opened
    assert not copy.exists()


@pytest.mark.parametrize("asset", DOCUMENTS)
@pytest.mark.parametrize("change", ["schema", "field missing"])
def test_artifact_of_another_schema_is_refused(asset: str, change: str, tmp_path: Path) -> None:
    folder = tmp_path / asset
    shutil.copytree(GOLDEN / asset, folder)
    document = folder / DOCUMENTS[asset]
    content = json.loads(document.read_text())
    if change == "schema":
        content["schema"] = 2
    else:
        del content["dataset_digest" if "dataset_digest" in content else "sha256"]
    document.write_text(json.dumps(content))
    sha256 = combined_digest({file.name: file_digest(file) for file in folder.iterdir()})
    reason = "has schema 2, this version reads schema 1" if change == "schema" else "has different fields"
    with pytest.raises(
        ArtifactError,
        match=rf"^blobs/{asset}: .* was written by another version \({DOCUMENTS[asset]} {reason}.*"
        r"\): materialize the asset again$",
    ):
        read(asset, folder, sha256)


def test_every_stored_document_has_schema(finished: tuple[Deployment, Any]) -> None:
    for asset, name in DOCUMENTS.items():
        folder = Path(finished[0].metadata(f"blobs/{asset}")["path"])
        assert json.loads((folder / name).read_text())["schema"] == 1, asset
