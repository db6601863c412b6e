"""Projects of every kind train, are exported with raw inputs and registered."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
from pydantic import Field

from jukebox_orch.contract import Features, PinnedFile, read_bytes
from jukebox_orch_tests.support.deployment import Deployment, checks, failures
from jukebox_orch_tests.support.plugged_in import Orders, Pairs, Tags, Windows
from jukebox_orch_tests.support.projects import ShortTraining


@pytest.mark.parametrize("kind", [Orders, Tags, Pairs, Windows])
def test_project_trains_and_is_registered(kind: Any, migrated: Path, tmp_path: Path) -> None:
    del migrated
    deployment = Deployment(tmp_path / kind.name)
    result = deployment.run(project=kind(), hyperparameters={"epochs": 40})
    assert result.success, failures(result)
    assert deployment.aliases(kind.name)["champion"] == "1"
    not_passed = {name: c.description for name, c in checks(result).items() if not c.passed}
    assert not not_passed
    again = deployment.run(project=kind(), hyperparameters={"epochs": 40})
    assert again.success, failures(again)
    assert deployment.versions(kind.name) == [1]
    deployment.instance.dispose()


def test_onnx_file_takes_raw_text_and_codes(migrated: Path, tmp_path: Path) -> None:
    del migrated
    deployment = Deployment(tmp_path)
    result = deployment.run(project=Orders(), only=None)
    assert result.success, failures(result)
    session = onnxruntime.InferenceSession(deployment.value("orders/onnx_model").content)
    assert {i.name: i.type for i in session.get_inputs()} == {
        "country": "tensor(string)",
        "product": "tensor(int64)",
        "amount": "tensor(float)",
        "weight": "tensor(float)",
    }
    feed = {
        "country": np.array([["日本"], ["Atlantis"], ["naïve $x$"]], object),
        "product": np.array([[10], [99], [7000]]),
        "amount": np.full((3, 1), 80, np.float32),
        "weight": np.ones((3, 1), np.float32),
    }
    (probabilities,) = session.run(None, feed)
    assert np.allclose(np.asarray(probabilities).sum(axis=1), 1)
    store = Path(str(deployment.store().entry("orders", "1")))
    assert json.loads((store / "labels.json").read_text()) == ["kept $5", "returned <b>_x_^2</b> 😀"]
    deployment.instance.dispose()


def backbone() -> keras.Sequential:
    return keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(16, "relu", name="known")], name="backbone"
    )


def pre_train(path: Path, seed: int) -> PinnedFile:
    """Train the backbone on another task and store its weights."""
    keras.utils.set_random_seed(seed)
    network = keras.Sequential([backbone(), keras.layers.Dense(1)])
    network.compile("adam", "mse")
    x = np.random.default_rng(seed).normal(size=(500, 2)).astype("float32")
    network.fit(x, np.hypot(*x.T), epochs=20, verbose="0")
    network.layers[0].save_weights(path)
    return PinnedFile(url=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_pre_trained_weights_are_pinned_and_part_of_the_version(migrated: Path, tmp_path: Path) -> None:
    del migrated
    first, second = (pre_train(tmp_path / f"{seed}.weights.h5", seed) for seed in (1, 2))

    class WithBackbone(ShortTraining):
        backbone: PinnedFile = Field(default=first, description="Weights of the first layer")

    class Transferred(Tags):
        name = "transferred"
        hyperparameters = WithBackbone

        def build_model(self, features: Features, hyperparameters: WithBackbone) -> keras.Model:
            known = backbone()
            with tempfile.NamedTemporaryFile(suffix=".weights.h5") as copy:
                copy.write(read_bytes(hyperparameters.backbone))
                copy.flush()
                known.load_weights(copy.name)
            known.trainable = False
            return keras.Sequential([keras.Input((2,)), known, keras.layers.Dense(3, "sigmoid")])

    deployment = Deployment(tmp_path / "home")

    def kernel_and_digest(**config: Any) -> tuple[list[Any], str]:
        result = deployment.run(project=Transferred(), **config)
        assert result.success, failures(result)
        trained = deployment.value("transferred/trained_model")
        kernels = [w.numpy().tolist() for w in trained.keras_model.weights if w.shape == (2, 16)]
        return kernels, trained.source.sha256

    def known_kernels(file: PinnedFile) -> list[Any]:
        known = backbone()
        known.load_weights(file.url)
        return [known.weights[0].numpy().tolist()]

    kernels, digest = kernel_and_digest()
    assert kernels == known_kernels(first)
    assert kernel_and_digest()[1] == digest
    kernels, other = kernel_and_digest(hyperparameters={"backbone": second.model_dump()})
    assert kernels == known_kernels(second)
    assert other != digest

    Path(first.url).write_bytes(Path(second.url).read_bytes())
    changed = deployment.run(project=Transferred(), seed=7)
    assert f"1.weights.h5: has sha256 {second.sha256}, expected {first.sha256}" in failures(changed)
    deployment.instance.dispose()
