"""The HTTP trigger against a real Dagster webserver: who may start what, once per key, and how it ends."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
import yaml
from fastapi.openapi.models import OpenAPI

from jukebox_orch.assets import NODES
from jukebox_orch.contract import InputError
from jukebox_orch.run_api import KEY_TAG, ErrorResponse, Parameters, RunRequest, RunStarter, build_app, main
from jukebox_orch_tests.support.run_api import TOKEN, run_api, webserver
from jukebox_orch_tests.support.waiting import free_port

HEADERS = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "refused"}
LIMIT = 16 * 1024
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


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    home = tmp_path_factory.mktemp("webserver")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (home / "location.py").write_text(LOCATION)
    with webserver(home, ["-f", str(home / "location.py")], os.environ | {"DAGSTER_HOME": str(home)}) as port:
        yield port


@pytest.fixture(scope="module")
def client(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with run_api(tmp_path_factory.mktemp("run_api"), port) as (client, _):
        yield client


def _post(client: httpx.Client, key: str | None, body: object, token: str | None = TOKEN) -> httpx.Response:
    headers = ({"Authorization": f"Bearer {token}"} if token else {}) | (
        {} if key is None else {"Idempotency-Key": key}
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


def _status_of_part(client: httpx.Client, headers: dict[str, str], part: bytes) -> int:
    """Status of the answer to a request whose body never ends."""
    connection = HTTPConnection(client.base_url.host, client.base_url.port, timeout=20)
    try:
        connection.putrequest("POST", "/runs")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(part or None)
        return connection.getresponse().status
    finally:
        connection.close()


def _schema(document: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    name = described["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return document["components"]["schemas"][name]


def test_one_key_starts_one_run_with_its_parameters(client, port):
    first = _post(client, "nightly-1", {"job": "jukebox_training", "parameters": {"seed": 7}})
    assert first.status_code == 202, first.text
    again = _post(client, "nightly-1", {"job": "jukebox_training", "parameters": {"seed": 7}})
    assert (again.status_code, again.json()) == (200, {"run_id": first.json()["run_id"], "started": False})
    (run,) = _runs(port, "nightly-1")
    assert run["runId"] == first.json()["run_id"]
    assert "seed: 7" in run["runConfigYaml"]


def test_base_model_and_stage_reach_run_config(client, port):
    given = {"model_name": "jukebox", "base_model_name": "jukebox/3", "version": "1.4", "stage": "canary"}
    answer = _post(client, "canary-1", {"job": "jukebox_training", "parameters": given})
    assert answer.status_code == 202, answer.text
    (run,) = _runs(port, "canary-1")
    assert yaml.safe_load(run["runConfigYaml"]) == given


def test_every_single_value_setting_is_a_parameter():
    groups = {"source", "split", "hyperparameters", "gates"}
    settings = {name for node in NODES for name in node.settings}
    assert set(Parameters.model_fields) == settings - groups | {"epochs"}


def test_ten_concurrent_requests_with_one_key_start_one_run(client, port):
    def send(_: int) -> httpx.Response:
        return _post(client, "at-once", {"job": "jukebox_training"})

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(send, range(10)))
    assert sorted(a.status_code for a in answers) == [200] * 9 + [202]
    assert len({a.json()["run_id"] for a in answers}) == 1
    assert len(_runs(port, "at-once")) == 1


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x"])
def test_request_without_token_is_refused(client, port, token):
    answer = _post(client, "unauthorised", {"job": "jukebox_training"}, token)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "header Authorization: send `Bearer <token>`" in answer.json()["error"]
    assert TOKEN not in answer.text
    assert _runs(port, "unauthorised") == []


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"job": "other_job"}, 403, "allowed: jukebox_training"),
        ({"job": "jukebox_training", "parameters": {"epochs": 100_000}}, 422, "parameters.epochs = 100000: "),
        ({"job": "jukebox_training", "parameters": {"epochs": "5"}}, 422, "parameters.epochs"),
        (
            {"job": "jukebox_training", "parameters": {"source": {"location": "/etc"}}},
            422,
            "parameters.source",
        ),
        (
            {"job": "jukebox_training", "parameters": {"stage": "champion"}},
            422,
            "parameters.stage = 'champion'",
        ),
        ({"job": "jukebox_training", "parameters": {"stage": "Canary"}}, 422, "parameters.stage"),
        (
            {"job": "jukebox_training", "parameters": {"base_model_name": "other/v3"}},
            422,
            "parameters.base_model_name",
        ),
        ({"job": "jukebox_training", "tags": {"dagster-k8s/config": "{}"}}, 422, "tags"),
        ({"job": "$(id)"}, 422, "job"),
        ({"parameters": {}}, 422, "job: Field required"),
        ({"job": "jukebox_training", "two\nlines": 1}, 422, "two lines = 1: "),
        ([], 422, "body = []: "),
        ({"job": "jukebox_training", "parameters": {"seed": 13}}, 502, "refused the run"),
    ],
)
def test_invalid_request_starts_no_run_and_names_field(client, port, body, status, reason):
    answer = _post(client, "out-of-bounds", body)
    assert (answer.status_code, reason in answer.json()["error"]) == (status, True), answer.text
    assert set(answer.json()) == set(ErrorResponse.model_fields)
    assert "\n" not in answer.json()["error"]
    assert _runs(port, "out-of-bounds") == []


@pytest.mark.parametrize("key", [None, "", "x" * 129, "a b", "$(id)", "-x"])
def test_request_without_valid_key_is_refused(client, key):
    answer = _post(client, key, {"job": "jukebox_training"})
    assert answer.status_code == 400
    value = "is missing" if key is None else f"= {key!r:.100}"
    assert f"header Idempotency-Key {value}: send 1 to 128 letters" in answer.json()["error"]


def test_body_one_byte_above_limit_is_refused(client):
    body = b'{"job": "other_job"}'.ljust(LIMIT)
    assert client.post("/runs", content=body, headers=HEADERS).status_code == 403
    answer = client.post("/runs", content=body + b" ", headers=HEADERS)
    assert (answer.status_code, answer.json()) == (413, {"error": "body: more than 16384 bytes; send fewer"})


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({"Content-Length": "1000000000"}, b" " * (LIMIT + 1)),
        ({"Transfer-Encoding": "chunked"}, b"4001\r\n" + b" " * (LIMIT + 1) + b"\r\n"),
        ({"Transfer-Encoding": "chunked"}, (b"400\r\n" + b" " * 1024 + b"\r\n") * 17),
    ],
    ids=["announced", "one chunk", "small chunks"],
)
def test_body_above_limit_is_refused_while_read(client, headers, part):
    assert _status_of_part(client, HEADERS | headers, part) == 413


@pytest.mark.parametrize("headers", [{"Content-Length": "1000000000"}, {"Transfer-Encoding": "chunked"}])
@pytest.mark.parametrize("part", [b"", b"1\r\n \r\n"])
def test_wrong_token_is_refused_before_body_is_read(client, headers, part):
    assert _status_of_part(client, HEADERS | headers | {"Authorization": "Bearer wrong"}, part) == 401


@pytest.mark.parametrize("size", [0, 1, LIMIT, LIMIT + 1, 2_000_000])
def test_wrong_token_with_any_body_is_401(client, size):
    headers = {"Authorization": "Bearer wrong"}  # And no key: the token is looked at before it.
    assert client.post("/runs", content=b"x" * size, headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status", "chunks"),
    [
        (HEADERS, 413, 17),
        (HEADERS | {"Authorization": "Bearer wrong"}, 401, 0),
        (HEADERS | {"Idempotency-Key": "a b"}, 400, 0),
    ],
)
def test_endless_body_is_read_up_to_limit(headers, status, chunks):
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b" " * 1024

    async def send() -> httpx.Response:
        app = build_app(RunStarter("127.0.0.1", 1, frozenset()), TOKEN)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://trigger") as client:
            return await client.post("/runs", content=endless(), headers=headers)

    assert asyncio.run(send()).status_code == status
    assert taken == chunks


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_body_is_json_for_every_content_type(client, kind):
    headers = HEADERS | ({"Content-Type": kind} if kind else {})
    answer = client.post("/runs", content=b'{"job": "other_job"}', headers=headers)
    assert answer.status_code == 403
    answer = client.post("/runs", content=b'{"job": ', headers=headers)
    assert (answer.status_code, answer.json()["error"].startswith("body: Invalid JSON")) == (422, True)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/runs", 405), ("POST", "/nowhere", 404)])
def test_unknown_path_or_method_is_error_response(client, method, path, status):
    answer = client.request(method, path)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})


def test_openapi_has_token_header_body_and_responses(client):
    answer = client.get("/openapi.json")
    document = answer.json()
    OpenAPI.model_validate(document)
    schemas = document["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', answer.text)) == set(schemas)
    operation = document["paths"]["/runs"]["post"]

    ((scheme,),) = operation["security"]
    bearer = document["components"]["securitySchemes"][scheme]
    assert (bearer["type"], bearer["scheme"]) == ("http", "bearer")

    (header,) = operation["parameters"]
    assert (header["name"], header["in"], header["required"]) == ("Idempotency-Key", "header", True)
    assert re.fullmatch(header["schema"]["pattern"], header["schema"]["examples"][0])
    assert not re.fullmatch(header["schema"]["pattern"], "a b")

    assert operation["requestBody"]["required"] is True
    request = _schema(document, operation["requestBody"])
    (example,) = request["examples"]
    assert RunRequest.model_validate(example).job == "jukebox_training"
    assert request["required"] == ["job"]
    parameters = schemas[request["properties"]["parameters"]["$ref"].rpartition("/")[2]]
    assert set(parameters["properties"]) == set(Parameters.model_fields)
    assert parameters["additionalProperties"] is False
    epochs = parameters["properties"]["epochs"]["anyOf"][0]
    assert (epochs["type"], epochs["minimum"], epochs["maximum"]) == ("integer", 1, 10_000)

    answers = operation["responses"]
    assert {status: _schema(document, answer)["title"] for status, answer in answers.items()} == (
        dict.fromkeys(("200", "202"), "RunResponse")
        | dict.fromkeys(("400", "401", "403", "413", "422", "502"), "ErrorResponse")
    )
    assert all(len(answer["description"]) > 15 for answer in answers.values())
    assert TOKEN not in answer.text


def test_openapi_page_shows_document_without_token(client):
    page = client.get("/docs").text
    assert "/openapi.json" in page
    assert TOKEN not in page


def test_absent_webserver_is_502_and_sigterm_ends_server(tmp_path):
    with run_api(tmp_path, free_port()) as (client, process):
        answer = _post(client, "down", {"job": "jukebox_training"})
        assert (answer.status_code, "does not answer" in answer.json()["error"]) == (502, True)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    log = (tmp_path / "run_api.log").read_text()
    assert "Finished server process" in log
    assert TOKEN not in log


def test_token_below_16_characters_is_refused():
    with pytest.raises(ValueError, match="TOKEN_FILE\\) has 15 characters; use at least 16"):
        build_app(RunStarter("127.0.0.1", 1, frozenset()), TOKEN[:15])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "JUKEBOX_ORCH_LAUNCHER_TOKEN_FILE",
            "/nowhere/token",
            "TOKEN_FILE = '/nowhere/token': cannot be read",
        ),
        ("JUKEBOX_ORCH_LAUNCHER_TOKEN_FILE", "", "TOKEN_FILE is not set: name the file"),
        ("JUKEBOX_ORCH_WEBSERVER", "localhost", "WEBSERVER = 'localhost': use host:port"),
        ("PORT", "http", "PORT = 'http': use a number"),
    ],
)
def test_bad_variable_is_named_with_value(name: str, value: str, message: str, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        main()
