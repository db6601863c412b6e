"""Fixtures of several test modules: deployments, a finished run to read, a real MLflow server, a real S3 server.

A pytest plugin that is loaded in every session, so it imports MLflow and Dagster in the fixtures that need them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jukebox_orch_tests.support.servers import running, s3_server
from jukebox_orch_tests.support.waiting import answers, free_port, wait_until

if TYPE_CHECKING:
    import dagster as dg

    from jukebox_orch_tests.support.deployment import Deployment

_INITIAL_ENVIRONMENT = {name: os.environ.get(name) for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI")}


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Reset the folders of runs and models, which steps and MLflow's client set in this process."""
    _restore_environment()
    yield
    _restore_environment()


@pytest.fixture
def deployment(tmp_path: Path, migrated: Path) -> Iterator[Deployment]:
    """Yield a new deployment with an empty MLflow."""
    from jukebox_orch_tests.support.deployment import Deployment

    shutil.copytree(migrated.parent, tmp_path, dirs_exist_ok=True)
    deployment = Deployment(tmp_path)
    yield deployment
    deployment.instance.dispose()


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[tuple[Deployment, dg.ExecuteInProcessResult]]:
    """Yield a deployment with one complete run of the project blobs. Read only."""
    from jukebox_orch_tests.support.deployment import SMALL, Deployment

    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(migrated.parent, folder, dirs_exist_ok=True)
    deployment = Deployment(folder)
    result = deployment.run(
        **SMALL, version="1.0.0", tags={"git/tag": "v1.0.0", "git/code_matches_tag": "no"}
    )
    assert result.success
    yield deployment, result
    deployment.instance.dispose()


@pytest.fixture
def again(finished: tuple[Deployment, dg.ExecuteInProcessResult], tmp_path: Path) -> Iterator[Deployment]:
    """Yield a copy of the finished deployment, which a test may change."""
    deployment = finished[0].copy(tmp_path / "again")
    yield deployment
    deployment.instance.dispose()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty MLflow database beside Dagster's empty ones, created once because migrations take seconds."""
    from jukebox_orch_tests.support.deployment import Deployment

    deployment = Deployment(tmp_path_factory.mktemp("migrated"))
    deployment.client()
    deployment.instance.get_runs()
    deployment.instance.dispose()
    return deployment.folder / "mlflow.db"


@contextmanager
def serve_mlflow(folder: Path, database: Path) -> Iterator[str]:
    """Run `mlflow server` with a copy of an empty database."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(database, folder / "server.db")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["server", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1"]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", *command, "--port", str(port)]
    with running(command, folder / "server.log", environment):
        wait_until(lambda: answers(f"{url}/health"), 120, "the MLflow server to be ready")
        yield url


# One server per file: the files register models of the same name.
@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[str]:
    with serve_mlflow(tmp_path_factory.mktemp("mlflow-server"), migrated) as url:
        yield url


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a bucket `s3://bucket` on a real server, configured by environment variables."""
    folder = tmp_path_factory.mktemp("s3") / "data"
    (folder / "bucket").mkdir(parents=True)
    with s3_server(folder) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield "s3://bucket"


def _restore_environment() -> None:
    for name, value in _INITIAL_ENVIRONMENT.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
