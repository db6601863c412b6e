"""Artifacts and the model store on a real S3 server, which has no rename."""

from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from jukebox_orch.storage.artifact_store import ArtifactError, ArtifactStore
from jukebox_orch.storage.model_store import ModelStore, StoreError
from jukebox_orch_tests.storage.test_artifact_store import KEY, stored
from jukebox_orch_tests.support.deployment import SMALL, Deployment, failures


@pytest.fixture
def on_s3(s3: str, tmp_path: Path, migrated: Path):
    import shutil

    shutil.copy(migrated, tmp_path / "mlflow.db")
    place = Deployment(tmp_path, artifacts=f"{s3}/artifacts", models=f"{s3}/models")
    yield place
    place.instance.dispose()


def test_a_whole_run_with_artifacts_and_models_on_s3(on_s3: Deployment, s3: str):
    result = on_s3.run(**SMALL)
    assert result.success, failures(result)
    assert on_s3.metadata("blobs/features")["path"].startswith(f"{s3}/artifacts/blobs/features/")
    entry = on_s3.store().entry("blobs", "1")
    assert {p.name for p in entry.iterdir()} >= {"model.onnx", "labels.json", "README.md", "profile.json"}
    assert on_s3.aliases()["champion"] == "1"
    again = on_s3.run(**SMALL)
    assert again.success, failures(again)
    assert "reused_from_run" in on_s3.metadata("blobs/trained_model")
    assert on_s3.versions() == [1]


def test_an_object_changed_on_s3_is_refused(s3: str):
    store = ArtifactStore(root=f"{s3}/tampered")
    metadata = stored(store, {"n": np.ones(5)})
    assert store.read(metadata, KEY)["n"].tolist() == [1] * 5
    (UPath(str(metadata["path"].value)) / "n.npy").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="the files were changed; refused"):
        store.read(metadata, KEY)


def test_a_model_store_entry_that_was_half_uploaded_is_completed(s3: str):
    """An object store has no rename: a process killed between two uploads leaves some of the files."""
    store = ModelStore(root=f"{s3}/half")
    files = {"README.md": b"card", "model.onnx": b"onnx", "profile.json": b"{}"}
    for uploaded in (["README.md"], ["README.md", "model.onnx"]):
        version = str(len(uploaded))
        for name in uploaded:
            (store.entry("blobs", version) / name).write_bytes(files[name])
        entry = store.save("blobs", version, files)
        assert {p.name: p.read_bytes() for p in entry.iterdir()} == files


@pytest.mark.parametrize("root", ["local", "s3"])
def test_a_model_store_entry_is_never_replaced_by_another_model(root: str, s3: str, tmp_path: Path):
    store = ModelStore(root=f"{s3}/never" if root == "s3" else str(tmp_path))
    store.save("blobs", "1", {"model.onnx": b"one"})
    store.save("blobs", "1", {"model.onnx": b"one"})
    with pytest.raises(StoreError, match="was registered: refused"):
        store.save("blobs", "1", {"model.onnx": b"two"})
    assert (store.entry("blobs", "1") / "model.onnx").read_bytes() == b"one"


def test_the_latest_version_is_the_highest_number(tmp_path: Path):
    store = ModelStore(root=str(tmp_path))
    assert store.latest("blobs") is None
    for version in ("2", "10", "9"):
        store.save("blobs", version, {"model.onnx": b"one"})
    (tmp_path / "blobs" / "notes").mkdir()
    assert store.latest("blobs") == "10"
