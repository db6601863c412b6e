"""Client of the KFP API (v2beta1): upload, runs, recurring runs. Every operation is idempotent.

Requests and responses are the typed models of `kfp_server_api`. Every change is "find it by name, else create
it", and both together are retried: a lost response does not lead to a second object.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kfp_bridge.errors import BridgeError, RunError
from kfp_bridge.pipeline_spec import PipelineSpec, read_pipeline_spec
from kfp_bridge.service.cron import kfp_cron

T = TypeVar("T")
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
_TRANSIENT = (429, 500, 502, 503, 504)
_PAGE = 100


@dataclass(frozen=True)
class Version:
    """One version of a pipeline on a KFP host; `created` is False if it existed already."""

    pipeline_id: str
    version_id: str
    name: str
    created: bool


class KfpHost:
    """A KFP API server.

    Args:
        host: base URL, for example http://ml-pipeline.kubeflow:8888.
        token: bearer token.
        token_file: file with the token; read again for every request, because projected service account tokens
            change during the life of a process.
        namespace: the user's namespace on a multi-user KFP.
        attempts: how often a request is tried when the server or network fails temporarily.
    """

    def __init__(
        self,
        host: str,
        *,
        token: str | None = None,
        token_file: Path | None = None,
        namespace: str | None = None,
        attempts: int = 5,
    ) -> None:
        import kfp_server_api

        if not host.startswith(("http://", "https://")):
            raise BridgeError(f"--host {host!r}: expected a URL such as http://ml-pipeline.kubeflow:8888")
        self.host = host.rstrip("/")
        self.namespace = namespace
        self.attempts = attempts
        configuration: Any = kfp_server_api.Configuration(host=self.host)
        if ca_file := os.environ.get("SSL_CERT_FILE"):
            configuration.ssl_ca_cert = ca_file
        _authorize(configuration, token, token_file)
        client = kfp_server_api.ApiClient(configuration)
        self.models: Any = kfp_server_api
        self.pipelines: Any = kfp_server_api.PipelineServiceApi(client)
        self.uploads: Any = kfp_server_api.PipelineUploadServiceApi(client)
        self.runs: Any = kfp_server_api.RunServiceApi(client)
        self.recurring_runs: Any = kfp_server_api.RecurringRunServiceApi(client)
        self.experiments: Any = kfp_server_api.ExperimentServiceApi(client)

    def upload(self, path: Path) -> Version:
        """Upload the pipeline file as a version named after its content; the same file twice makes one version."""
        spec = read_pipeline_spec(path)
        name = version_name(spec.name, path.read_bytes())
        pipeline_id = self.retried(lambda: self._pipeline_id_of(spec.name) or self._create_pipeline(spec))

        def find_or_upload() -> Version:
            if found := self._find_version(pipeline_id, name):
                return Version(pipeline_id, found.pipeline_version_id, name, created=False)
            uploaded = self.uploads.upload_pipeline_version(str(path), name=name, pipelineid=pipeline_id)
            return Version(pipeline_id, uploaded.pipeline_version_id, name, created=True)

        return self.retried(find_or_upload)

    def submit(
        self,
        version: Version,
        run_name: str,
        parameters: Mapping[str, Any],
        *,
        experiment: str = "Default",
        service_account: str | None = None,
        pipeline_root: str | None = None,
    ) -> tuple[Any, bool]:
        """Start a run, unless the experiment has one of this name; return the run and whether it was started now."""
        experiment_id = self.experiment_id(experiment)

        def find_or_start() -> tuple[Any, bool]:
            for run in self._list(
                self.runs.run_service_list_runs, "runs", run_name, experiment_id=experiment_id
            ):
                return run, False
            body = self.models.V2beta1Run(
                display_name=run_name,
                experiment_id=experiment_id,
                pipeline_version_reference=self._reference(version),
                runtime_config=self.models.V2beta1RuntimeConfig(
                    parameters=dict(parameters), pipeline_root=pipeline_root
                ),
                service_account=service_account,
            )
            return self.runs.run_service_create_run(run=body), True

        return self.retried(find_or_start)

    def wait(self, run_id: str, timeout: float, poll: float = 5.0) -> Any:
        """Wait until the run has ended and return it.

        Raises:
            RunError: it has not ended within `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while True:
            run = self.run(run_id)
            if run.state in TERMINAL:
                return run
            if time.monotonic() > end:
                raise RunError(f"run {run_id} is still {run.state} after {timeout:.0f} s")
            time.sleep(poll)

    def run(self, run_id: str) -> Any:
        """Return one run."""
        return self.retried(lambda: self.runs.run_service_get_run(run_id))

    def runs_of(self, pipeline_name: str) -> list[Any]:
        """Return all runs of a pipeline's versions, oldest first."""
        pipeline_id = self.retried(lambda: self._pipeline_id_of(pipeline_name))
        if pipeline_id is None:
            raise BridgeError(
                f"{self.host}: has no pipeline {pipeline_name!r}; upload it with `kfp-bridge upload`"
            )
        listed = self._list(self.runs.run_service_list_runs, "runs", None, namespace=self.namespace)
        found = [
            run
            for run in listed
            if run.pipeline_version_reference and run.pipeline_version_reference.pipeline_id == pipeline_id
        ]
        return sorted(found, key=lambda run: (str(run.created_at), run.run_id))

    def schedule(
        self, version: Version, spec: PipelineSpec, *, controller_timezone: str, experiment: str
    ) -> list[str]:
        """Create the recurring runs of the pipeline's Dagster schedules; return one line per recurring run.

        An existing one with the same content is kept; one that differs is replaced.

        Raises:
            BridgeError: a cron expression or timezone that the KFP controller cannot use.
        """
        schedules = spec.info.get("schedules", [])
        wanted = {
            schedule["name"] if index == 0 else f"{schedule['name']}-{index + 1}": (schedule, kfp_cron(cron))
            for schedule in schedules
            for index, cron in enumerate(schedule["cron"])
        }
        for schedule in schedules:
            if schedule["timezone"] != controller_timezone:
                raise BridgeError(
                    f"schedule {schedule['name']!r} runs in {schedule['timezone']}, but KFP uses the timezone of "
                    f"its controller, {controller_timezone}: set CRON_SCHEDULE_TIMEZONE there and "
                    "--controller-timezone here"
                )
        experiment_id = self.experiment_id(experiment)
        lines = []
        for name, (schedule, cron) in wanted.items():
            body = self._recurring_run(
                name, schedule, cron, version, experiment_id, spec.info.get("service_account")
            )
            outcome = self.retried(lambda body=body: self._find_or_replace(body, experiment_id))
            lines.append(f"{name}: {cron}: {outcome}")
        return lines

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment; create it if missing."""

        def find_or_create() -> str:
            listed = self._list(
                self.experiments.experiment_service_list_experiments,
                "experiments",
                name,
                namespace=self.namespace,
            )
            for experiment in listed:
                return experiment.experiment_id
            body = self.models.V2beta1Experiment(display_name=name, namespace=self.namespace)
            return self.experiments.experiment_service_create_experiment(experiment=body).experiment_id

        return self.retried(find_or_create)

    def retried(self, request: Callable[[], T]) -> T:
        """Return the result of the request; retry it while server or network fail temporarily.

        Raises:
            RunError: it still fails, or the server refuses it.
        """
        import tenacity
        from urllib3.exceptions import HTTPError

        def is_transient(error: BaseException) -> bool:
            return isinstance(error, HTTPError) or getattr(error, "status", None) in _TRANSIENT

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
            retry=tenacity.retry_if_exception(is_transient),
            reraise=True,
        )
        try:
            return retrying(request)
        except (self.models.ApiException, HTTPError) as error:
            raise RunError(f"{self.host}: {_explain(error)}") from error

    def _pipeline_id_of(self, name: str) -> str | None:
        listed = self._list(
            self.pipelines.pipeline_service_list_pipelines, "pipelines", name, namespace=self.namespace
        )
        for pipeline in listed:
            return pipeline.pipeline_id
        return None

    def _create_pipeline(self, spec: PipelineSpec) -> str:
        body = self.models.V2beta1Pipeline(display_name=spec.name, namespace=self.namespace)
        return self.pipelines.pipeline_service_create_pipeline(pipeline=body).pipeline_id

    def _find_version(self, pipeline_id: str, name: str) -> Any:
        listed = self._list(
            self.pipelines.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            name,
            pipeline_id=pipeline_id,
        )
        return next(listed, None)

    def _find_or_replace(self, body: Any, experiment_id: str) -> str:
        listed = self._list(
            self.recurring_runs.recurring_run_service_list_recurring_runs,
            "recurring_runs",
            body.display_name,
            experiment_id=experiment_id,
        )
        outcome = "created"
        for found in listed:
            if found.description == body.description and found.mode == body.mode:
                return "unchanged"
            self.recurring_runs.recurring_run_service_delete_recurring_run(found.recurring_run_id)
            outcome = "replaced"
        self.recurring_runs.recurring_run_service_create_recurring_run(recurring_run=body)
        return outcome

    def _recurring_run(
        self,
        name: str,
        schedule: Mapping[str, Any],
        cron: str,
        version: Version,
        experiment: str,
        account: str | None,
    ) -> Any:
        content = {
            "cron": cron,
            "parameters": schedule["parameters"],
            "version": version.name,
            "account": account,
        }
        text = json.dumps(content, sort_keys=True)
        return self.models.V2beta1RecurringRun(
            display_name=name,
            # Digest of the inputs. Bodies cannot be compared: the server adds and renames fields.
            description=f"Dagster schedule {schedule['name']} {hashlib.sha256(text.encode()).hexdigest()[:12]}",
            experiment_id=experiment,
            pipeline_version_reference=self._reference(version),
            runtime_config=self.models.V2beta1RuntimeConfig(parameters=dict(schedule["parameters"])),
            trigger=self.models.V2beta1Trigger(cron_schedule=self.models.V2beta1CronSchedule(cron=cron)),
            mode=self.models.RecurringRunMode.ENABLE
            if schedule["running"]
            else self.models.RecurringRunMode.DISABLE,
            max_concurrency="1",
            no_catchup=True,
            service_account=account,
        )

    def _reference(self, version: Version) -> Any:
        return self.models.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        )

    def _list(
        self, method: Callable[..., Any], field: str, name: str | None, **arguments: Any
    ) -> Iterator[Any]:
        """Yield the items of all pages of a list request, of one display name if given."""
        if name is not None:
            predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
            arguments["filter"] = json.dumps({"predicates": [predicate]})
        arguments = {key: value for key, value in arguments.items() if value is not None}
        while True:
            page = method(page_size=_PAGE, **arguments)
            yield from getattr(page, field) or []
            if not page.next_page_token:
                return
            arguments["page_token"] = page.next_page_token


def version_name(pipeline: str, content: bytes) -> str:
    """Return the name of a version: the pipeline's and the hash of its file, valid as a Kubernetes name."""
    return f"{pipeline}-{hashlib.sha256(content).hexdigest()[:12]}"


def _authorize(configuration: Any, token: str | None, token_file: Path | None) -> None:
    if token is None and token_file is None:
        return
    configuration.api_key_prefix["authorization"] = "Bearer"

    def refresh(current: Any) -> None:
        if token_file is None:
            current.api_key["authorization"] = token
            return
        try:
            current.api_key["authorization"] = token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BridgeError(f"token file {token_file}: {error.strerror}") from error

    configuration.refresh_api_key_hook = refresh
    refresh(configuration)


def _explain(error: Any) -> str:
    """Return the server's error message on one line; the body may be JSON, HTML of a proxy, or absent."""
    body = getattr(error, "body", None)
    if body is None:
        return f"{type(error).__name__}: {error}"
    try:
        content = json.loads(body)
        message = content.get("message") or content.get("error_message") or content.get("error") or body
    except (ValueError, AttributeError):
        message = body
    return f"HTTP {error.status} {error.reason}: {' '.join(str(message).split())[:500]}"
