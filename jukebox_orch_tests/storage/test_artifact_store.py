"""The artifact store returns every value unchanged, or raises an error."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from jukebox_orch.contract import Features, Normalization, Split
from jukebox_orch.ml.artifact_formats import FORMATS, format_of
from jukebox_orch.ml.artifacts import DataOrigin, SourcedDataset, StoredFeatures
from jukebox_orch.storage.artifact_store import ArtifactError, ArtifactStore
from jukebox_orch.storage.publishing import combined_digest, file_digest, publish
from jukebox_orch_tests.support.artifacts import KEY, stored
from jukebox_orch_tests.support.deployment import tamper

TABLE = pd.DataFrame(
    {
        "text": ["ä", None, "c"],
        "number": [1.5, float("nan"), -0.0],
        "whole": [1, 2, 3],
        "flag": [True, False, True],
        "day": pd.Series(["2023-12-18", None, "2023-12-19"], dtype="datetime64[us]"),
        "country": pd.Categorical(["AE", None, "AE"]),
    }
)


def features() -> StoredFeatures:
    random = np.random.default_rng(0)

    def make_split(n: int, name: str) -> Split:
        x = random.normal(size=(n, 2)).astype(np.float32)
        y = random.dirichlet(np.ones(3), n).astype(np.float32)
        weight = np.ones(n, np.float32)
        return Split(x, y, weight, np.array([f"{name}-ü", "long key " * 9]), {"new songs > 3": x[:, 0] > 0})

    train = make_split(5, "a")
    normalization = Normalization.standard(train.x)
    return StoredFeatures(
        Features(train, make_split(3, "b"), make_split(2, "c"), ("x", "y"), ("a", "b", "c"), normalization),
        "d1",
        {"x": {"shares": [1.0]}},
    )


def test_dataset_round_trip_keeps_values_types_and_digest(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    value = {
        "songs": TABLE,
        "images": images,
        "nothing": np.zeros((0, 3), np.float32),
        "none": TABLE[["number"]][:0],
    }
    origin = DataOrigin(name="charts", source="/data/charts.csv", sample=False)
    found = store.read(stored(store, SourcedDataset(value, origin)), KEY)
    assert found.origin == origin
    read = found.tables
    pd.testing.assert_frame_equal(read["songs"], TABLE)
    pd.testing.assert_frame_equal(read["none"], TABLE[["number"]][:0])
    np.testing.assert_array_equal(read["images"], images)
    assert read["images"].dtype == np.uint8
    assert read["nothing"].shape == (0, 3)
    # Where the data lies is not part of its digest.
    assert format_of(found).digest(found) == format_of(found).digest(SourcedDataset(value, origin=None))


def test_features_round_trip_keeps_digest(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    value = features()
    read = store.read(stored(store, value), KEY)
    assert read.digest == value.digest
    assert list(read.features.test.slices) == ["new songs > 3"]
    assert read.features.train.keys.tolist() == value.features.train.keys.tolist()
    assert read.features.shape == (2,)


def test_large_arrays_are_memory_mapped(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    read = store.read(stored(store, {"images": np.ones((1 << 20, 2), np.uint8)}), KEY).tables
    assert isinstance(read["images"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        read["images"][0] = 0


def test_values_of_run_are_read_back(finished):
    deployment, _ = finished
    for asset in ("dataset", "validated_data", "features", "trained_model", "evaluation", "onnx_model"):
        value = deployment.value(f"blobs/{asset}")
        version = deployment.version(f"blobs/{asset}")
        assert format_of(value).digest(value) == version, asset
    network = deployment.value("blobs/trained_model").keras_model
    assert network.input_shape == (None, 3)


def test_report_digest_changes_with_any_number(finished):
    report = finished[0].value("blobs/evaluation")

    def version(factor: float) -> str:
        metrics = {name: value * factor for name, value in report.test.metrics.items()}
        scores = report.test.model_copy(update={"metrics": metrics})
        changed = report.model_copy(update={"test": scores})
        return format_of(changed).digest(changed)

    assert version(1) == finished[0].version("blobs/evaluation")
    assert version(1) != version(1 + 1e-9)


@pytest.mark.parametrize(
    "value",
    [object(), [], {}, {"a": 1}, SourcedDataset({}, None), "text", b"bytes", pickle.dumps(1)],
    ids=lambda value: type(value).__name__,
)
def test_values_of_unknown_types_are_refused(value: Any):
    with pytest.raises(TypeError, match=f"no artifact format for {type(value).__name__}"):
        format_of(value)


def test_object_arrays_are_refused(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        stored(store, {"odd": np.array([{"a": 1}], dtype=object)})
    assert not (tmp_path / "blobs").exists()
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_pickled_array_in_store_is_refused(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    metadata = stored(store, {"odd": np.ones(3)})
    file = Path(str(metadata["path"].value)) / "odd.npy"
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    metadata["sha256"] = dg.MetadataValue.text(file_digest(file))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        store.read(metadata, KEY)


names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0:", exclude_categories=("Cs", "Cc")),
    min_size=1,
    max_size=20,
).filter(lambda name: name.strip(". ") and name == name.strip())


@given(root=names, run=names)
@settings(deadline=None, max_examples=60)
def test_any_folder_name_can_be_root(root: str, run: str):
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / root
        store = ArtifactStore(root=str(folder))
        metadata = stored(store, {"numbers": np.arange(3)}, run_id=run)
        assert Path(str(metadata["path"].value)) == folder / "blobs" / "dataset" / run
        assert store.read(metadata, KEY).tables["numbers"].tolist() == [0, 1, 2]
        assert sorted(p.name for p in Path(parent).iterdir()) == [root]


@given(st.dictionaries(names, st.binary(max_size=50), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_published_files_equal_written_and_digest_covers_all(files: dict[str, bytes]):
    with tempfile.TemporaryDirectory() as parent:
        target = UPath(parent) / "a" / "b"

        def write(folder: Path) -> None:
            for name, content in files.items():
                (folder / name).write_bytes(content)

        published = publish(write, target, UPath(parent))
        assert {p.name: p.read_bytes() for p in Path(target.path).iterdir()} == files
        assert {name: file.bytes for name, file in published.items()} == {n: len(c) for n, c in files.items()}
        digest = combined_digest({name: file.sha256 for name, file in published.items()})
        changed = {n: file_digest(Path(target.path) / n) for n in files}
        assert combined_digest(changed) == digest
        changed[next(iter(files))] = "0" * 64
        assert combined_digest(changed) != digest


def test_published_folder_is_not_overwritten(tmp_path: Path):
    target = UPath(tmp_path) / "x"

    def write(folder: Path, text: str) -> None:
        (folder / "a").write_text(text)

    publish(lambda folder: write(folder, "first"), target, UPath(tmp_path))
    with pytest.raises(FileExistsError, match="exists already"):
        publish(lambda folder: write(folder, "second"), target, UPath(tmp_path))
    assert (tmp_path / "x" / "a").read_text() == "first"


@pytest.mark.parametrize("how", ["changed", "truncated", "removed", "renamed", "added", "a folder added"])
def test_tampered_artifact_is_refused(how: str, tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    metadata = stored(store, {"songs": TABLE, "more": np.ones(3)})
    tamper(Path(str(metadata["path"].value)), how)
    with pytest.raises(ArtifactError, match=r"blobs/dataset: .* the files were changed; refused"):
        store.read(metadata, KEY)


def test_missing_artifact_is_named(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    metadata = stored(store, {"songs": TABLE})
    Path(str(metadata["path"].value)).rename(tmp_path / "moved")
    with pytest.raises(ArtifactError, match=r"blobs/dataset: .* is missing; materialize the asset again"):
        store.read(metadata, KEY)


def test_materialization_of_another_store_is_refused():
    with pytest.raises(ArtifactError, match="has no 'path': not written by this store"):
        ArtifactStore(root="/nowhere").read({}, KEY)


def test_retried_step_keeps_artifact_of_first_attempt(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    first, second = stored(store, {"n": np.zeros(2)}), stored(store, {"n": np.ones(2)})
    assert first["path"].value != second["path"].value
    assert store.read(first, KEY).tables["n"].tolist() == [0, 0]
    assert store.read(second, KEY).tables["n"].tolist() == [1, 1]


def test_killed_write_leaves_no_artifact(tmp_path: Path):
    program = f"""
import os, signal
from pathlib import Path
from upath import UPath
from jukebox_orch.storage.publishing import publish

def write(folder):
    (folder / "a.npy").write_bytes(b"x" * 1000)
    with (folder / "b.npy").open("wb") as file:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

publish(write, UPath({str(tmp_path)!r}) / "blobs" / "dataset" / "run", UPath({str(tmp_path)!r}))
"""
    killed = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == [".incoming"]
    store = ArtifactStore(root=str(tmp_path))
    assert store.read(stored(store, {"n": np.ones(2)}, "run"), KEY).tables["n"].tolist() == [1, 1]


def test_abandoned_folders_are_removed_after_day(tmp_path: Path):
    for name, age in (("old", 2 * 86_400), ("new", 3_600)):
        (tmp_path / ".incoming" / name).mkdir(parents=True)
        moment = (tmp_path / ".incoming").stat().st_mtime - age
        os.utime(tmp_path / ".incoming" / name, (moment, moment))
    stored(ArtifactStore(root=str(tmp_path)), {"n": np.ones(2)})
    assert [p.name for p in (tmp_path / ".incoming").iterdir()] == ["new"]


def test_failed_write_leaves_nothing(tmp_path: Path):
    def write(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(write, UPath(tmp_path) / "x", UPath(tmp_path))
    assert list((tmp_path / ".incoming").iterdir()) == []
    assert not (tmp_path / "x").exists()


def test_format_names_are_unchanged():
    assert set(FORMATS) == {
        "dataset", "features", "keras", "onnx", "ValidationReport", "EvaluationReport", "RegisteredModel"
    }  # fmt: skip
    assert replace(features(), dataset_digest="other").digest == features().digest
