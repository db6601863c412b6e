"""A small KFP API server (v2beta1) for tests; requests and responses are validated by the models of kfp_server_api."""

import email
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import kfp_server_api
import yaml


class KfpServer:
    """State of the server.

    `fail_next` is the number of requests to answer with 503; `lose_next` of those to execute, then answer with 503.
    `on_create` is called with the model and the object of each POST.
    """

    def __init__(self) -> None:
        self.pipelines: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.runs: dict[str, Any] = {}
        self.recurring_runs: dict[str, Any] = {}
        self.experiments: dict[str, Any] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail_next = 0
        self.lose_next = 0
        self.on_create: Callable[[str, Any], None] = lambda model, item: None
        self.token: str | None = None
        self.url = ""

    def finish(self, run_id: str, state: str) -> None:
        self.runs[run_id].state = state
        self.runs[run_id].finished_at = datetime.now(UTC)

    def handle(self, method: str, path: str, query: dict[str, str], body: bytes, content_type: str) -> Any:
        for pattern, verb, action in self.routes():
            if verb == method and (match := re.fullmatch(pattern, path)):
                return action(match.groups(), query, body, content_type)
        raise LookupError(f"{method} {path}")

    def routes(self) -> list[tuple[str, str, Any]]:
        api = "/apis/v2beta1"
        return [
            (
                f"{api}/pipelines",
                "GET",
                lambda g, q, b, c: self.listed(
                    self.pipelines, q, "V2beta1ListPipelinesResponse", "pipelines"
                ),
            ),
            (
                f"{api}/pipelines",
                "POST",
                lambda g, q, b, c: self.create(self.pipelines, b, "V2beta1Pipeline", "pipeline_id"),
            ),
            (f"{api}/pipelines/upload_version", "POST", lambda g, q, b, c: self.upload(q, b, c)),
            (f"{api}/pipelines/([^/]+)/versions", "GET", lambda g, q, b, c: self.versions_of(g[0], q)),
            (
                f"{api}/runs",
                "GET",
                lambda g, q, b, c: self.listed(self.runs, q, "V2beta1ListRunsResponse", "runs"),
            ),
            (
                f"{api}/runs",
                "POST",
                lambda g, q, b, c: self.create(self.runs, b, "V2beta1Run", "run_id", state="RUNNING"),
            ),
            (f"{api}/runs/([^/]+)", "GET", lambda g, q, b, c: self.runs[g[0]]),
            (
                f"{api}/experiments",
                "GET",
                lambda g, q, b, c: self.listed(
                    self.experiments, q, "V2beta1ListExperimentsResponse", "experiments"
                ),
            ),
            (
                f"{api}/experiments",
                "POST",
                lambda g, q, b, c: self.create(self.experiments, b, "V2beta1Experiment", "experiment_id"),
            ),
            (
                f"{api}/recurringruns",
                "GET",
                lambda g, q, b, c: self.listed(
                    self.recurring_runs,
                    q,
                    "V2beta1ListRecurringRunsResponse",
                    "recurring_runs",
                    "recurringRuns",
                ),
            ),
            (
                f"{api}/recurringruns",
                "POST",
                lambda g, q, b, c: self.create(
                    self.recurring_runs, b, "V2beta1RecurringRun", "recurring_run_id"
                ),
            ),
            (
                f"{api}/recurringruns/([^/]+)",
                "DELETE",
                lambda g, q, b, c: self.recurring_runs.pop(g[0]) and {},
            ),
        ]

    def create(self, store: dict[str, Any], body: bytes, model: str, id_field: str, **fields: Any) -> Any:
        item = checked(json.loads(body), model)
        if getattr(item, "display_name", None) is None:
            raise ValueError("display_name is required")
        if model in ("V2beta1Run", "V2beta1RecurringRun"):
            reference = item.pipeline_version_reference
            if self.versions[reference.pipeline_version_id].pipeline_id != reference.pipeline_id:
                raise ValueError("the version belongs to another pipeline")
        elif any(other.display_name == item.display_name for other in store.values()):
            raise FileExistsError(item.display_name)
        setattr(item, id_field, str(uuid.uuid4()))
        item.created_at = datetime.now(UTC)
        for name, value in fields.items():
            setattr(item, name, value)
        store[getattr(item, id_field)] = item
        self.on_create(model, item)
        return item

    def upload(self, query: dict[str, str], body: bytes, content_type: str) -> Any:
        message = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
        parts: Any = message.get_payload()
        part = next(
            part for part in parts if part.get_param("name", header="content-disposition") == "uploadfile"
        )
        documents = list(yaml.safe_load_all(part.get_payload(decode=True)))
        assert query["pipelineid"] in self.pipelines
        if any(version.display_name == query["name"] for version in self.versions.values()):
            raise FileExistsError(query["name"])
        version: Any = kfp_server_api.V2beta1PipelineVersion(
            pipeline_id=query["pipelineid"],
            pipeline_version_id=str(uuid.uuid4()),
            display_name=query["name"],
            created_at=datetime.now(UTC),
            pipeline_spec={"pipeline_spec": documents[0], "platform_spec": documents[1]},
        )
        self.versions[version.pipeline_version_id] = version
        return version

    def versions_of(self, pipeline_id: str, query: dict[str, str]) -> Any:
        mine = {key: version for key, version in self.versions.items() if version.pipeline_id == pipeline_id}
        return self.listed(mine, query, "V2beta1ListPipelineVersionsResponse", "pipeline_versions")

    def listed(
        self, store: dict[str, Any], query: dict[str, str], model: str, field: str, _json: str = ""
    ) -> Any:
        found = list(store.values())
        if "filter" in query:
            # protojson accepts both spellings; the SDK sends this one, the model has the other.
            content = json.loads(query["filter"].replace('"stringValue"', '"string_value"'))
            (predicate,) = checked(content, "V2beta1Filter").predicates
            assert predicate.operation == "EQUALS"
            assert predicate.key == "display_name"
            found = [item for item in found if item.display_name == predicate.string_value]
        if "experiment_id" in query:
            found = [item for item in found if item.experiment_id == query["experiment_id"]]
        # Pages of two items, so that the client must request several.
        start = int(query.get("page_token") or 0)
        following = str(start + 2) if start + 2 < len(found) else ""
        page = {field: found[start : start + 2], "total_size": len(found), "next_page_token": following}
        return getattr(kfp_server_api, model)(**page)


def checked(content: dict[str, Any], model: str) -> Any:
    """Return the JSON as a model; a field that is unknown or of the wrong type is an error."""
    client = kfp_server_api.ApiClient()

    class Response:
        data = json.dumps(content)

    item = client.deserialize(Response(), model)
    if client.sanitize_for_serialization(item) != content:
        raise ValueError(f"{model} does not take {content}")
    return item


@contextmanager
def running_kfp_server() -> Iterator[KfpServer]:
    """Run a server on a free port of the loopback interface."""
    state = KfpServer()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.requests.append((self.command, urlparse(self.path).path))
            if state.token is not None and self.headers.get("Authorization") != f"Bearer {state.token}":
                self.send(401, {"error": "no or wrong token"})
            elif state.fail_next > 0:
                state.fail_next -= 1
                self.send(503, {"error": "try again"})
            else:
                self.send(*self.execute(body))

        def execute(self, body: bytes) -> tuple[int, Any]:
            url = urlparse(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            try:
                item = state.handle(self.command, url.path, query, body, self.headers.get("Content-Type", ""))
            except FileExistsError as error:
                return 409, {"error": f"{error} already exists"}
            except (LookupError, StopIteration) as error:
                return 404, {"error": f"not found: {error}"}
            except (ValueError, AssertionError) as error:
                return 400, {"error": str(error)}
            if state.lose_next > 0 and self.command == "POST":
                state.lose_next -= 1
                return 503, {"error": "the response was lost"}
            return 200, kfp_server_api.ApiClient().sanitize_for_serialization(item)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names of http.server

        def send(self, status: int, content: Any) -> None:
            payload = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
