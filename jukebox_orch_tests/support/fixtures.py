"""What several files of tests share: deployments, a finished run to look at, a real MLflow server, a real S3 server.

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

_STARTED_WITH = {name: os.environ.get(name) for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI")}


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Where runs and models go is each test's own: a step and MLflow's client, run in this process, export theirs."""
    _restore_environment()
    yield
    _restore_environment()


@pytest.fixture
def deployment(tmp_path: Path, migrated: Path) -> Iterator[Deployment]:
    """A fresh deployment with an empty MLflow."""
    from jukebox_orch_tests.support.deployment import Deployment

    shutil.copy(migrated, tmp_path / "mlflow.db")
    place = Deployment(tmp_path)
    yield place
    place.instance.dispose()


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[tuple[Deployment, dg.ExecuteInProcessResult]]:
    """One whole run of the project blobs, to be looked at only."""
    from jukebox_orch_tests.support.deployment import SMALL, Deployment

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
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", *command, "--port", str(port)]
    with running(command, folder / "server.log", environment):
        wait_until(lambda: answers(f"{url}/health"), 120, "the MLflow server to be ready")
        yield url


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


def _restore_environment() -> None:
    for name, value in _STARTED_WITH.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
