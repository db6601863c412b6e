"""The champion goes back to a version that is verified, with who, why and when kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jukebox_orch.registry.promotion import champion_history, promote, rollback
from jukebox_orch.registry.versions import RegistrationError
from jukebox_orch_tests.support.deployment import Deployment, failures
from jukebox_orch_tests.support.registration_crash import add


@pytest.fixture(scope="module")
def promoted(finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three champions one after the other; the last two are in production."""
    place = finished[0].copy(tmp_path_factory.mktemp("promoted") / "place")
    for mark in ("second", "third"):
        add(place, mark)
    assert place.aliases() == {"challenger": "3", "champion": "3", "production": "3", "staging": "1"}
    yield place
    place.instance.dispose()


@pytest.fixture
def ready(promoted: Deployment, tmp_path: Path) -> Iterator[Deployment]:
    place = promoted.copy(tmp_path / "ready")
    yield place
    place.instance.dispose()


def test_the_rollback_job_moves_the_champion_and_its_stage_back_and_notes_who_and_why(ready: Deployment):
    result = ready.run("rollback", reason="wrong on Sundays", requested_by="ops")
    assert result.success, failures(result)
    assert ready.aliases() == {"challenger": "3", "champion": "2", "production": "2", "staging": "1"}
    *before, last = champion_history(ready.mlflow(), "blobs")
    assert [e["version"] for e in before] == ["1", "2", "3"]
    assert last["version"] == "2"
    assert last["why"] == "wrong on Sundays"
    assert last["by"] == f"ops, dagster run {result.run_id}"
    assert last["at"].startswith("20")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, 'Missing required config entry "reason" at the root'),
        ({"reason": ""}, "run config of blobs_rollback: reason = ''"),
        ({"reason": "  .  "}, "run config of blobs_rollback: reason = '  .  '"),
        ({"reason": "test", "model_name": "../x"}, "run config of blobs_rollback: model_name = '../x'"),
    ],
    ids=str,
)
def test_a_rollback_without_a_reason_is_refused_before_it_runs(
    config: dict[str, str], message: str, promoted: Deployment
):
    result = promoted.execute("blobs_rollback", config)
    assert result.returncode == 1
    assert message in result.stderr
    assert promoted.instance.get_runs_count() == 1
    assert promoted.aliases()["champion"] == "3"


def test_a_named_version_becomes_champion(ready: Deployment):
    back = rollback(ready.mlflow(), ready.store(), "blobs", "1", by="me", why="test")
    assert back == ("3", "1")
    assert ready.aliases()["champion"] == "1"


def test_a_second_attempt_of_the_same_rollback_does_not_go_further_back(ready: Deployment):
    """The step is retried when its pod dies after the alias moved."""
    mlflow, store = ready.mlflow(), ready.store()
    assert rollback(mlflow, store, "blobs", "", by="run 1", why="test") == ("3", "2")
    ready.client().set_registered_model_alias("blobs", "production", "3")
    assert rollback(mlflow, store, "blobs", "", by="run 1", why="test") == ("3", "2")
    assert ready.aliases()["champion"] == "2"
    assert ready.aliases()["production"] == "2"


def test_a_rollback_that_died_between_history_and_alias_is_completed(
    ready: Deployment, monkeypatch: pytest.MonkeyPatch
):
    mlflow, store = ready.mlflow(), ready.store()
    client = mlflow.client()
    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", _dies)
        with pytest.raises(KeyboardInterrupt):
            rollback(mlflow, store, "blobs", "", by="run 1", why="test")
    assert ready.aliases()["champion"] == "3"
    assert rollback(mlflow, store, "blobs", "", by="run 1", why="test") == ("3", "2")
    assert ready.aliases()["champion"] == "2"


def test_a_version_whose_promotion_died_before_its_alias_is_not_where_a_rollback_goes(
    ready: Deployment, monkeypatch: pytest.MonkeyPatch
):
    number = add(ready, "fourth", champion=False)
    mlflow = ready.mlflow()
    client = mlflow.client()
    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", _dies)
        with pytest.raises(KeyboardInterrupt):
            promote(mlflow, "blobs", number, alias="staging", by="run 4", why="test")
    assert rollback(mlflow, ready.store(), "blobs", "", by="me", why="test") == ("3", "2")


def _dies(*arguments: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["store", "registry", "example"])
def test_a_rollback_to_a_version_that_was_tampered_with_is_refused(where: str, ready: Deployment):
    entry = Path(ready.store().entry("blobs", "2").path)
    if where == "store":
        (entry / "model.onnx").write_bytes(b"other")
    elif where == "registry":
        uri = ready.client().get_model_version_download_uri("blobs", "2")
        (Path(uri.removeprefix("file://")) / "model.onnx").write_bytes(b"other")
    else:
        example = json.loads((entry / "example.json").read_text())
        example["outputs"]["probabilities"][0][0] += 0.01
        (entry / "example.json").write_text(json.dumps(example))
    result = ready.run("rollback", version="2", reason="test")
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
        ("nothing", "", "nothing: no champion before version None; name a version"),
        ("nothing", "1", "nothing has no version '1' in the registry"),
    ],
)
def test_a_rollback_to_nowhere_is_refused(model: str, version: str, message: str, promoted: Deployment):
    with pytest.raises(RegistrationError) as error:
        rollback(promoted.mlflow(), promoted.store(), model, version, by="me", why="test")
    assert message in str(error.value)


def test_the_first_champion_has_none_before_it(finished):
    place, _ = finished
    with pytest.raises(RegistrationError, match="no champion before version 1; name a version"):
        rollback(place.mlflow(), place.store(), "blobs", "", by="me", why="test")


def test_the_history_keeps_the_last_twenty(ready: Deployment):
    mlflow = ready.mlflow()
    for number in range(22):
        promote(mlflow, "blobs", str(1 + number % 2), alias="staging", by=f"run {number}", why="test")
    history = champion_history(mlflow, "blobs")
    assert len(history) == 20
    assert history[-1]["by"] == "run 21"


def test_models_of_different_names_do_not_touch_each_other(promoted: Deployment):
    number = add(promoted, "elsewhere", model="other")
    assert number == "1"
    assert promoted.aliases("other") == {"challenger": "1", "champion": "1", "production": "1"}
    assert promoted.aliases()["champion"] == "3"
