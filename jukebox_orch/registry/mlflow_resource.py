"""MLflow: the embedded default on sqlite, or a server."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import dagster as dg
from pydantic import Field, PrivateAttr

if TYPE_CHECKING:
    from filelock import FileLock
    from mlflow import MlflowClient

# On the MLflow run: which Dagster run it belongs to.
RUN_TAG = "dagster_run_id"
_LOCK_SECONDS = 600
_EVENT_TAGS = ("jukebox/", "git/")


class MlflowResource(dg.ConfigurableResource):
    """Experiment tracker and model registry. One Dagster run is one MLflow run, found by its tag."""

    tracking_uri: str = Field(
        description="http(s):// address of a server, or sqlite:///path for the embedded store"
    )
    artifact_root: str = Field(
        default="", description="Where the embedded store keeps artifacts; a server decides itself"
    )
    _client: Any = PrivateAttr(default=None)

    def client(self) -> "MlflowClient":
        """The client; the embedded database is created, once, before its first use."""
        if self._client is None:
            # MLflow reports usage to its makers unless told not to.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            # A server that is away is asked again for half a minute; then the step's own retries wait longer.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
            # Progress bars do not belong into the log of a run.
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            self._give_credentials()
            import mlflow

            mlflow.set_tracking_uri(self.address)
            if self.tracking_uri.startswith("sqlite:///"):
                # Processes that open a fresh file at the same time trip over each other's migration.
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
        """The tracking URI without user and password: it is shown in messages and metadata."""
        parts = urlsplit(self.tracking_uri)
        return (
            urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
            if parts.netloc
            else self.tracking_uri
        )

    def run_id(self, run: dg.DagsterRun, experiment: str, tags: dict[str, str]) -> str:
        """The MLflow run of a Dagster run, created when there is none.

        Args:
            run: the Dagster run; its event and git tags are copied.
            experiment: name of the experiment, created when there is none.
            tags: further tags of a new run.
        """
        client = self.client()
        experiment_id = self._experiment(experiment)
        if found := self._runs_of(run, experiment_id):
            return found[0]
        created = client.create_run(
            experiment_id,
            tags={RUN_TAG: run.run_id, "dagster_job": run.job_name, **event_tags(run), **tags},
            run_name=f"{experiment}-{run.run_id[:8]}",
        )
        # A POST whose answer was lost is sent again by the client: keep the first of our own twins.
        first, *twins = self._runs_of(run, experiment_id) or [created.info.run_id]
        for twin in twins:
            client.delete_run(twin)
        return first

    def finish(self, run_id: str, *, failed: bool) -> None:
        """End the MLflow run, as failed when a check stops the Dagster run. Later steps may still add to it."""
        self.client().set_terminated(run_id, "FAILED" if failed else "FINISHED")

    def lock(self, model_name: str) -> "FileLock":
        """A lock over the registrations of a model by this machine; the system frees it when its holder dies."""
        from filelock import FileLock

        return FileLock(
            Path(tempfile.gettempdir()) / f"jukebox-orch-{os.getuid()}-{model_name}.lock",
            timeout=_LOCK_SECONDS,
        )

    def url(self, experiment: str, run_id: str) -> str:
        """Page of the MLflow run; for the embedded store, as `mlflow server` shows it on its default port."""
        base = self.address if self.address.startswith("http") else "http://127.0.0.1:5000"
        return f"{base.rstrip('/')}/#/experiments/{self._experiment(experiment)}/runs/{run_id}"

    def _give_credentials(self) -> None:
        """Hand user and password of the URI to MLflow by the variables it reads, where it shows them to nobody."""
        parts = urlsplit(self.tracking_uri)
        if parts.username is not None and parts.password is not None:
            os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
            os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)

    def _runs_of(self, run: dg.DagsterRun, experiment_id: str) -> list[str]:
        """Ids of the MLflow runs that carry the Dagster run's tag, always in the same order."""
        found = self.client().search_runs([experiment_id], f"tags.{RUN_TAG} = '{run.run_id}'")
        return sorted(each.info.run_id for each in found)

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
            # Another run created it in between.
            if error.error_code == "RESOURCE_ALREADY_EXISTS" and (
                found := client.get_experiment_by_name(name)
            ):
                return found.experiment_id
            raise


def event_tags(run: dg.DagsterRun) -> dict[str, str]:
    """The tags that say which event started the run and which code it ran."""
    return {name: value for name, value in run.tags.items() if name.startswith(_EVENT_TAGS)}
