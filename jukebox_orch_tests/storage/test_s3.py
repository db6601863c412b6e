"""Artifacts and the model store on a real S3 server, which has no rename."""

from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from jukebox_orch.ml.artifacts import SourcedDataset
from jukebox_orch.storage.artifact_store import ArtifactError, ArtifactStore
from jukebox_orch.storage.model_store import ModelStore, StoreError
from jukebox_orch_tests.support.artifacts import KEY, stored
from jukebox_orch_tests.support.deployment import SMALL, Deployment, failures


@pytest.fixture
def s3_deployment(s3: str, tmp_path: Path, migrated: Path):
    import shutil

    shutil.copy(migrated, tmp_path / "mlflow.db")
    deployment = Deployment(tmp_path, artifacts=f"{s3}/artifacts", models=f"{s3}/models")
    yield deployment
    deployment.instance.dispose()


def test_run_with_artifacts_and_models_on_s3_succeeds(s3_deployment: Deployment, s3: str):
    result = s3_deployment.run(**SMALL)
    assert result.success, failures(result)
    assert s3_deployment.metadata("blobs/features")["path"].startswith(f"{s3}/artifacts/blobs/features/")
    entry = s3_deployment.store().entry("blobs", "1")
    assert {p.name for p in entry.iterdir()} >= {"model.onnx", "labels.json", "README.md", "profile.json"}
    assert s3_deployment.aliases()["champion"] == "1"
    repeated = s3_deployment.run(**SMALL)
    assert repeated.success, failures(repeated)
    assert "reused_from_run" in s3_deployment.metadata("blobs/trained_model")
    assert s3_deployment.versions() == [1]


def test_changed_object_on_s3_is_refused(s3: str):
    store = ArtifactStore(root=f"{s3}/tampered")
    metadata = stored(store, SourcedDataset({"n": np.ones(5)}, origin=None))
    assert store.read(metadata, KEY).tables["n"].tolist() == [1] * 5
    (UPath(str(metadata["path"].value)) / "n.npy").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="the files were changed; refused"):
        store.read(metadata, KEY)


def test_partially_uploaded_entry_is_completed(s3: str):
    """An object store has no rename, so a process killed between two uploads leaves an incomplete entry."""
    store = ModelStore(root=f"{s3}/half")
    files = {"README.md": b"card", "model.onnx": b"onnx", "profile.json": b"{}"}
    for uploaded in (["README.md"], ["README.md", "model.onnx"]):
        version = str(len(uploaded))
        for name in uploaded:
            (store.entry("blobs", version) / name).write_bytes(files[name])
        entry = store.save("blobs", version, files)
        assert {p.name: p.read_bytes() for p in entry.iterdir()} == files


@pytest.mark.parametrize("root", ["local", "s3"])
def test_entry_is_not_replaced_by_another_model(root: str, s3: str, tmp_path: Path):
    store = ModelStore(root=f"{s3}/never" if root == "s3" else str(tmp_path))
    store.save("blobs", "1", {"model.onnx": b"one"})
    store.save("blobs", "1", {"model.onnx": b"one"})
    with pytest.raises(StoreError, match="restore its file or remove the entry"):
        store.save("blobs", "1", {"model.onnx": b"two"})
    assert (store.entry("blobs", "1") / "model.onnx").read_bytes() == b"one"


def test_latest_version_is_highest_number(tmp_path: Path):
    store = ModelStore(root=str(tmp_path))
    assert store.latest("blobs") is None
    for version in ("2", "10", "9"):
        store.save("blobs", version, {"model.onnx": b"one"})
    (tmp_path / "blobs" / "notes").mkdir()
    assert store.latest("blobs") == "10"
