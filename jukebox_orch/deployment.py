"""The deployment's configuration: the only module that reads these variables.

| variable | meaning | default |
|---|---|---|
| `DAGSTER_HOME` | folder of the Dagster instance | none for runs; `.dagster` in the working folder to show results |
| `JUKEBOX_ORCH_ARTIFACTS` | root of the artifacts, folder or fsspec URL | `$DAGSTER_HOME/artifacts` |
| `JUKEBOX_ORCH_MODEL_STORE` | root of the model store, folder or fsspec URL | `$DAGSTER_HOME/models` |
| `MLFLOW_TRACKING_URI` | MLflow server | sqlite and files in `$DAGSTER_HOME` |
| `JUKEBOX_ORCH_EXECUTOR` | `in_process`, `multiprocess` or `k8s` | `in_process` |
| `JUKEBOX_ORCH_EXECUTOR_CONFIG` | with `k8s`: YAML file with the settings of the pods of steps | none |
| `JUKEBOX_ORCH_MODEL_STORAGE_PVC` | volume claim that contains the model store | none |
| `JUKEBOX_ORCH_CLUSTER_DOMAIN` | DNS domain of the cluster | `cluster.local` |
| `JUKEBOX_ORCH_NAMESPACE` | namespace of the model servers | `default` |
| `JUKEBOX_ORCH_GIT_COMMIT`, `JUKEBOX_ORCH_VERSION` | code the deployment was built from | those of the checkout |
| `JUKEBOX_ORCH_PROJECTS` | YAML file with the data, run settings and triggers of each project | the projects' own |
| `JUKEBOX_ORCH_SENSOR_STATE` | sensor state that is too large for a cursor | `$DAGSTER_HOME/sensors` |
| `JUKEBOX_ORCH_BROKEN_PROJECTS` | `stop`, or `leave_out` with a warning | `stop` |
| `PORT` | port of the run API (`jukebox_orch.run_api`), as Knative sets it | 8080 |
| `JUKEBOX_ORCH_LAUNCHER_TOKEN_FILE` | file with the token that callers of the run API send | none |
| `JUKEBOX_ORCH_LAUNCHER_JOBS` | jobs that the run API may start, separated by commas | `jukebox_training` |
| `JUKEBOX_ORCH_WEBSERVER` | Dagster webserver that the run API calls, `host:port` | `localhost:3000` |
"""

import os
import re
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from jukebox_orch.contract import InputError, ModelProject
from jukebox_orch.deployed_code import DIRTY, DeployedCode
from jukebox_orch.project_settings import ProjectSettings, load_project_settings
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.sensors import build_schedules, build_sensors
from jukebox_orch.storage.artifact_store import ArtifactStore
from jukebox_orch.storage.model_store import ModelStore


class _ArtifactStore(ArtifactStore):
    """Refuses a run whose events would be lost: they are what says which artifact is current."""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Fail without `DAGSTER_HOME`, for which Dagster uses a folder that it deletes at the end of the command.

        The steps of an exported pipeline have an ephemeral instance, and write their events elsewhere.
        """
        if not os.environ.get("DAGSTER_HOME") and context.instance and not context.instance.is_ephemeral:
            raise dg.Failure(
                "DAGSTER_HOME is not set: the events of this run would be lost, while its model stays registered. "
                "Set it, for example: export DAGSTER_HOME=$PWD/.dagster",
                allow_retries=False,
            )


def resources() -> dict[str, Any]:
    """Return the resources that the assets of every graph require, by key."""
    home = _home()
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return {
        "artifact_store": _ArtifactStore(root=_setting("ARTIFACTS", str(home / "artifacts"))),
        "model_store": ModelStore(
            root=_setting("MODEL_STORE", str(home / "models")),
            model_storage_pvc=_setting("MODEL_STORAGE_PVC", ""),
            cluster_domain=_setting("CLUSTER_DOMAIN", "cluster.local"),
            namespace=_setting("NAMESPACE", "default"),
        ),
        "mlflow": MlflowResource(
            # By reference: the address may contain a password, and a job's snapshot shows its resources' values.
            tracking_uri=dg.EnvVar("MLFLOW_TRACKING_URI")
            if tracking_uri
            else f"sqlite:///{home / 'mlflow.db'}",
            artifact_root="" if tracking_uri else str(home / "mlflow"),
        ),
        # Read when a run needs it, because it starts git, and loading the definitions must not start a process.
        "code": dg.ResourceDefinition(lambda _context: deployed_code()),
    }


def executor() -> dg.ExecutorDefinition:
    """Return the executor of steps. On a laptop `in_process` is the fastest (see `make bench`).

    Raises:
        InputError: an unknown executor.
    """
    name = _setting("EXECUTOR", "in_process")
    if name == "in_process":
        return dg.in_process_executor
    if name == "multiprocess":
        return dg.multiprocess_executor
    if name == "k8s":
        from jukebox_orch.k8s.step_executor import pod_executor

        return pod_executor(_setting("EXECUTOR_CONFIG", ""))
    raise InputError(f"JUKEBOX_ORCH_EXECUTOR = {name!r}: use in_process, multiprocess or k8s")


def leave_out_broken_projects() -> bool:
    """Return whether a broken plugin is left out with a warning instead of stopping everything.

    Raises:
        InputError: the setting has an unknown value.
    """
    choice = _setting("BROKEN_PROJECTS", "stop")
    if choice not in ("stop", "leave_out"):
        raise InputError(f"JUKEBOX_ORCH_BROKEN_PROJECTS = {choice!r}: use stop or leave_out")
    return choice == "leave_out"


def project_settings(projects: Collection[str] | None = None) -> dict[str, ProjectSettings]:
    """Return the settings in `JUKEBOX_ORCH_PROJECTS` by project; with `projects`, other names are an error.

    Raises:
        InputError: the file cannot be read or has a bad project or field; the message names it.
    """
    path = _setting("PROJECTS", "")
    return load_project_settings(path, projects) if path else {}


@contextmanager
def naming_projects_file() -> Iterator[None]:
    """Name the projects file in the message of a setting that is refused."""
    try:
        yield
    except InputError as error:
        if path := _setting("PROJECTS", ""):
            raise InputError(f"projects file {path}: {error}") from None
        raise


def automation(name: str, project: ModelProject, settings: ProjectSettings) -> dg.Definitions:
    """Return the sensors and the schedule of a project's training job. Configured ones run automatically.

    Raises:
        InputError: a trigger has a bad value, or its runs would train on the embedded sample.
    """
    triggers = settings.checked_triggers(project, name)
    job = f"{name}_training"
    sensors = build_sensors(
        name,
        job,
        triggers,
        deployed=deployed_code,
        state_root=_setting("SENSOR_STATE", str(_home() / "sensors")),
        # A pod runs the code of its image, so a tag waits until the image is built from the tag's commit.
        require_matching_code=_setting("EXECUTOR", "in_process") == "k8s",
        dataset_name=settings.settings.get("dataset_name", ""),
    )
    return dg.Definitions(sensors=sensors, schedules=build_schedules(name, job, triggers))


@dg.run_failure_sensor(
    name="mlflow_run_status",
    description="Marks the MLflow run of a failed run as failed, also when its process was killed.",
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def mlflow_run_status(context: dg.RunFailureSensorContext, mlflow: MlflowResource) -> None:
    """End the MLflow run of a run that failed and could not do it itself."""
    mlflow.set_status(context.dagster_run.run_id, "FAILED")


def mlflow() -> MlflowResource:
    """Return the MLflow resource for commands, which run outside of Dagster."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home() / 'mlflow.db'}"
    return MlflowResource(tracking_uri=uri)


def instance() -> dg.DagsterInstance:
    """Return the Dagster instance at `DAGSTER_HOME`, or at `.dagster` in the working folder.

    Raises:
        InputError: neither exists.
    """
    home = _home()
    if not home.is_dir():
        raise InputError(
            f"DAGSTER_HOME is not set and {home} does not exist: set it to the folder that your runs used"
            if not os.environ.get("DAGSTER_HOME")
            else f"DAGSTER_HOME = {str(home)!r}: no such folder; set it to the folder that your runs used"
        )
    os.environ["DAGSTER_HOME"] = str(home)
    return dg.DagsterInstance.get()


def deployed_code() -> DeployedCode:
    """Return the code that was recorded when the deployment was built, else that of this package's checkout."""
    return DeployedCode(
        commit=_setting("GIT_COMMIT", "") or _checked_out_commit(),
        version=_setting("VERSION", "") or _git("describe", "--tags", "--exact-match", "HEAD") or None,
    )


def _checked_out_commit() -> str | None:
    """Return the checkout's commit, with `-dirty` if the code differs from it; None without a commit.

    Changes of all tracked files count, and new files of this package, which Python may import. Other new files do not:
    a checkout often has data and notes beside the code.
    """
    status = _git("status", "--porcelain=v2", "--branch", "--untracked-files=no") or ""
    commit = re.search(r"^# branch\.oid ([0-9a-f]{40,64})$", status, re.MULTILINE)
    if commit is None:
        return None
    changed = re.search(r"^[^#]", status, re.MULTILINE)
    new = _git("ls-files", "--others", "--exclude-standard", "--exclude=__pycache__", "--", ".")
    is_clean = not changed and new == ""  # None: git did not answer, so it is not known to be clean
    return commit[1] if is_clean else f"{commit[1]}{DIRTY}"


def _git(*arguments: str) -> str | None:
    """Return git's output for the checkout that contains this package; None without a checkout or an answer."""
    # No optional locks: a sensor's tick must not disturb somebody who works in the checkout.
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _home() -> Path:
    return Path(os.environ.get("DAGSTER_HOME") or ".dagster").absolute()


@dataclass(frozen=True)
class RunApiSettings:
    """Settings of the run API: its port, the webserver that it calls, the jobs it may start, its callers' token."""

    port: int
    webserver_host: str
    webserver_port: int
    jobs: frozenset[str]
    token: str


def run_api_settings() -> RunApiSettings:
    """Return the settings of `jukebox_orch.run_api`.

    Raises:
        InputError: the port or address is invalid, or the token file cannot be read.
    """
    webserver = _setting("WEBSERVER", "localhost:3000")
    host, _, port = webserver.rpartition(":")
    if not (host and port.isdigit()):
        raise InputError(f"JUKEBOX_ORCH_WEBSERVER = {webserver!r}: use host:port, for example localhost:3000")
    own_port = os.environ.get("PORT") or "8080"
    if not own_port.isdigit():
        raise InputError(f"PORT = {own_port!r}: use a number")
    file = _setting("LAUNCHER_TOKEN_FILE", "")
    if not file:
        raise InputError("JUKEBOX_ORCH_LAUNCHER_TOKEN_FILE is not set: name the file that holds the token")
    try:
        token = Path(file).read_text().strip()
    except OSError as error:
        raise InputError(
            f"JUKEBOX_ORCH_LAUNCHER_TOKEN_FILE = {file!r}: cannot be read ({error.strerror})"
        ) from error
    jobs = _setting("LAUNCHER_JOBS", "jukebox_training").split(",")
    return RunApiSettings(
        int(own_port), host, int(port), frozenset(j.strip() for j in jobs if j.strip()), token
    )


def _setting(name: str, default: str) -> str:
    return os.environ.get(f"JUKEBOX_ORCH_{name}") or default
