"""A run writes no secret anywhere: the tests search everything that it leaves for canary secrets."""

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jukebox_orch_tests.support.deployment import SMALL, Deployment

PASSWORD, KEY = "canary-password-7f3a", "canary-key-91bc"


@pytest.fixture(scope="module")
def run_with_secrets(
    mlflow_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Deployment, str]]:
    """Run a complete job in a process whose environment contains secrets, one of them in the MLflow address."""
    address = mlflow_server.replace("http://", f"http://reader:{PASSWORD}@")
    deployment = Deployment(tmp_path_factory.mktemp("secrets"), mlflow=address)
    result = deployment.execute(
        "blobs_training", SMALL, AWS_SECRET_ACCESS_KEY=KEY, DATABASE_URL=f"postgresql://u:{KEY}@host/db"
    )
    assert result.returncode == 0, result.stderr[-3_000:]
    yield deployment, result.stdout + result.stderr
    deployment.instance.dispose()


def files_containing(folder: Path, *secrets: str) -> list[str]:
    """Return the files below a folder that contain one of the secrets."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets)
    ]


def test_files_of_run_contain_no_secret(run_with_secrets):
    deployment, _ = run_with_secrets
    assert len(list(deployment.folder.rglob("*"))) > 30
    assert files_containing(deployment.folder, PASSWORD, KEY) == []


def test_job_snapshots_contain_no_secret(run_with_secrets):
    """Dagster stores compressed snapshots of jobs, with the values of their resources."""
    deployment, _ = run_with_secrets
    found = []
    for database in deployment.folder.rglob("*.db"):
        with sqlite3.connect(database) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if "snapshots" in tables:
                found += connection.execute("SELECT snapshot_body FROM snapshots").fetchall()
        connection.close()
    texts = [zlib.decompress(body).decode() for (body,) in found]
    assert any("MLFLOW_TRACKING_URI" in text for text in texts)
    assert not [text for text in texts if PASSWORD in text or KEY in text]


def test_mlflow_contains_no_secret(
    run_with_secrets, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory
):
    *_, server = sorted(tmp_path_factory.getbasetemp().glob("mlflow-server[0-9]*"))
    assert (server / "server.db").exists()
    assert list((server / "artifacts").rglob("model.onnx"))
    assert files_containing(server, PASSWORD, KEY) == []


def test_output_contains_no_secret(run_with_secrets):
    _, output = run_with_secrets
    assert PASSWORD not in output
    assert KEY not in output


def test_mlflow_link_has_no_password(run_with_secrets, mlflow_server: str):
    deployment, _ = run_with_secrets
    assert str(deployment.metadata("blobs/registered_model")["mlflow run"]).startswith(f"{mlflow_server}/#/")


def test_mlflow_client_gets_password_from_address(monkeypatch: pytest.MonkeyPatch):
    """MLflow reads the password from its own environment variables, which are set for this process."""
    import os

    from jukebox_orch.registry.mlflow_resource import MlflowResource

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    tracking = MlflowResource(tracking_uri="http://reader:p%40ss@127.0.0.1:1/base", artifact_root="")
    assert tracking.address == "http://127.0.0.1:1/base"
    tracking.client()
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "reader"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@ss"
