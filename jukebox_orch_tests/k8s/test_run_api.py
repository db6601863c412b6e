"""The launcher against a real Dagster webserver: who may start what, once per key, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from jukebox_orch.assets import NODES
from jukebox_orch.run_api import KEY_TAG, Parameters, RunLauncher, build_app

TOKEN = "a-token-of-the-tests-0123456789"
LOCATION = """
import dagster as dg

@dg.op
def nothing() -> None: ...

FORM = {"seed": dg.Field(int, default_value=1)} | {
    name: dg.Field(str, default_value="") for name in ("model_name", "base_model_name", "version", "stage")
}

@dg.config_mapping(config_schema=FORM)
def settings(config):
    if config["seed"] == 13:
        raise ValueError("seed 13 is not for us")
    return {}

@dg.job(config=settings)
def jukebox_training() -> None:
    nothing()

defs = dg.Definitions(jobs=[jukebox_training])
"""


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _wait(url: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    raise TimeoutError(f"{url} did not answer in {seconds} s")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    home = tmp_path_factory.mktemp("webserver")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (home / "location.py").write_text(LOCATION)
    port = _free_port()
    command = [str(Path(sys.executable).parent / "dagster-webserver"), "-p", str(port), "-f", "location.py"]
    server = subprocess.Popen(
        command, cwd=home, env=os.environ | {"DAGSTER_HOME": str(home)}, stderr=subprocess.DEVNULL
    )
    try:
        _wait(f"http://127.0.0.1:{port}/server_info")
        yield port
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def _launcher(folder: Path, webserver_port: int) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    port = _free_port()
    settings = {
        "PORT": str(port),
        "JUKEBOX_ORCH_LAUNCHER_TOKEN_FILE": str(token),
        "JUKEBOX_ORCH_WEBSERVER": f"127.0.0.1:{webserver_port}",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jukebox_orch.run_api"], env=os.environ | settings, stderr=log, text=True
        )
    try:
        _wait(f"http://127.0.0.1:{port}/healthz")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client, process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def client(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with _launcher(tmp_path_factory.mktemp("launcher"), port) as (client, _):
        yield client


def _post(client: httpx.Client, key: str | None, body: object, token: str | None = TOKEN) -> httpx.Response:
    headers = ({"Authorization": f"Bearer {token}"} if token else {}) | (
        {"Idempotency-Key": key} if key else {}
    )
    return client.post("/runs", json=body, headers=headers)


def _runs(port: int, key: str) -> list[dict]:
    query = """query($k: String!) {
      runsOrError(filter: {tags: [{key: "%s", value: $k}]}) {... on Runs {results {runId runConfigYaml}}}
    }"""
    answer = httpx.post(
        f"http://127.0.0.1:{port}/graphql",
        json={"query": query % KEY_TAG, "variables": {"k": key}},
        timeout=30,
    )
    return answer.json()["data"]["runsOrError"]["results"]


def test_one_key_is_one_run_with_the_parameters_that_were_sent(client, port):
    first = _post(client, "nightly-1", {"job": "jukebox_training", "parameters": {"seed": 7}})
    assert first.status_code == 202, first.text
    again = _post(client, "nightly-1", {"job": "jukebox_training", "parameters": {"seed": 7}})
    assert (again.status_code, again.json()) == (200, {"run_id": first.json()["run_id"], "started": False})
    (run,) = _runs(port, "nightly-1")
    assert run["runId"] == first.json()["run_id"]
    assert "seed: 7" in run["runConfigYaml"]


def test_the_model_to_compare_with_and_the_stage_reach_the_run(client, port):
    given = {"model_name": "jukebox", "base_model_name": "jukebox/3", "version": "1.4", "stage": "canary"}
    answer = _post(client, "canary-1", {"job": "jukebox_training", "parameters": given})
    assert answer.status_code == 202, answer.text
    (run,) = _runs(port, "canary-1")
    assert yaml.safe_load(run["runConfigYaml"]) == given


def test_a_caller_may_set_every_setting_that_is_one_value():
    groups = {"source", "split", "hyperparameters", "gates"}
    settings = {name for node in NODES for name in node.settings}
    assert set(Parameters.model_fields) == settings - groups | {"epochs"}


def test_ten_requests_with_one_key_at_the_same_time_start_one_run(client, port):
    def send(_: int) -> httpx.Response:
        return _post(client, "at-once", {"job": "jukebox_training"})

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(send, range(10)))
    assert sorted(a.status_code for a in answers) == [200] * 9 + [202]
    assert len({a.json()["run_id"] for a in answers}) == 1
    assert len(_runs(port, "at-once")) == 1


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x"])
def test_a_request_without_the_token_is_refused(client, port, token):
    answer = _post(client, "unauthorised", {"job": "jukebox_training"}, token)
    assert answer.status_code == 401
    assert TOKEN not in answer.text
    assert _runs(port, "unauthorised") == []


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"job": "other_job"}, 403, "allowed: jukebox_training"),
        ({"job": "jukebox_training", "parameters": {"epochs": 100_000}}, 422, "parameters.epochs"),
        ({"job": "jukebox_training", "parameters": {"epochs": "5"}}, 422, "parameters.epochs"),
        (
            {"job": "jukebox_training", "parameters": {"source": {"location": "/etc"}}},
            422,
            "parameters.source",
        ),
        ({"job": "jukebox_training", "parameters": {"stage": "champion"}}, 422, "meaning of its own"),
        ({"job": "jukebox_training", "parameters": {"stage": "Canary"}}, 422, "parameters.stage"),
        (
            {"job": "jukebox_training", "parameters": {"base_model_name": "other/v3"}},
            422,
            "parameters.base_model_name",
        ),
        ({"job": "jukebox_training", "tags": {"dagster-k8s/config": "{}"}}, 422, "tags"),
        ({"job": "$(id)"}, 422, "job"),
        ([], 422, "body"),
        ({"job": "jukebox_training", "parameters": {"seed": 13}}, 502, "refused the run"),
    ],
)
def test_a_request_out_of_bounds_starts_nothing_and_is_told_why(client, port, body, status, said):
    answer = _post(client, "out-of-bounds", body)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text
    assert _runs(port, "out-of-bounds") == []


@pytest.mark.parametrize("key", [None, "", "x" * 129, "a b", "$(id)", "-x"])
def test_a_request_without_a_usable_key_is_refused(client, key):
    assert _post(client, key, {"job": "jukebox_training"}).status_code == 400


def test_a_body_over_16_kib_is_refused(client):
    headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "large"}
    assert client.post("/runs", content=b"x" * 20_000, headers=headers).status_code == 413


def test_with_the_webserver_down_the_caller_is_told_and_the_launcher_ends_on_sigterm(tmp_path):
    with _launcher(tmp_path, _free_port()) as (client, process):
        answer = _post(client, "down", {"job": "jukebox_training"})
        assert (answer.status_code, "cannot be asked" in answer.json()["error"]) == (502, True)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    log = (tmp_path / "log").read_text()
    assert "Finished server process" in log
    assert TOKEN not in log


def test_a_short_token_is_no_token(port):
    with pytest.raises(ValueError, match="16 characters"):
        build_app(RunLauncher("127.0.0.1", port, frozenset()), "")


def test_a_missing_token_file_is_named():
    process = subprocess.run(
        [sys.executable, "-m", "jukebox_orch.run_api"],
        env=os.environ | {"JUKEBOX_ORCH_LAUNCHER_TOKEN_FILE": "/nowhere/token"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode != 0
    assert "JUKEBOX_ORCH_LAUNCHER_TOKEN_FILE = '/nowhere/token': cannot be read" in process.stderr
