"""Registration with crashes, lost responses and concurrency: only complete versions get an alias."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from uuid import uuid4

import dagster as dg
import filelock
import httpx
import pytest
from mlflow.entities import ViewType

from jukebox_orch.registry import versions
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.registry.promotion import champion_history, finish_interrupted, move_champion, promote
from jukebox_orch.registry.registration import add_version
from jukebox_orch.registry.versions import RegistrationError, verify
from jukebox_orch_tests.support.deployment import SMALL, Deployment, failures
from jukebox_orch_tests.support.registration_crash import (
    CHANGE_POINTS,
    CHANGES,
    POINTS,
    add,
    another,
    model_of,
    register,
    registration,
)
from jukebox_orch_tests.support.servers import serve
from jukebox_orch_tests.support.waiting import free_port


@pytest.fixture(scope="module", params=["sqlite", "server"])
def crashed(
    request: pytest.FixtureRequest, finished, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Deployment, dict[str, int]]]:
    """Kill one registration, promotion or rollback at each point, each with its own model."""
    if request.param == "server":
        deployment = request.getfixturevalue("served")
    else:
        deployment = finished[0].copy(tmp_path_factory.mktemp("crashed") / "deployment")
    url = [deployment.mlflow_uri] if request.param == "server" else []
    program = "jukebox_orch_tests.support.registration_crash"
    result = subprocess.run(
        [sys.executable, "-m", program, str(deployment.folder), *url],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env=deployment.environment(),
    )
    assert result.returncode == 0, result.stderr[-3_000:]
    yield deployment, json.loads(result.stdout.splitlines()[-1])
    if request.param == "sqlite":
        deployment.instance.dispose()


@pytest.mark.crash
@pytest.mark.timeout(500)
@pytest.mark.parametrize("point", POINTS)
def test_killed_registration_leaves_no_alias_and_next_run_succeeds(point: str, crashed):
    deployment, exit_codes = crashed
    model, mlflow, store = model_of(point), deployment.mlflow(), deployment.store()
    assert exit_codes[model] == -signal.SIGKILL
    before = deployment.versions(model)
    for number in set(deployment.aliases(model).values()):
        verify(mlflow, store, model, number)
    onnx_model = deployment.value("blobs/onnx_model")
    run_id = deployment.value("blobs/registered_model").mlflow_run_id
    added = register(mlflow, store, onnx_model, run_id, model)
    assert added.adopted is bool(before)
    assert deployment.versions(model) == [1]
    assert deployment.aliases(model) == {"challenger": "1", "champion": "1", "staging": "1"}
    verify(mlflow, store, model, "1")
    entry = Path(store.entry(model, "1").path)
    assert {p.name for p in entry.iterdir()} == {"model.onnx", "example.json", "labels.json", "README.md"}


@pytest.mark.crash
@pytest.mark.timeout(500)
@pytest.mark.parametrize("point", CHANGE_POINTS)
@pytest.mark.parametrize("change", CHANGES)
def test_killed_change_of_champion_is_finished_by_next_run(change: str, point: str, crashed) -> None:
    deployment, exit_codes = crashed
    model, mlflow, store = model_of(point, change), deployment.mlflow(), deployment.store()
    assert exit_codes[model] == -signal.SIGKILL
    finish_interrupted(mlflow, store, model)  # every registration, promotion and rollback begins with it
    unchanged = {"challenger": "2", "champion": "2", "production": "2"}
    changed = {"challenger": "2", "champion": "1", "production": "1"}
    assert deployment.aliases(model) == (unchanged if point == "before the history" else changed)
    # A retry of the same run; another run of a finished rollback would go one version further back.
    move_champion(mlflow, store, model, CHANGES[change], by="run 1", why="test")
    assert deployment.aliases(model) == changed
    verify(mlflow, store, model, "1")
    history = champion_history(mlflow, model)
    assert [entry.version for entry in history] == ["1", "2", "1"]
    assert all(entry.done for entry in history)


def test_lock_is_released_when_holder_is_killed(tmp_path: Path):
    program = (
        "import os, signal; from jukebox_orch.registry.mlflow_resource import MlflowResource as M\n"
        "lock = M(tracking_uri='sqlite:///x').lock('lock-test'); lock.acquire()\n"
        "print('held', flush=True); signal.pause()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lock = MlflowResource(tracking_uri="sqlite:///y", artifact_root="").lock("lock-test")
        with pytest.raises(filelock.Timeout):
            lock.acquire(timeout=0.2)
        MlflowResource(tracking_uri="sqlite:///y", artifact_root="").lock("other").acquire(
            timeout=0.2
        ).lock.release()
    finally:
        holder.kill()
        holder.wait(10)
    with lock.acquire(timeout=10):
        assert lock.is_locked


def test_concurrent_registrations_are_serialised_and_complete(again: Deployment):
    errors: list[BaseException] = []
    mlflow, store = again.mlflow(), again.store()
    mlflow.client()
    run_id = again.value("blobs/registered_model").mlflow_run_id
    base = again.value("blobs/onnx_model")
    active, counts = [], []

    def register_and_promote(mark: str) -> None:
        try:
            with mlflow.lock("blobs"):
                active.append(mark)
                counts.append(len(active))
                request = registration(mlflow, another(base, mark), run_id, "blobs", label=mark)
                added = add_version(mlflow, store, request)
                promote(mlflow, "blobs", added.number, aliases=["production"], by=mark, why="test")
                active.remove(mark)
        except BaseException as error:  # noqa: BLE001 - asserted below
            errors.append(error)

    threads = [threading.Thread(target=register_and_promote, args=(f"m{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert max(counts) == 1
    assert again.versions() == [1, 2, 3, 4]
    for number in ("1", "2", "3", "4"):
        verify(mlflow, store, "blobs", number)
    history = champion_history(mlflow, "blobs")
    assert [e.version for e in history] == ["1", "2", "3", "4"]
    assert again.aliases()["champion"] == "4"


def test_unreachable_registry_fails_run_after_retries(again: Deployment, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    again.mlflow_uri = f"http://user:s3cret-canary@127.0.0.1:{free_port()}"
    result = again.run(only=["registered_model"])
    assert not result.success
    assert len([e for e in result.all_events if e.event_type_value == "STEP_RESTARTED"]) == 2
    log = "\n".join(str(e) for e in again.instance.all_logs(result.run_id))
    assert "Connection refused" in log
    assert "s3cret-canary" not in log
    assert [p.name for p in Path(again.models, "blobs").iterdir()] == ["1"]


def test_wrong_file_in_mlflow_prevents_alias(again: Deployment, monkeypatch: pytest.MonkeyPatch):
    original = versions._download
    monkeypatch.setattr(versions, "_download", lambda *a: original(*a) + b"\0")
    with pytest.raises(RegistrationError, match=r"version 2: the file in MLflow has sha256 .*, not"):
        add(again, "broken")
    assert again.aliases() == {"challenger": "1", "champion": "1", "staging": "1"}


def test_store_entry_with_another_model_is_refused(again: Deployment):
    entry = Path(again.store().entry("blobs", "2").path)
    entry.mkdir()
    (entry / "model.onnx").write_bytes(b"another model")
    with pytest.raises(RuntimeError, match="restore its file or remove the entry"):
        add(again, "second")
    assert again.aliases() == {"challenger": "1", "champion": "1", "staging": "1"}
    assert (entry / "model.onnx").read_bytes() == b"another model"


@pytest.fixture(scope="module")
def served(finished, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A complete run with a real MLflow server."""
    deployment = Deployment(tmp_path_factory.mktemp("served"), mlflow=mlflow_server)
    result = deployment.run(**SMALL, version="1.0.0", prod_flag=True)
    assert result.success, failures(result)
    yield deployment
    deployment.instance.dispose()


def test_server_has_version_run_and_file(served: Deployment):
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


def test_lost_response_creates_no_second_version(served: Deployment):
    lost: list[str] = []
    with losing_proxy(served.mlflow_uri, "/model-versions/create", lost) as url:
        deployment = Deployment(served.folder, mlflow=url, models=served.models)
        deployment.artifacts = served.artifacts
        number = add(deployment, "lost reply", model="lost")
        deployment.instance.dispose()
    assert len(lost) == 1
    assert number == "1"
    assert served.versions("lost") == [1]
    verify(served.mlflow(), served.store(), "lost", "1")
    assert served.aliases("lost")["champion"] == "1"


def test_lost_response_leaves_one_mlflow_run(served: Deployment):
    lost: list[str] = []
    run = dg.DagsterRun("blobs_training", run_id=str(uuid4()))
    with losing_proxy(served.mlflow_uri, "/runs/create", lost) as url:
        mlflow = MlflowResource(tracking_uri=url)
        run_id = mlflow.run_id(run, "lost reply", {})
    assert len(lost) == 1
    client = served.client()
    experiment = client.get_experiment_by_name("lost reply")
    assert experiment is not None
    assert [r.info.run_id for r in client.search_runs([experiment.experiment_id])] == [run_id]
    both = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    assert len(both) == 2, "the request was not repeated: the test checks nothing"
    assert served.mlflow().run_id(run, "lost reply", {}) == run_id


def losing_proxy(target: str, path: str, lost: list[str]):
    """Forward all requests, but drop the response to the first request for `path`."""

    class Proxy(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            skip = ("host", "content-length", "connection", "accept-encoding")
            headers = {k: v for k, v in self.headers.items() if k.lower() not in skip}
            response = httpx.request(
                self.command, target + self.path, content=body, headers=headers, timeout=60
            )
            if path in self.path and not lost:
                lost.append(self.path)
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(response.status_code)
            self.send_header("Content-Type", response.headers.get("content-type", "application/json"))
            self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = forward  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Do not write to the test's output."""

    return serve(Proxy)
