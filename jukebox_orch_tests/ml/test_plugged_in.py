"""Projects of every kind train, are exported with raw inputs and registered."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from jukebox_orch_tests.support.deployment import Deployment, checks, failures
from jukebox_orch_tests.support.plugged_in import Orders, Pairs, Tags, Windows


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
