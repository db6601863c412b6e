"""Rollback moves the champion to a verified version and records who, why and when."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.registry.promotion import (
    ChampionChange,
    champion_history,
    finish_interrupted,
    move_champion,
    promote,
)
from jukebox_orch.registry.versions import RegistrationError
from jukebox_orch_tests.support.deployment import Deployment, failures
from jukebox_orch_tests.support.registration_crash import add


@pytest.fixture(scope="module")
def promoted(finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three successive champions; the last two were in production."""
    deployment = finished[0].copy(tmp_path_factory.mktemp("promoted") / "deployment")
    for mark in ("second", "third"):
        add(deployment, mark)
    assert deployment.aliases() == {"challenger": "3", "champion": "3", "production": "3", "staging": "1"}
    yield deployment
    deployment.instance.dispose()


@pytest.fixture
def ready(promoted: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    deployment = promoted.copy(tmp_path / "ready")
    yield deployment
    deployment.instance.dispose()


def test_rollback_job_moves_aliases_and_records_reason(ready: Deployment):
    result = ready.run("rollback", reason="wrong on Sundays", requested_by="ops")
    assert result.success, failures(result)
    assert ready.aliases() == {"challenger": "3", "champion": "2", "production": "2", "staging": "1"}
    *before, last = champion_history(ready.mlflow(), "blobs")
    assert [e.version for e in before] == ["1", "2", "3"]
    assert last.version == "2"
    assert last.why == "wrong on Sundays"
    assert last.by == f"ops, dagster run {result.run_id}"
    assert last.at.startswith("20")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, 'Missing required config entry "reason" at the root'),
        ({"reason": ""}, "run config of blobs_rollback: reason = ''"),
        ({"reason": "  .  "}, "reason = '  .  ': Value error, say why in at least 3 characters"),
        ({"reason": "test", "model_name": "../x"}, "run config of blobs_rollback: model_name = '../x'"),
    ],
    ids=str,
)
def test_rollback_with_invalid_config_does_not_start(
    config: dict[str, Any], message: str, promoted: Deployment
):
    with pytest.raises(dg.DagsterError) as refused:
        promoted.run("rollback", **config)
    assert message in f"{refused.value}\n{refused.value.__cause__}"
    assert promoted.instance.get_runs_count() == 1
    assert promoted.aliases()["champion"] == "3"


def test_named_version_becomes_champion(ready: Deployment):
    moved = move_champion(ready.mlflow(), ready.store(), "blobs", "1", by="me", why="test")
    assert (moved.before["champion"], moved.version) == ("3", "1")
    assert ready.aliases()["champion"] == "1"


def test_retried_rollback_moves_champion_once(ready: Deployment):
    """The step is retried if its pod dies after the alias was moved."""
    mlflow, store = ready.mlflow(), ready.store()
    assert moved(move_champion(mlflow, store, "blobs", "", by="run 1", why="test")) == ("3", "2")
    assert moved(move_champion(mlflow, store, "blobs", "", by="run 1", why="test")) == ("3", "2")
    assert ready.aliases()["champion"] == "2"
    assert ready.aliases()["production"] == "2"


def test_rollback_killed_before_alias_is_completed_by_retry(
    ready: Deployment, monkeypatch: pytest.MonkeyPatch
):
    mlflow, store = ready.mlflow(), ready.store()
    with interrupted_at(mlflow, 1, monkeypatch):
        move_champion(mlflow, store, "blobs", "", by="run 1", why="test")
    assert ready.aliases()["champion"] == "3"
    assert moved(move_champion(mlflow, store, "blobs", "", by="run 1", why="test")) == ("3", "2")
    assert ready.aliases()["champion"] == "2"


def test_second_rollback_goes_further_back(ready: Deployment):
    mlflow, store = ready.mlflow(), ready.store()
    assert moved(move_champion(mlflow, store, "blobs", "", by="run 1", why="test")) == ("3", "2")
    assert moved(move_champion(mlflow, store, "blobs", "", by="run 2", why="test")) == ("2", "1")
    with pytest.raises(RegistrationError, match="no champion before version 1"):
        move_champion(mlflow, store, "blobs", "", by="run 3", why="test")
    assert moved(move_champion(mlflow, store, "blobs", "3", by="run 4", why="test")) == ("1", "3")
    assert moved(move_champion(mlflow, store, "blobs", "", by="run 5", why="test")) == ("3", "1")


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("version", ["", "2"])
def test_interrupted_rollback_that_is_repeated_leaves_all_aliases_on_its_version(
    ready: Deployment, call: int, version: str, monkeypatch: pytest.MonkeyPatch
):
    """Another run repeats it: `production` must not end on version 3, which was to be left."""
    mlflow, store = ready.mlflow(), ready.store()
    with interrupted_at(mlflow, call, monkeypatch):
        move_champion(mlflow, store, "blobs", "", by="run 1", why="test")
    if version:
        with pytest.raises(RegistrationError, match="version 2 is champion already"):
            move_champion(mlflow, store, "blobs", version, by="run 2", why="test")
    else:
        assert moved(move_champion(mlflow, store, "blobs", "", by="run 2", why="test")) == ("3", "2")
    assert ready.aliases() == {"challenger": "3", "champion": "2", "production": "2", "staging": "1"}


def test_rollback_finishes_interrupted_promotion_first(ready: Deployment, monkeypatch: pytest.MonkeyPatch):
    number = add(ready, "fourth", champion=False)
    mlflow = ready.mlflow()
    with interrupted_at(mlflow, 1, monkeypatch):
        promote(mlflow, "blobs", number, aliases=["staging"], by="run 4", why="test")
    assert moved(move_champion(mlflow, ready.store(), "blobs", "", by="me", why="test")) == ("4", "3")


def test_interrupted_promotion_of_damaged_version_is_undone(
    ready: Deployment, monkeypatch: pytest.MonkeyPatch
):
    number = add(ready, "fourth", champion=False)
    mlflow, before = ready.mlflow(), ready.aliases()
    with interrupted_at(mlflow, 2, monkeypatch):
        promote(mlflow, "blobs", number, aliases=["staging", "canary"], by="run 4", why="test")
    assert ready.aliases()["champion"] == number
    (Path(ready.store().entry("blobs", number).path) / "model.onnx").write_bytes(b"other")
    undone = finish_interrupted(mlflow, ready.store(), "blobs")
    assert undone
    assert not undone.done
    assert ready.aliases() == before
    assert finish_interrupted(mlflow, ready.store(), "blobs") is None


@contextmanager
def interrupted_at(mlflow: MlflowResource, call: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupt the code at its `call`-th change of an alias."""
    client, calls = mlflow.client(), []
    original = client.set_registered_model_alias

    def set_alias(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", set_alias)
        with pytest.raises(KeyboardInterrupt):
            yield


def moved(change: ChampionChange) -> tuple[str, str]:
    return change.before["champion"], change.version


@pytest.mark.parametrize("where", ["store", "registry", "example", "labels"])
def test_rollback_to_tampered_version_is_refused(where: str, ready: Deployment):
    entry = Path(ready.store().entry("blobs", "2").path)
    if where == "store":
        (entry / "model.onnx").write_bytes(b"other")
    elif where == "labels":
        labels = json.loads((entry / "labels.json").read_text())
        (entry / "labels.json").write_text(json.dumps(labels[::-1]))
    elif where == "registry":
        uri = ready.client().get_model_version_download_uri("blobs", "2")
        (Path(uri.removeprefix("file://")) / "model.onnx").write_bytes(b"other")
    else:
        example = json.loads((entry / "example.json").read_text())
        example["outputs"]["probabilities"][0][0] += 0.01
        (entry / "example.json").write_text(json.dumps(example))
    result = ready.run("promote", version="2", reason="test")
    assert not result.success
    assert "blobs version 2" in failures(result)
    assert not [e for e in result.all_events if e.is_step_up_for_retry]
    assert ready.aliases()["champion"] == "3"
    assert len(champion_history(ready.mlflow(), "blobs")) == 3


@pytest.mark.parametrize(
    ("model", "version", "message"),
    [
        ("blobs", "99", "blobs has no version '99' in the registry"),
        ("blobs", "../1", "blobs has no version '../1' in the registry"),
        ("nothing", "", "nothing: no champion before version none: promote a version"),
        ("nothing", "1", "nothing has no version '1' in the registry"),
    ],
)
def test_rollback_to_unknown_version_is_refused(model: str, version: str, message: str, promoted: Deployment):
    with pytest.raises(RegistrationError) as error:
        move_champion(promoted.mlflow(), promoted.store(), model, version, by="me", why="test")
    assert message in str(error.value)


def test_rollback_of_first_champion_is_refused(finished):
    deployment, _ = finished
    with pytest.raises(RegistrationError, match="no champion before version 1: promote a version"):
        move_champion(deployment.mlflow(), deployment.store(), "blobs", "", by="me", why="test")


def test_history_keeps_last_twenty_entries(ready: Deployment):
    mlflow = ready.mlflow()
    for number in range(22):
        promote(mlflow, "blobs", str(1 + number % 2), aliases=["staging"], by=f"run {number}", why="test")
    history = champion_history(mlflow, "blobs")
    assert len(history) == 20
    assert history[-1].by == "run 21"


def test_aliases_of_other_models_do_not_change(promoted: Deployment):
    number = add(promoted, "elsewhere", model="other")
    assert number == "1"
    assert promoted.aliases("other") == {"challenger": "1", "champion": "1", "production": "1"}
    assert promoted.aliases()["champion"] == "3"
