"""Starts a training run for an authenticated HTTP POST, through Dagster's GraphQL API; made for Knative.

    POST /runs
    Authorization: Bearer <token>
    Idempotency-Key: nightly-2026-01-31
    {"job": "jukebox_training", "parameters": {"epochs": 20, "prod_flag": false}}

    202 {"run_id": "…", "started": true}      the run was queued
    200 {"run_id": "…", "started": false}     a run of this key is there already

Two requests with one key at the same time start one run as long as one process serves: the lock is in the
process. Hence the manifest's `maxScale: 1`.
"""

import hmac
import re
import threading
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from jukebox_orch.assets.run_config import BaseModelName, ModelName, Seed, Stage, VersionLabel

KEY_TAG = "jukebox/idempotency_key"
_MAX_BODY = 16 * 1024
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_RUN_OF_KEY = """
query RunOfKey($key: String!) {
  runsOrError(filter: {tags: [{key: "jukebox/idempotency_key", value: $key}]}, limit: 1) {
    __typename
    ... on Runs { results { runId } }
    ... on PythonError { message }
  }
}
"""


class LaunchError(RuntimeError):
    """Dagster did not start the run; the message says why."""


class Parameters(BaseModel):
    """What a caller may set; everything else is the project's. The job's own bounds hold as well."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epochs: int | None = Field(default=None, ge=1, le=1_000, description="Passes over the training data")
    seed: Seed | None = Field(default=None, description="Fixes every source of randomness")
    model_name: ModelName | None = Field(default=None, description="Name in the registry")
    base_model_name: BaseModelName | None = Field(default=None, description="What to compare with")
    version: VersionLabel | None = Field(default=None, description="Label of the version")
    stage: Stage | None = Field(default=None, description="Alias of a model that passes")
    prod_flag: bool | None = Field(default=None, description="True: alias `production` in place of `stage`")

    def run_config(self) -> dict[str, Any]:
        """As the training jobs take it."""
        given = self.model_dump(exclude_none=True)
        epochs = given.pop("epochs", None)
        return given | ({"hyperparameters": {"epochs": epochs}} if epochs else {})


class LaunchRequest(BaseModel):
    """Body of the POST."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    job: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", description="Name of the job")
    parameters: Parameters = Parameters()


class RunLauncher:
    """Starts runs on a Dagster webserver, one for each key."""

    def __init__(self, host: str, port: int, jobs: frozenset[str]) -> None:
        self.jobs = jobs
        self._host, self._port = host, port
        self._lock = threading.Lock()

    def launch(self, request: LaunchRequest, key: str) -> tuple[str, bool]:
        """Return the run's id, and whether this call started it.

        Raises:
            LaunchError: the webserver cannot be reached or refused.
        """
        from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError

        with self._lock:
            if found := self._run_of_key(key):
                return found, False
            try:
                client = DagsterGraphQLClient(self._host, port_number=self._port, timeout=60)
                run_id = client.submit_job_execution(
                    request.job,
                    run_config=request.parameters.run_config(),
                    tags={KEY_TAG: key, "jukebox/started_by": "launcher"},
                )
            except DagsterGraphQLClientError as error:
                raise LaunchError(f"Dagster refused the run: {_short(error)}") from error
            return run_id, True

    def _run_of_key(self, key: str) -> str | None:
        import httpx

        try:
            answer = httpx.post(
                f"http://{self._host}:{self._port}/graphql",
                json={"query": _RUN_OF_KEY, "variables": {"key": key}},
                timeout=30,
            )
            answer.raise_for_status()
            runs = answer.json()["data"]["runsOrError"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise LaunchError(f"the Dagster webserver cannot be asked: {_short(error)}") from error
        if runs["__typename"] != "Runs":
            raise LaunchError(f"Dagster could not list its runs: {runs.get('message', runs['__typename'])}")
        return runs["results"][0]["runId"] if runs["results"] else None


def build_app(launcher: RunLauncher, token: str) -> Starlette:
    """The web application: `POST /runs` and `GET /healthz`.

    Raises:
        ValueError: a token of fewer than 16 characters.
    """
    if len(token) < 16:
        raise ValueError("the launcher's token must have at least 16 characters")

    async def runs(request: Request) -> Response:
        _authorize(request, token)
        key = _key(request)
        wanted = await _wanted(request, launcher.jobs)
        try:
            run_id, started = await run_in_threadpool(launcher.launch, wanted, key)
        except LaunchError as error:
            raise HTTPException(502, str(error)) from error
        return JSONResponse({"run_id": run_id, "started": started}, status_code=202 if started else 200)

    async def healthz(request: Request) -> Response:
        del request
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[Route("/runs", runs, methods=["POST"]), Route("/healthz", healthz, methods=["GET"])],
        exception_handlers={HTTPException: _problem},
    )


def main() -> None:
    """Serve until SIGTERM: uvicorn then finishes the requests it has and ends."""
    import uvicorn

    from jukebox_orch.deployment import launcher_settings

    settings = launcher_settings()
    launcher = RunLauncher(settings.webserver_host, settings.webserver_port, settings.jobs)
    uvicorn.run(
        build_app(launcher, settings.token),
        host="0.0.0.0",  # noqa: S104 - a container's only address
        port=settings.port,
        timeout_graceful_shutdown=25,
        server_header=False,
    )


def _authorize(request: Request, token: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
        raise HTTPException(401, "send Authorization: Bearer <token>", {"WWW-Authenticate": "Bearer"})


def _key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if not _KEY.fullmatch(key):
        raise HTTPException(
            400, "send Idempotency-Key: 1 to 128 letters, digits, `.`, `_`, `:`, `-`; the same to try again"
        )
    return key


async def _wanted(request: Request, jobs: frozenset[str]) -> LaunchRequest:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise HTTPException(413, f"the body must not exceed {_MAX_BODY} bytes")
    try:
        wanted = LaunchRequest.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, "; ".join(_said(e) for e in error.errors(include_url=False))) from error
    if wanted.job not in jobs:
        raise HTTPException(
            403, f"job {wanted.job!r} may not be started here; allowed: {', '.join(sorted(jobs))}"
        )
    return wanted


async def _problem(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for nothing else
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


def _said(error: Any) -> str:
    return f"{'.'.join(map(str, error['loc'])) or 'body'}: {error['msg']}"


def _short(error: Exception) -> str:
    return str(error).replace("\n", " ")[:500] or type(error).__name__


if __name__ == "__main__":
    main()
