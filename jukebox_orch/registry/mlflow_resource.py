"""The MLflow resource: an embedded store on sqlite by default, or a server."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

import dagster as dg
from pydantic import Field, PrivateAttr

if TYPE_CHECKING:
    from filelock import FileLock
    from mlflow import MlflowClient

# Tag of an MLflow run with the id of its Dagster run.
RUN_TAG = "dagster_run_id"
_LOCK_SECONDS = 600
_EVENT_TAGS = ("jukebox/", "git/")


class MlflowResource(dg.ConfigurableResource):
    """Experiment tracker and model registry. Each Dagster run has one MLflow run, which is found by its tag."""

    tracking_uri: str = Field(
        description="http(s):// address of a server, or sqlite:///path for the embedded store"
    )
    artifact_root: str = Field(
        default="", description="Artifact folder of the embedded store; a server has its own setting"
    )
    _client: Any = PrivateAttr(default=None)

    def client(self) -> "MlflowClient":
        """Return the client; create the embedded database before its first use."""
        if self._client is None:
            # By default, MLflow sends usage data to its developers.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            # Retry an unreachable server for half a minute; after that, the step's own retries wait longer.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
            # Keep progress bars out of the run's log.
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            self._export_credentials()
            import mlflow

            mlflow.set_tracking_uri(self.address)
            if self.tracking_uri.startswith("sqlite:///"):
                # Concurrent processes must not migrate a new database at the same time.
                from filelock import FileLock

                database = Path(self.tracking_uri.removeprefix("sqlite:///"))
                database.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{database}.lock"):
                    self._client = mlflow.MlflowClient(self.tracking_uri)
                    self._client.search_experiments(max_results=1)
            else:
                self._client = mlflow.MlflowClient(self.address)
        return self._client

    @property
    def address(self) -> str:
        """The tracking URI without user and password, for messages and metadata."""
        parts = urlsplit(self.tracking_uri)
        return (
            urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
            if parts.netloc
            else self.tracking_uri
        )

    def run_id(self, run: dg.DagsterRun, experiment: str, tags: Mapping[str, str], name: str = "") -> str:
        """Return the MLflow run of a Dagster run; create it if it does not exist.

        Args:
            run: the Dagster run; its event and git tags are copied.
            experiment: name of the experiment, created if it does not exist.
            tags: more tags for a new run.
            name: what a new run is called, before the first characters of the Dagster run's id.
        """
        client = self.client()
        experiment_id = self._experiment(experiment)
        if found := self._runs_of(run, experiment_id):
            return found[0]
        created = client.create_run(
            experiment_id,
            tags={RUN_TAG: run.run_id, "dagster_job": run.job_name, **event_tags(run), **tags},
            run_name=f"{name or experiment} {run.run_id[:8]}",
        )
        # The client repeats a POST whose response was lost, which creates duplicates: keep the first.
        first, *duplicates = self._runs_of(run, experiment_id) or [created.info.run_id]
        for duplicate in duplicates:
            client.delete_run(duplicate)
        return first

    def set_status(
        self, dagster_run_id: str, status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
    ) -> None:
        """Set the status of the MLflow run of a Dagster run, if it has one."""
        client = self.client()
        experiments = [e.experiment_id for e in client.search_experiments()]
        for found in client.search_runs(experiments, f"tags.{RUN_TAG} = '{dagster_run_id}'"):
            if status == "RUNNING":
                client.update_run(found.info.run_id, status)
            elif found.info.status != status:
                client.set_terminated(found.info.run_id, status)

    def end_abandoned(self, instance: dg.DagsterInstance, experiment: str) -> None:
        """End the experiment's MLflow runs whose Dagster run was killed, which could not end them itself."""
        client = self.client()
        for found in client.search_runs([self._experiment(experiment)], "attributes.status = 'RUNNING'"):
            run = instance.get_run_by_id(found.data.tags.get(RUN_TAG, ""))
            if run and run.is_finished:
                ended = {dg.DagsterRunStatus.SUCCESS: "FINISHED", dg.DagsterRunStatus.CANCELED: "KILLED"}
                client.set_terminated(found.info.run_id, ended.get(run.status, "FAILED"))

    def lock(self, model_name: str) -> "FileLock":
        """Return the lock for registrations of a model on this machine; it is released when its process dies."""
        from filelock import FileLock

        return FileLock(
            Path(tempfile.gettempdir()) / f"jukebox-orch-{os.getuid()}-{model_name}.lock",
            timeout=_LOCK_SECONDS,
        )

    def url(self, experiment: str, run_id: str) -> str:
        """Return the URL of the MLflow run; for the embedded store, of `mlflow server` on its default port."""
        base = self.address if self.address.startswith("http") else "http://127.0.0.1:5000"
        return f"{base.rstrip('/')}/#/experiments/{self._experiment(experiment)}/runs/{run_id}"

    def model_url(self, model_name: str, version: str = "") -> str:
        """Return the URL of a registered model or of one version of it, see `url`."""
        base = self.address if self.address.startswith("http") else "http://127.0.0.1:5000"
        return f"{base.rstrip('/')}/#/models/{model_name}" + (f"/versions/{version}" if version else "")

    def _export_credentials(self) -> None:
        """Pass user and password of the URI to MLflow in environment variables, which it does not log."""
        parts = urlsplit(self.tracking_uri)
        if parts.username is not None and parts.password is not None:
            os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
            os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)

    def _runs_of(self, run: dg.DagsterRun, experiment_id: str) -> list[str]:
        """Return the sorted ids of the MLflow runs with the Dagster run's tag."""
        found = self.client().search_runs([experiment_id], f"tags.{RUN_TAG} = '{run.run_id}'")
        return sorted(mlflow_run.info.run_id for mlflow_run in found)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        client = self.client()
        found = client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        location = f"{self.artifact_root}/{name}" if self.artifact_root else None
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            # Another run created it in the meantime.
            if error.error_code == "RESOURCE_ALREADY_EXISTS" and (
                found := client.get_experiment_by_name(name)
            ):
                return found.experiment_id
            raise


def event_tags(run: dg.DagsterRun) -> dict[str, str]:
    """Return the tags with the event that started the run and the code it ran."""
    return {name: value for name, value in run.tags.items() if name.startswith(_EVENT_TAGS)}
