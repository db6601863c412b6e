"""The artifact store: every value comes back as it was, whole and unchanged, or not at all."""

import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from upath import UPath

from jukebox_orch.export import OnnxPredictor, UnsafeFileError, refuse_external_data
from jukebox_orch.project import Features, Normalization, Part
from jukebox_orch.resources.artifacts import ArtifactError, ArtifactStore
from jukebox_orch.resources.formats import FORMATS, format_of, load_keras
from jukebox_orch.resources.model_store import ModelStore, StoreError
from jukebox_orch.resources.publishing import combined_digest, file_digest, publish
from jukebox_orch.values import FeatureSet
from jukebox_orch_tests.workplace import SMALL, SteadyGraph, Workplace, failures, made

KEY = dg.AssetKey(["blobs", "dataset"])
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


def stored(store: ArtifactStore, value: Any, run_id: str = "run") -> dict[str, dg.MetadataValue]:
    """Store a value as a step does and return its materialization's metadata."""
    context = dg.build_output_context(asset_key=KEY, run_id=run_id)
    store.handle_output(context, value)
    return {
        name: v if isinstance(v, dg.MetadataValue) else _metadata(v)
        for name, v in context.consume_logged_metadata().items()
    }


def _metadata(value: Any) -> dg.MetadataValue:
    return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.text(str(value))


def features() -> FeatureSet:
    random = np.random.default_rng(0)

    def part(n: int, name: str) -> Part:
        x = random.normal(size=(n, 2)).astype(np.float32)
        y = random.dirichlet(np.ones(3), n).astype(np.float32)
        weight = np.ones(n, np.float32)
        return Part(x, y, weight, np.array([f"{name}-ü", "long key " * 9]), {"new songs > 3": x[:, 0] > 0})

    train = part(5, "a")
    normalization = Normalization.standard(train.x)
    return FeatureSet(
        Features(train, part(3, "b"), part(2, "c"), ("x", "y"), ("a", "b", "c"), normalization),
        "d1",
        {"x": {"shares": [1.0]}},
    )


def test_a_dataset_comes_back_with_its_values_types_and_digest(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    value = {
        "songs": TABLE,
        "images": images,
        "nothing": np.zeros((0, 3), np.float32),
        "none": TABLE[["number"]][:0],
    }
    back = store.read(stored(store, value), KEY)
    pd.testing.assert_frame_equal(back["songs"], TABLE)
    pd.testing.assert_frame_equal(back["none"], TABLE[["number"]][:0])
    np.testing.assert_array_equal(back["images"], images)
    assert back["images"].dtype == np.uint8
    assert back["nothing"].shape == (0, 3)
    assert format_of(back).digest(back) == format_of(value).digest(value)


def test_features_come_back_with_their_digest(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    value = features()
    back = store.read(stored(store, value), KEY)
    assert back.digest == value.digest
    assert list(back.features.test.slices) == ["new songs > 3"]
    assert back.features.train.keys.tolist() == value.features.train.keys.tolist()
    assert back.features.shape == (2,)


def test_large_arrays_are_mapped_from_their_file(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    back = store.read(stored(store, {"images": np.ones((1 << 20, 2), np.uint8)}), KEY)
    assert isinstance(back["images"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        back["images"][0] = 0


def test_the_values_of_a_run_come_back(finished):
    place, _ = finished
    for noun in ("dataset", "validated_data", "features", "trained_model", "evaluation", "onnx_model"):
        value = place.value(f"blobs/{noun}")
        version = place.version(f"blobs/{noun}")
        assert format_of(value).digest(value) == version, noun
    network = place.value("blobs/trained_model").keras_model
    assert network.input_shape == (None, 3)


@pytest.mark.parametrize(
    "value",
    [object(), [], {}, {"a": 1}, "text", b"bytes", pickle.dumps(1)],
    ids=lambda value: type(value).__name__,
)
def test_values_of_other_types_are_not_stored(value: Any):
    with pytest.raises(TypeError, match=f"no artifact format for {type(value).__name__}"):
        format_of(value)


def test_arrays_of_objects_are_never_pickled(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        stored(store, {"odd": np.array([{"a": 1}], dtype=object)})
    assert not (tmp_path / "blobs").exists()
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_a_pickled_array_in_the_store_is_not_loaded(tmp_path: Path):
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
def test_any_folder_name_can_be_the_root(root: str, run: str):
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / root
        store = ArtifactStore(root=str(folder))
        metadata = stored(store, {"numbers": np.arange(3)}, run_id=run)
        assert Path(str(metadata["path"].value)) == folder / "blobs" / "dataset" / run
        assert store.read(metadata, KEY)["numbers"].tolist() == [0, 1, 2]
        assert sorted(p.name for p in Path(parent).iterdir()) == [root]


@given(st.dictionaries(names, st.binary(max_size=50), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_published_files_are_what_was_written_and_their_digest_is_of_all_of_them(files: dict[str, bytes]):
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


def test_a_published_folder_is_never_written_again(tmp_path: Path):
    target = UPath(tmp_path) / "x"

    def write(folder: Path, text: str) -> None:
        (folder / "a").write_text(text)

    publish(lambda folder: write(folder, "first"), target, UPath(tmp_path))
    with pytest.raises(FileExistsError, match="exists already"):
        publish(lambda folder: write(folder, "second"), target, UPath(tmp_path))
    assert (tmp_path / "x" / "a").read_text() == "first"


def tamper(folder: Path, how: str) -> None:
    file = sorted(folder.iterdir())[0]
    if how == "changed":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "removed":
        file.unlink()
    elif how == "renamed":
        file.rename(folder / "other.parquet")
    elif how == "added":
        (folder / "more.parquet").write_bytes(b"")
    elif how == "a folder added":
        (folder / "more").mkdir()


@pytest.mark.parametrize("how", ["changed", "truncated", "removed", "renamed", "added", "a folder added"])
def test_an_artifact_that_was_tampered_with_is_refused(how: str, tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    metadata = stored(store, {"songs": TABLE, "more": np.ones(3)})
    tamper(Path(str(metadata["path"].value)), how)
    with pytest.raises(ArtifactError, match=r"blobs/dataset: .* the files were changed; refused"):
        store.read(metadata, KEY)


def test_an_artifact_that_is_gone_is_named(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    metadata = stored(store, {"songs": TABLE})
    Path(str(metadata["path"].value)).rename(tmp_path / "away")
    with pytest.raises(ArtifactError, match=r"blobs/dataset: .* is gone; materialize the asset again"):
        store.read(metadata, KEY)


def test_a_materialization_of_another_store_is_refused():
    with pytest.raises(ArtifactError, match="has no 'path': not written by this store"):
        ArtifactStore(root="/nowhere").read({}, KEY)


def test_a_retried_step_leaves_what_its_first_attempt_published(tmp_path: Path):
    store = ArtifactStore(root=str(tmp_path))
    first, second = stored(store, {"n": np.zeros(2)}), stored(store, {"n": np.ones(2)})
    assert first["path"].value != second["path"].value
    assert store.read(first, KEY)["n"].tolist() == [0, 0]
    assert store.read(second, KEY)["n"].tolist() == [1, 1]


def test_a_process_killed_in_the_middle_of_a_write_leaves_nothing_visible(tmp_path: Path):
    program = f"""
import os, signal
from pathlib import Path
from upath import UPath
from jukebox_orch.resources.publishing import publish

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
    assert store.read(stored(store, {"n": np.ones(2)}, "run"), KEY)["n"].tolist() == [1, 1]


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path):
    for name, age in (("old", 2 * 86_400), ("new", 3_600)):
        (tmp_path / ".incoming" / name).mkdir(parents=True)
        moment = (tmp_path / ".incoming").stat().st_mtime - age
        os.utime(tmp_path / ".incoming" / name, (moment, moment))
    stored(ArtifactStore(root=str(tmp_path)), {"n": np.ones(2)})
    assert [p.name for p in (tmp_path / ".incoming").iterdir()] == ["new"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path):
    def write(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(write, UPath(tmp_path) / "x", UPath(tmp_path))
    assert list((tmp_path / ".incoming").iterdir()) == []
    assert not (tmp_path / "x").exists()


# --- hostile model files


def keras_file(folder: Path, *layers: Any) -> Path:
    import keras

    path = folder / "model.keras"
    keras.Sequential([keras.Input((2,)), *layers]).save(path)
    return path


def test_a_lambda_layer_is_refused_before_keras_sees_it(tmp_path: Path):
    import keras

    path = keras_file(tmp_path, keras.layers.Lambda(lambda x: x, name="payload"))
    with pytest.raises(
        UnsafeFileError, match=r"layer 'payload' is a Lambda layer, which is Python code: refused"
    ):
        load_keras(path)


def test_a_lambda_layer_inside_another_model_is_refused(tmp_path: Path):
    import keras

    inner = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x, name="deep")])
    with pytest.raises(UnsafeFileError, match="'deep'"):
        load_keras(keras_file(tmp_path, inner))


@pytest.mark.parametrize("name", ["model.h5", "model.pkl", "model.hdf5", "saved_model.pb", "model"])
def test_model_files_of_other_kinds_are_refused(name: str, tmp_path: Path):
    good = keras_file(tmp_path)
    path = good.rename(tmp_path / name)
    with pytest.raises(UnsafeFileError, match=r"only \.keras archives are loaded"):
        load_keras(path)


def test_a_pickle_with_the_right_suffix_is_refused(tmp_path: Path):
    path = tmp_path / "model.keras"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnsafeFileError, match=r"only \.keras archives are loaded"):
        load_keras(path)


def test_an_archive_without_a_configuration_is_refused(tmp_path: Path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
    with pytest.raises(UnsafeFileError, match=r"has a config\.json, this one has none"):
        load_keras(path)


def test_an_object_of_another_module_is_not_imported(tmp_path: Path):
    path = keras_file(tmp_path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"].append(
        {
            "module": "os",
            "class_name": "system",
            "config": {"command": f"touch {tmp_path / 'owned'}"},
            "registered_name": "system",
            "build_config": None,
        }
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**parts, "config.json": json.dumps(config)}.items():
            archive.writestr(name, content)
    with pytest.raises((TypeError, ValueError)):
        load_keras(path)
    assert not (tmp_path / "owned").exists()


def external(tensor: TensorProto) -> TensorProto:
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.ClearField("int64_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return tensor


def hostile(where: str) -> bytes:
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
def test_onnx_with_external_data_is_refused_before_loading(where: str):
    content = hostile(where)
    with pytest.raises(
        UnsafeFileError, match=r"stored outside the ONNX file, in '\.\./\.\./etc/passwd': refused"
    ):
        refuse_external_data(content)
    with pytest.raises(UnsafeFileError):
        OnnxPredictor(content)


@pytest.mark.parametrize(
    "content", [b"", b"not onnx", pickle.dumps({"a": 1})], ids=["empty", "text", "pickle"]
)
def test_bytes_that_are_no_onnx_model_are_refused(content: bytes):
    with pytest.raises(ValueError, match=r"ONNX|onnxruntime"):
        OnnxPredictor(content)


# --- in runs


def test_a_file_changed_between_two_steps_stops_the_run(again: Workplace):
    path = Path(again.metadata("blobs/features")["path"])
    tamper(path, "changed")
    result = again.run(only=["evaluation"])
    assert not result.success
    assert made(result) == []
    assert "the files were changed; refused" in failures(result)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that steps read from the store, as they read them."""
    paths: list[str] = []
    original = ArtifactStore.read

    def spy(store: ArtifactStore, metadata: Any, asset_key: dg.AssetKey) -> Any:
        paths.append(str(metadata["path"].value))
        return original(store, metadata, asset_key)

    monkeypatch.setattr(ArtifactStore, "read", spy)
    return paths


def test_only_evaluation_uses_the_latest_materializations(again: Workplace, read: list[str]):
    before = again.metadata("blobs/evaluation")["path"]
    result = again.run(only=["evaluation"])
    assert result.success
    assert made(result) == ["evaluation"]
    assert again.metadata("blobs/evaluation")["path"] != before
    assert sorted(read) == sorted(
        again.metadata(f"blobs/{noun}")["path"] for noun in ("features", "trained_model")
    )


def test_the_same_run_again_reuses_everything_expensive_and_another_version_only_converts(again: Workplace):
    assert again.run(**SMALL, version="1.0.0").success
    assert reused(again) == ["features", "trained_model", "onnx_model"]
    assert again.metadata("blobs/registered_model")["was registered before"]
    assert again.versions() == [1]
    assert again.run(**SMALL, version="1.0.1").success
    assert reused(again) == ["features", "trained_model"]
    assert again.versions() == [1, 2]


def reused(place: Workplace) -> list[str]:
    nouns = ["features", "trained_model", "onnx_model"]
    return [noun for noun in nouns if "reused_from_run" in place.metadata(f"blobs/{noun}")]


@pytest.mark.parametrize("change", [{"seed": 43}, {"split": {"test_share": 0.25}}], ids=["seed", "split"])
def test_features_are_made_again_when_their_settings_change(change: dict, again: Workplace):
    assert again.run("data", **change).success
    assert "features" not in reused(again)
    assert again.run("data").success
    assert "features" in reused(again)


@pytest.mark.parametrize("change", [{"seed": 43}, {"hyperparameters": {"epochs": 1}}], ids=["seed", "epochs"])
def test_a_model_is_trained_again_when_its_settings_change(change: dict, again: Workplace):
    config = {"hyperparameters": {"epochs": 4}, "seed": 42}
    for settings_, expected in ((config, True), ({**config, **change}, False)):
        again.run(only=["trained_model"], ops={"blobs__trained_model": {"config": settings_}})
        assert ("trained_model" in reused(again)) is expected


def test_changed_code_and_changed_data_recompute(again: Workplace, monkeypatch: pytest.MonkeyPatch):
    from jukebox_orch_tests.projects import Blobs

    class MoreBlobs(Blobs):
        def generate(self) -> pd.DataFrame:
            return super().generate().assign(depth=lambda t: t["depth"] + 1e-3)

    assert again.run("data", project=MoreBlobs()).success
    assert "features" not in reused(again)
    assert again.run("data").success
    assert "features" in reused(again)
    monkeypatch.setattr(SteadyGraph, "code_version", "other")
    assert again.run("data").success
    assert "features" not in reused(again)


def test_a_damaged_artifact_is_computed_again_in_place_of_reused(again: Workplace):
    tamper(Path(again.metadata("blobs/features")["path"]), "changed")
    tamper(Path(again.metadata("blobs/trained_model")["path"]), "removed")
    old = again.version("blobs/trained_model")
    result = again.run(**SMALL, version="1.0.0")
    assert result.success
    for noun in ("features", "trained_model"):
        assert "reused_from_run" not in again.metadata(f"blobs/{noun}"), noun
    assert again.version("blobs/trained_model") == old


def test_a_run_that_goes_on_after_a_failure_uses_its_own_values_not_the_newest(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, read: list[str]
):
    """Run A fails at its gate, run B makes other features; A, re-executed, must go on with A's."""
    config = {**SMALL, "seed": 1}
    failed = workplace.run(**{**config, "gates": {"metric_floor": 2.0}})
    assert not failed.success
    own = workplace.metadata("blobs/features")["path"]
    assert workplace.run("data", seed=2).success
    assert workplace.metadata("blobs/features")["path"] != own
    for name, value in workplace.environment().items():
        monkeypatch.setenv(name, value)
    read.clear()
    again = dg.ReexecutionOptions(failed.run_id, ["blobs__evaluation*"])
    location = importlib.reload(importlib.import_module("jukebox_orch_tests.workplace_location"))
    with dg.execute_job(
        dg.reconstructable(location.blobs_training),
        workplace.instance,
        run_config=config,
        reexecution_options=again,
    ) as result:
        assert result.success
    assert own in read
    assert workplace.metadata("blobs/features")["path"] not in read


# --- on a real S3 server


@pytest.fixture
def on_s3(s3: str, tmp_path: Path, migrated: Path):
    import shutil

    shutil.copy(migrated, tmp_path / "mlflow.db")
    place = Workplace(tmp_path, artifacts=f"{s3}/artifacts", models=f"{s3}/models")
    yield place
    place.instance.dispose()


def test_a_whole_run_with_artifacts_and_models_on_s3(on_s3: Workplace, s3: str):
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


def test_the_formats_are_exactly_these():
    assert set(FORMATS) == {
        "dataset", "features", "keras", "onnx", "ValidationReport", "EvaluationReport", "RegisteredModel"
    }  # fmt: skip
    assert replace(features(), dataset_digest="other").digest == features().digest
