"""Starts a training run for an authenticated HTTP POST, through Dagster's GraphQL API; runs on Knative.

    POST /runs
    Authorization: Bearer <token>
    Idempotency-Key: nightly-2026-01-31
    {"job": "jukebox_training", "parameters": {"epochs": 20, "prod_flag": false}}

    202 {"run_id": "…", "started": true}      the run was queued
    200 {"run_id": "…", "started": false}     a run with this key exists already

`/openapi.json` describes it for programs, `/docs` for people; neither needs a token.

Two requests with one key at the same time start one run only while a single process serves: the lock is in the
process. That is why the manifest sets `autoscaling.knative.dev/max-scale: "1"`.
"""

import hmac
import threading
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jukebox_orch.assets.run_config import BaseModelName, DatasetName, ModelName, Seed, Stage, VersionLabel
from jukebox_orch.contract import Epochs
from jukebox_orch.sensors.trigger_types import EVENT_TAG

KEY_TAG = "jukebox/idempotency_key"
_MAX_BODY = 16 * 1024
_SCHEMA = "#/components/schemas/{model}"
_RUN_OF_KEY = """
query RunOfKey($key: String!) {
  runsOrError(filter: {tags: [{key: "jukebox/idempotency_key", value: $key}]}, limit: 1) {
    __typename
    ... on Runs { results { runId } }
    ... on PythonError { message }
  }
}
"""


class StartError(RuntimeError):
    """Dagster did not start the run; the message has the reason."""


class Parameters(BaseModel):
    """Settings that a caller may choose; the bounds of the job apply as well."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epochs: Epochs | None = Field(default=None, description="Maximum number of passes over the training data")
    seed: Seed | None = Field(default=None, description="Fixes every source of randomness")
    dataset_name: DatasetName | None = Field(
        default=None, description="Name of the data; only versions with the same name compete"
    )
    model_name: ModelName | None = Field(default=None, description="Name in the registry")
    base_model_name: BaseModelName | None = Field(
        default=None, description="Registered model to compare with: NAME for its champion, or NAME/VERSION"
    )
    version: VersionLabel | None = Field(default=None, description="Label of the model version")
    stage: Stage | None = Field(
        default=None,
        description="Alias of a model that passes; not champion, challenger, latest, v1, v2 and so on",
    )
    prod_flag: bool | None = Field(default=None, description="True: alias `production` instead of `stage`")

    def run_config(self) -> dict[str, Any]:
        """Return the parameters as the training jobs take them."""
        given = self.model_dump(exclude_none=True)
        epochs = given.pop("epochs", None)
        return given | ({"hyperparameters": {"epochs": epochs}} if epochs else {})


class RunRequest(BaseModel):
    """The job to run and its parameters."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra={
            "examples": [{"job": "jukebox_training", "parameters": {"epochs": 20, "prod_flag": False}}]
        },
    )

    job: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", description="Name of the job")
    parameters: Parameters = Field(
        default_factory=Parameters, description="A parameter that is absent or null has the job's default"
    )


class RunResponse(BaseModel):
    """The run of the key."""

    run_id: str = Field(description="Dagster's id of the run")
    started: bool = Field(description="Whether this request started the run")


class ErrorResponse(BaseModel):
    """Why the request failed."""

    error: str = Field(
        description="One line of text; it names the field",
        examples=["parameters.epochs = 100000: Input should be less than or equal to 10000"],
    )


class Health(BaseModel):
    """The process answers; the Dagster webserver was not asked."""

    status: Literal["ok"] = "ok"


IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$",
        description="Chosen by the caller. Requests with the same key start one run, so a request can be sent again.",
        examples=["nightly-2026-01-31"],
    ),
]
_BEARER = HTTPBearer(
    scheme_name="token",
    description="The token of the deployment",
    auto_error=False,  # FastAPI would answer with another body.
)
_ERRORS = {
    400: "Idempotency-Key is missing or does not match its pattern",
    401: "The token is missing or wrong; the rest of the request was not read",
    403: "The deployment does not allow this job; the text lists the allowed jobs",
    413: f"The body has more than {_MAX_BODY} bytes; the rest of it was not read",
    422: "The body is not JSON, or a field is missing, unknown or out of bounds",
    502: "The Dagster webserver does not answer or refused the run; the same key may be sent again",
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": RunResponse, "description": "A run with this key exists already; no run was started"},
    **{status: {"model": ErrorResponse, "description": text} for status, text in _ERRORS.items()},
}


class RunStarter:
    """Starts runs on a Dagster webserver, one for each key."""

    def __init__(self, host: str, port: int, jobs: frozenset[str]) -> None:
        self.jobs = jobs
        self._host, self._port = host, port
        self._lock = threading.Lock()

    def start(self, wanted: RunRequest, key: str) -> RunResponse:
        """Return the run of the key; start it if it does not exist.

        Raises:
            StartError: the webserver cannot be reached or refused.
        """
        from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError

        with self._lock:
            if found := self._run_of_key(key):
                return RunResponse(run_id=found, started=False)
            try:
                client = DagsterGraphQLClient(self._host, port_number=self._port, timeout=60)
                run_id = client.submit_job_execution(
                    wanted.job,
                    run_config=wanted.parameters.run_config(),
                    tags={KEY_TAG: key, EVENT_TAG: "http"},
                )
            except DagsterGraphQLClientError as error:
                raise StartError(f"job {wanted.job}: Dagster refused the run: {_short(error)}") from error
            return RunResponse(run_id=run_id, started=True)

    def _run_of_key(self, key: str) -> str | None:
        import httpx

        webserver = f"Dagster webserver {self._host}:{self._port}"
        try:
            answer = httpx.post(
                f"http://{self._host}:{self._port}/graphql",
                json={"query": _RUN_OF_KEY, "variables": {"key": key}},
                timeout=30,
            )
            answer.raise_for_status()
            runs = answer.json()["data"]["runsOrError"]
            kind = runs["__typename"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise StartError(
                f"{webserver} does not answer: {_short(error)}; send the same key again later"
            ) from error
        if kind != "Runs":
            raise StartError(f"{webserver} could not list its runs: {runs.get('message', kind)[:500]}")
        return runs["results"][0]["runId"] if runs["results"] else None


class _Api(FastAPI):
    """FastAPI with the body in its OpenAPI document, although `_read` reads the body, not FastAPI."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        schema = RunRequest.model_json_schema(ref_template=_SCHEMA)
        document["components"]["schemas"] |= schema.pop("$defs") | {RunRequest.__name__: schema}
        return document


def build_app(starter: RunStarter, token: str) -> FastAPI:
    """Build the web application: `POST /runs`, `GET /healthz` and the OpenAPI page.

    Raises:
        ValueError: a token of fewer than 16 characters.
    """
    if len(token) < 16:
        raise ValueError(
            f"the token (JUKEBOX_ORCH_LAUNCHER_TOKEN_FILE) has {len(token)} characters; use at least 16"
        )

    async def authorize(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(
                401,
                "header Authorization: send `Bearer <token>`, with the deployment's token",
                {"WWW-Authenticate": "Bearer"},
            )

    app = _Api(
        title="Training runs",
        version="1",
        description="Starts training runs through Dagster.",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        generate_unique_id_function=lambda route: route.name,
        exception_handlers={
            RequestValidationError: _refuse_key,
            # The router raises 404 and 405 as starlette's exception, which FastAPI's is a subclass of.
            **dict.fromkeys((HTTPException, 404, 405), _refuse),
        },
    )

    @app.post(
        "/runs",
        # FastAPI calls these before it reads the parameters of the function.
        dependencies=[Depends(authorize)],
        status_code=202,
        response_description="The run is queued",
        responses=_RESPONSES,
        openapi_extra={
            "requestBody": {
                "required": True,
                "description": f"At most {_MAX_BODY} bytes, read as JSON for every Content-Type",
                "content": {
                    "application/json": {"schema": {"$ref": _SCHEMA.format(model=RunRequest.__name__)}}
                },
            }
        },
    )
    def start_run(
        key: IdempotencyKey, wanted: Annotated[RunRequest, Depends(_read)], response: Response
    ) -> RunResponse:
        """Start a run of a job, unless a run with this Idempotency-Key exists."""
        if wanted.job not in starter.jobs:
            raise HTTPException(
                403,
                f"job = {wanted.job!r} may not be started here; allowed: {', '.join(sorted(starter.jobs))}",
            )
        try:
            run = starter.start(wanted, key)
        except StartError as error:
            raise HTTPException(502, str(error)) from error
        if not run.started:
            response.status_code = 200
        return run

    @app.get("/healthz")
    async def healthz() -> Health:
        """Answer as long as the process runs."""
        return Health()

    return app


def main() -> None:
    """Serve until SIGTERM; uvicorn then finishes the open requests."""
    import uvicorn

    from jukebox_orch.deployment import run_api_settings

    settings = run_api_settings()
    starter = RunStarter(settings.webserver_host, settings.webserver_port, settings.jobs)
    uvicorn.run(
        build_app(starter, settings.token),
        host="0.0.0.0",  # noqa: S104 - a container's only address
        port=settings.port,
        timeout_graceful_shutdown=25,
        server_header=False,
    )


async def _read(request: Request, key: IdempotencyKey) -> RunRequest:
    """Read the body here: FastAPI reads all of it before the token is checked, and needs a JSON Content-Type."""
    del key  # A dependency, so that a bad key is refused before the body is read.
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > _MAX_BODY:
            raise HTTPException(413, f"body: more than {_MAX_BODY} bytes; send fewer")
        body += chunk
    try:
        return RunRequest.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, "; ".join(_message(e) for e in error.errors(include_url=False))) from error


async def _refuse_key(request: Request, error: Exception) -> JSONResponse:
    del error  # FastAPI validates the header only.
    given = request.headers.get("idempotency-key")
    found = "is missing" if given is None else f"= {given!r:.100}"
    return _error(
        400,
        f"header Idempotency-Key {found}: send 1 to 128 letters, digits, `.`, `_`, `:`, `-`, "
        "the first a letter or digit; send the same key to try again",
    )


async def _refuse(request: Request, error: Any) -> JSONResponse:
    del request
    return _error(error.status_code, error.detail, error.headers)


def _error(status: int, text: str, headers: Any = None) -> JSONResponse:
    """Answer with one line, even if a field name or Dagster's message has several."""
    return JSONResponse(ErrorResponse(error=" ".join(text.split())).model_dump(), status, headers)


def _message(error: Any) -> str:
    where = ".".join(map(str, error["loc"])) or "body"
    # For these two, pydantic's input is everything around the error.
    value = "" if error["type"] in ("missing", "json_invalid") else f" = {error['input']!r:.100}"
    return f"{where}{value}: {error['msg']}"


def _short(error: Exception) -> str:
    return str(error)[:500] or type(error).__name__


if __name__ == "__main__":
    main()
