"""What several files of tests share: a finished run to look at, a real MLflow server, a real S3 server."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import httpx
import pytest

from jukebox_orch.ml.keras_runtime import set_tensorflow
from jukebox_orch_tests.support.deployment import SMALL, Deployment
from jukebox_orch_tests.support.servers import free_port, s3_server, wait_until

# Before a test module imports Keras: with other settings the same model predicts other last digits.
set_tensorflow()

_STARTED_WITH = {name: os.environ.get(name) for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI")}


@pytest.fixture(autouse=True)
def no_leftover_deployment() -> Iterator[None]:
    """Where runs and models go is each test's own: a step and MLflow's client, run in this process, export theirs."""
    _restore_environment()
    yield
    _restore_environment()


@pytest.fixture
def deployment(tmp_path: Path, migrated: Path) -> Iterator[Deployment]:
    """A fresh deployment with an empty MLflow."""
    shutil.copy(migrated, tmp_path / "mlflow.db")
    place = Deployment(tmp_path)
    yield place
    place.instance.dispose()


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[tuple[Deployment, dg.ExecuteInProcessResult]]:
    """One whole run of the project blobs, to be looked at only."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(migrated, folder / "mlflow.db")
    place = Deployment(folder)
    result = place.run(**SMALL, version="1.0.0", tags={"git/tag": "v1.0.0", "git/code_matches_tag": "no"})
    assert result.success
    yield place, result
    place.instance.dispose()


@pytest.fixture
def again(finished: tuple[Deployment, dg.ExecuteInProcessResult], tmp_path: Path) -> Iterator[Deployment]:
    """A copy of the finished deployment, to go on from."""
    place = finished[0].copy(tmp_path / "again")
    yield place
    place.instance.dispose()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations take seconds."""
    from jukebox_orch.registry.mlflow_resource import MlflowResource

    database = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    MlflowResource(tracking_uri=f"sqlite:///{database}", artifact_root="").client()
    return database


@contextmanager
def serve_mlflow(folder: Path, database: Path) -> Iterator[str]:
    """Run `mlflow server` over a copy of an empty database."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(database, folder / "server.db")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["server", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
            },
            start_new_session=True,
        )
        try:
            wait_until(lambda: _healthy(url), 120, "the MLflow server was not ready")
            yield url
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[str]:
    with serve_mlflow(tmp_path_factory.mktemp("mlflow-server"), migrated) as url:
        yield url


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket `s3://bucket` on a real server, reached by the environment."""
    folder = tmp_path_factory.mktemp("s3") / "data"
    (folder / "bucket").mkdir(parents=True)
    with s3_server(folder) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield "s3://bucket"


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _restore_environment() -> None:
    for name, value in _STARTED_WITH.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
