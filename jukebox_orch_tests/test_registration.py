"""Registration: a version is complete before an alias is on it, whatever fails, and the champion can go back."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import filelock
import httpx
import numpy as np
import onnx
import pytest

from jukebox_orch import registration as subject
from jukebox_orch.registration import (
    RegistrationError,
    add_version,
    champion_history,
    promote,
    rollback,
    verify,
)
from jukebox_orch.resources.mlflow_tracking import MlflowTracking
from jukebox_orch.values import OnnxModel
from jukebox_orch_tests.registration_crash import POINTS, model_of, register, registration
from jukebox_orch_tests.sensor_servers import free_port, serve
from jukebox_orch_tests.workplace import SMALL, Workplace, checks, failures


def another(model: OnnxModel, mark: str) -> OnnxModel:
    """Return a model that predicts the same and is another file."""
    proto = onnx.load_model_from_string(model.content)
    onnx.helper.set_model_props(proto, {**model.report.metadata, "mark": mark})
    content = proto.SerializeToString()
    return OnnxModel(content, model.report.model_copy(update={"sha256": sha256(content).hexdigest()}))


def add(
    place: Workplace, mark: str, model: str = "blobs", champion: bool = True, base: OnnxModel | None = None
) -> str:
    """Register another version of the newest model, or of `base`, as a run does; return its number."""
    mlflow = place.mlflow()
    run_id = place.value("blobs/registered_model").mlflow_run_id
    made = another(base or place.value("blobs/onnx_model"), mark)
    added = add_version(mlflow, place.store(), registration(mlflow, made, run_id, model, project="blobs"))
    if champion:
        promote(mlflow, model, added.number, alias="production", by=f"run {mark}", why="better")
    return added.number


# --- what a run leaves


def test_the_first_version_is_challenger_champion_and_staging(finished):
    place, result = finished
    assert place.aliases() == {"challenger": "1", "champion": "1", "staging": "1"}
    assert checks(result)["registered_model:reads_back"].passed
    value = place.value("blobs/registered_model")
    assert value.aliases == ["challenger", "champion", "staging"]
    assert value.sha256 == place.metadata("blobs/onnx_model")["onnx_sha256"]


def test_the_version_says_where_it_comes_from(finished):
    place, result = finished
    (version,) = place.client().search_model_versions("name = 'blobs'")
    tags = version.tags
    assert tags["dagster_run_id"] == result.run_id
    assert tags["mlflow_run_id"] == version.run_id
    assert tags["git_commit"] == "c0ffee"
    assert tags["git/tag"] == "v1.0.0"
    assert tags["version_label"] == "1.0.0"
    assert tags["onnx_sha256"] == place.metadata("blobs/onnx_model")["onnx_sha256"]
    assert tags["dataset_digest"] == place.version("blobs/dataset")
    assert tags["features_digest"] == place.version("blobs/features")
    assert tags["verified"] == "true"
    accuracy = place.value("blobs/evaluation").test.metrics["accuracy"]
    assert float(tags["test_accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    assert f"Test accuracy: {accuracy:.4f}" in version.description


def test_the_mlflow_run_has_parameters_curves_data_and_figures(finished):
    place, result = finished
    client = place.client()
    (experiment,) = client.search_experiments(filter_string="name = 'blobs'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["dagster_run_id"] == result.run_id
    assert run.data.tags["git/tag"] == "v1.0.0"
    assert run.data.params["epochs"] == "4"
    assert run.data.params["seed"] == "42"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2, 3]
    assert run.data.metrics["test_accuracy"] == place.value("blobs/evaluation").test.metrics["accuracy"]
    assert "majority_class_accuracy" in run.data.metrics
    digest = place.version("blobs/dataset")
    (used,) = run.inputs.dataset_inputs
    assert digest.startswith(used.dataset.digest)
    assert json.loads(used.dataset.profile)["digest"] == digest
    figures = {Path(f.path).stem for f in client.list_artifacts(run.info.run_id, "figures")}
    assert {"learning_curves", "calibration"} <= figures


def test_mlflow_serves_the_model_with_signature_example_and_pinned_requirements(finished):
    import mlflow
    from mlflow.models import get_model_info

    place, _ = finished
    place.client()
    info = get_model_info("models:/blobs@champion")
    assert info.signature.inputs.input_names() == ["height", "width", "depth"]
    loaded = mlflow.pyfunc.load_model("models:/blobs@champion")
    test = place.value("blobs/features").features.test
    rows = {n: np.asarray(test.x[:, i : i + 1]) for i, n in enumerate(("height", "width", "depth"))}
    (served,) = loaded.predict(rows).values()
    network = place.value("blobs/trained_model").keras_model
    np.testing.assert_allclose(served, network.predict(np.asarray(test.x), verbose=0), atol=1e-5)
    requirements = mlflow.pyfunc.get_model_dependencies("models:/blobs@champion")
    assert all("==" in line for line in Path(requirements).read_text().split())


def test_the_store_has_the_documented_files(finished):
    place, _ = finished
    entry = Path(place.store().entry("blobs", "1").path)
    assert {p.name for p in entry.iterdir()} == {
        "model.onnx", "labels.json", "features.json", "metrics.json", "example.json", "profile.json",
        "lineage.json", "requirements.txt", "README.md", "inferenceservice.yaml",
    }  # fmt: skip
    assert json.loads((entry / "labels.json").read_text()) == ["red", "green", "blue"]
    assert json.loads((entry / "metrics.json").read_text()) == place.value("blobs/evaluation").test.metrics
    lineage = json.loads((entry / "lineage.json").read_text())
    assert lineage["onnx_sha256"] == sha256((entry / "model.onnx").read_bytes()).hexdigest()
    card = (entry / "README.md").read_text()
    for text in (
        "# blobs version 1 (1.0.0)",
        "Tells three clouds",
        "majority_class",
        lineage["dataset_digest"],
    ):
        assert text in card


def test_one_run_is_one_mlflow_run(finished):
    place, _ = finished
    assert (
        len(place.client().search_runs([e.experiment_id for e in place.client().search_experiments()])) == 1
    )
    assert place.value("blobs/registered_model").mlflow_run_id in str(
        place.metadata("blobs/registered_model")["mlflow run"]
    )


# --- the rule that makes a champion


def weak(assets: list[str], **gates: float) -> dict[str, Any]:
    """Return the config of single assets that train a poor model and let it pass."""
    lenient = {"gates": {"metric_floor": 0.0, "champion_tolerance": 1.0, **gates}}
    config = {
        "trained_model": {"hyperparameters": {"epochs": 1, "learning_rate": 0.004}},
        "evaluation": lenient,
        "onnx_model": {},
        "registered_model": {**lenient, "version": "weak"},
    }
    return {f"blobs__{noun}": {"config": config[noun]} for noun in assets}


def test_a_worse_model_is_challenger_only_and_the_present_champion_is_what_it_is_compared_with(
    again: Workplace,
):
    good, first = again.value("blobs/onnx_model"), ["trained_model", "evaluation", "onnx_model"]
    result = again.run(only=first, ops=weak(first))
    assert result.success, failures(result)
    evaluation = again.value("blobs/evaluation")
    assert evaluation.champion.version == "1"
    assert evaluation.champion.metrics["accuracy"] > evaluation.test.metrics["accuracy"] + 0.05
    number = add(again, "in between", base=good)
    result = again.run(only=["registered_model"], ops=weak(["registered_model"], champion_tolerance=0.01))
    assert result.success, failures(result)
    assert again.aliases() == {"challenger": "3", "champion": number, "production": number, "staging": "1"}
    log = "\n".join(e.user_message for e in again.instance.all_logs(result.run_id))
    assert f"the champion stays: test accuracy {evaluation.test.metrics['accuracy']:.4f}" in log
    assert f"champion version {number} {evaluation.champion.metrics['accuracy']:.4f} on the same split" in log


def test_evaluation_stops_a_model_that_is_worse_than_the_champion(again: Workplace):
    assets = ["trained_model", "evaluation", "onnx_model", "registered_model"]
    result = again.run(only=assets, ops=weak(assets, champion_tolerance=0.01))
    assert not result.success
    assert not checks(result)["evaluation:not_worse_than_champion"].passed
    assert again.versions() == [1]
    assert again.aliases()["champion"] == "1"


def test_a_champion_that_cannot_be_compared_stays(again: Workplace):
    path = Path(again.store().entry("blobs", "1").path) / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    result = again.run("evaluate_and_register", gates={"metric_floor": 0.5}, version="2")
    assert result.success, failures(result)
    check = checks(result)["evaluation:not_worse_than_champion"]
    assert check.passed
    assert "cannot be compared, so the champion will not be replaced: version 1" in (check.description or "")
    assert again.aliases() == {"champion": "1", "staging": "1", "challenger": "2"}


def test_prod_flag_moves_production_in_place_of_staging(again: Workplace):
    result = again.run(**SMALL, version="2.0.0", prod_flag=True)
    assert result.success, failures(result)
    assert again.aliases() == {"staging": "1", "production": "2", "champion": "2", "challenger": "2"}
    assert [e["version"] for e in champion_history(again.mlflow(), "blobs")] == ["1", "2"]


def test_a_model_without_a_fresh_evaluation_is_not_registered(again: Workplace):
    again.run(only=["trained_model", "onnx_model"], ops=weak(["trained_model", "onnx_model"]))
    result = again.run(only=["registered_model"])
    assert not result.success
    assert "onnx_model and evaluation are of different models: materialize both again" in failures(result)
    assert again.versions() == [1]


# --- faults


@pytest.fixture(scope="module")
def crashed(finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workplace, dict[str, int]]]:
    """Registrations that were killed, one model per point."""
    place = finished[0].copy(tmp_path_factory.mktemp("crashed") / "place")
    result = subprocess.run(
        [sys.executable, "-m", "jukebox_orch_tests.registration_crash", str(place.folder)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env=place.environment(),
    )
    assert result.returncode == 0, result.stderr[-3_000:]
    yield place, json.loads(result.stdout.splitlines()[-1])
    place.instance.dispose()


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_leaves_no_alias_on_a_half_version_and_the_next_attempt_adopts_it(point: str, crashed):
    place, ended = crashed
    assert ended[point] == -signal.SIGKILL
    model, mlflow, store = model_of(point), place.mlflow(), place.store()
    before = place.versions(model)
    for number in set(place.aliases(model).values()):
        verify(mlflow, store, model, number)
    onnx_model = place.value("blobs/onnx_model")
    run_id = place.value("blobs/registered_model").mlflow_run_id
    added = register(mlflow, store, onnx_model, run_id, model)
    assert added.adopted is bool(before)
    assert place.versions(model) == [1]
    assert place.aliases(model) == {"challenger": "1", "champion": "1", "staging": "1"}
    verify(mlflow, store, model, "1")
    entry = Path(store.entry(model, "1").path)
    assert {p.name for p in entry.iterdir()} == {"model.onnx", "example.json", "README.md"}


def test_the_lock_is_freed_when_its_holder_is_killed(tmp_path: Path):
    program = (
        "import os, signal; from jukebox_orch.resources.mlflow_tracking import MlflowTracking as M\n"
        "lock = M(tracking_uri='sqlite:///x').lock('lock-test'); lock.acquire()\n"
        "print('held', flush=True); signal.pause()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lock = MlflowTracking(tracking_uri="sqlite:///y", artifact_root="").lock("lock-test")
        with pytest.raises(filelock.Timeout):
            lock.acquire(timeout=0.2)
        MlflowTracking(tracking_uri="sqlite:///y", artifact_root="").lock("other").acquire(
            timeout=0.2
        ).lock.release()
    finally:
        holder.kill()
        holder.wait(10)
    with lock.acquire(timeout=10):
        assert lock.is_locked


def test_registrations_at_the_same_time_all_end_complete_and_the_champion_is_one_of_them(again: Workplace):
    errors: list[BaseException] = []
    mlflow, store = again.mlflow(), again.store()
    mlflow.client()
    run_id = again.value("blobs/registered_model").mlflow_run_id
    base = again.value("blobs/onnx_model")
    inside, most = [], []

    def work(mark: str) -> None:
        try:
            with mlflow.lock("blobs"):
                inside.append(mark)
                most.append(len(inside))
                made = registration(mlflow, another(base, mark), run_id, "blobs", label=mark)
                added = add_version(mlflow, store, made)
                promote(mlflow, "blobs", added.number, alias="production", by=mark, why="test")
                inside.remove(mark)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"m{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert max(most) == 1
    assert again.versions() == [1, 2, 3, 4]
    for number in ("1", "2", "3", "4"):
        verify(mlflow, store, "blobs", number)
    history = champion_history(mlflow, "blobs")
    assert [e["version"] for e in history] == ["1", "2", "3", "4"]
    assert again.aliases()["champion"] == "4"


def test_a_registry_that_is_down_fails_the_run_after_retries_and_leaves_nothing(
    again: Workplace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    again.mlflow_uri = f"http://user:s3cret-canary@127.0.0.1:{free_port()}"
    result = again.run(only=["registered_model"])
    assert not result.success
    assert len([e for e in result.all_events if e.event_type_value == "STEP_RESTARTED"]) == 2
    log = "\n".join(str(e) for e in again.instance.all_logs(result.run_id))
    assert "Connection refused" in log
    assert "s3cret-canary" not in log
    assert [p.name for p in Path(again.models, "blobs").iterdir()] == ["1"]


def test_a_version_whose_copy_in_mlflow_is_wrong_gets_no_alias(
    again: Workplace, monkeypatch: pytest.MonkeyPatch
):
    original = subject._download
    monkeypatch.setattr(subject, "_download", lambda *a: original(*a) + b"\0")
    with pytest.raises(RegistrationError, match="version 2: the file in MLflow is not the registered one"):
        add(again, "broken")
    assert again.aliases() == {"challenger": "1", "champion": "1", "staging": "1"}


def test_the_same_number_in_the_store_with_another_model_is_refused(again: Workplace):
    entry = Path(again.store().entry("blobs", "2").path)
    entry.mkdir()
    (entry / "model.onnx").write_bytes(b"another model")
    with pytest.raises(RuntimeError, match="was registered: refused"):
        add(again, "second")
    assert again.aliases() == {"challenger": "1", "champion": "1", "staging": "1"}
    assert (entry / "model.onnx").read_bytes() == b"another model"


# --- on a real server


@pytest.fixture(scope="module")
def served(finished, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A whole run against a real MLflow server."""
    place = Workplace(tmp_path_factory.mktemp("served"), mlflow=mlflow_server)
    result = place.run(**SMALL, version="1.0.0", prod_flag=True)
    assert result.success, failures(result)
    yield place
    place.instance.dispose()


def test_a_real_server_holds_the_version_the_run_and_the_file(served: Workplace):
    assert served.aliases() == {"challenger": "1", "champion": "1", "production": "1"}
    (version,) = served.client().search_model_versions("name = 'blobs'")
    assert version.tags["onnx_sha256"] == served.metadata("blobs/onnx_model")["onnx_sha256"]
    run = served.client().get_run(str(version.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_accuracy"] > 0.5
    verify(served.mlflow(), served.store(), "blobs", "1")
    link = str(served.metadata("blobs/registered_model")["mlflow run"])
    assert link.startswith(served.mlflow_uri)
    assert str(version.run_id) in link


def test_a_reply_that_is_lost_after_the_commit_adds_no_second_version(served: Workplace):
    lost: list[str] = []
    with losing_proxy(served.mlflow_uri, "/model-versions/create", lost) as url:
        place = Workplace(served.folder, mlflow=url, models=served.models)
        place.artifacts = served.artifacts
        number = add(place, "lost reply", model="lost")
        place.instance.dispose()
    assert len(lost) == 1
    assert number == "1"
    assert served.versions("lost") == [1]
    verify(served.mlflow(), served.store(), "lost", "1")
    assert served.aliases("lost")["champion"] == "1"


def losing_proxy(target: str, path: str, lost: list[str]):
    """Forward everything; the answer to the first request of that path is dropped after the server did the work."""

    class Proxy(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            skip = ("host", "content-length", "connection", "accept-encoding")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in skip}
            answer = httpx.request(
                self.command, target + self.path, content=body, headers=headers, timeout=60
            )
            if path in self.path and not lost:
                lost.append(self.path)
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("content-type", "application/json"))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = forward  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test output clean."""

    return serve(Proxy)


# --- the way back


@pytest.fixture(scope="module")
def promoted(finished, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """Three champions one after the other; the last two are in production."""
    place = finished[0].copy(tmp_path_factory.mktemp("promoted") / "place")
    for mark in ("second", "third"):
        add(place, mark)
    assert place.aliases() == {"challenger": "3", "champion": "3", "production": "3", "staging": "1"}
    yield place
    place.instance.dispose()


@pytest.fixture
def ready(promoted: Workplace, tmp_path: Path) -> Iterator[Workplace]:
    place = promoted.copy(tmp_path / "ready")
    yield place
    place.instance.dispose()


def test_the_rollback_job_moves_the_champion_and_its_stage_back_and_notes_who_and_why(ready: Workplace):
    op = {"model_name": "blobs", "reason": "wrong on Sundays", "requested_by": "ops"}
    result = ready.run("rollback", ops={"blobs_move_champion": {"config": op}})
    assert result.success, failures(result)
    assert ready.aliases() == {"challenger": "3", "champion": "2", "production": "2", "staging": "1"}
    *before, last = champion_history(ready.mlflow(), "blobs")
    assert [e["version"] for e in before] == ["1", "2", "3"]
    assert last["version"] == "2"
    assert last["why"] == "wrong on Sundays"
    assert last["by"] == f"ops, dagster run {result.run_id}"
    assert last["at"].startswith("20")


def test_a_named_version_becomes_champion(ready: Workplace):
    back = rollback(ready.mlflow(), ready.store(), "blobs", "1", by="me", why="test")
    assert back == ("3", "1")
    assert ready.aliases()["champion"] == "1"


def test_a_second_attempt_of_the_same_rollback_does_not_go_further_back(ready: Workplace):
    """The step is retried when its pod dies after the alias moved."""
    mlflow, store = ready.mlflow(), ready.store()
    assert rollback(mlflow, store, "blobs", "", by="run 1", why="test") == ("3", "2")
    ready.client().set_registered_model_alias("blobs", "production", "3")
    assert rollback(mlflow, store, "blobs", "", by="run 1", why="test") == ("3", "2")
    assert ready.aliases()["champion"] == "2"
    assert ready.aliases()["production"] == "2"


def test_a_rollback_that_died_between_history_and_alias_is_completed(
    ready: Workplace, monkeypatch: pytest.MonkeyPatch
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
    ready: Workplace, monkeypatch: pytest.MonkeyPatch
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
def test_a_rollback_to_a_version_that_was_tampered_with_is_refused(where: str, ready: Workplace):
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
    op = {"model_name": "blobs", "version": "2", "reason": "test"}
    result = ready.run("rollback", ops={"blobs_move_champion": {"config": op}})
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
def test_a_rollback_to_nowhere_is_refused(model: str, version: str, message: str, promoted: Workplace):
    with pytest.raises(RegistrationError) as error:
        rollback(promoted.mlflow(), promoted.store(), model, version, by="me", why="test")
    assert message in str(error.value)


def test_the_first_champion_has_none_before_it(finished):
    place, _ = finished
    with pytest.raises(RegistrationError, match="no champion before version 1; name a version"):
        rollback(place.mlflow(), place.store(), "blobs", "", by="me", why="test")


def test_the_history_keeps_the_last_twenty(ready: Workplace):
    mlflow = ready.mlflow()
    for number in range(22):
        promote(mlflow, "blobs", str(1 + number % 2), alias="staging", by=f"run {number}", why="test")
    history = champion_history(mlflow, "blobs")
    assert len(history) == 20
    assert history[-1]["by"] == "run 21"


def test_models_of_different_names_do_not_touch_each_other(promoted: Workplace):
    number = add(promoted, "elsewhere", model="other")
    assert number == "1"
    assert promoted.aliases("other") == {"challenger": "1", "champion": "1", "production": "1"}
    assert promoted.aliases()["champion"] == "3"


def test_a_dagster_run_that_is_retried_adopts_its_version(again: Workplace):
    """The same file for the same purpose is the same version, whoever registers it."""
    result = again.run(
        only=["registered_model"], ops={"blobs__registered_model": {"config": {"version": "1.0.0"}}}
    )
    assert result.success, failures(result)
    assert again.versions() == [1]
    assert again.value("blobs/registered_model").adopted
