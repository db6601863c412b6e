"""Secrets are nowhere but where they were given: a canary is looked for in everything a run leaves."""

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
    """A whole run in a process whose environment holds secrets, one of them in the MLflow address."""
    address = mlflow_server.replace("http://", f"http://reader:{PASSWORD}@")
    place = Deployment(tmp_path_factory.mktemp("secrets"), mlflow=address)
    result = place.execute(
        "blobs_training", SMALL, AWS_SECRET_ACCESS_KEY=KEY, DATABASE_URL=f"postgresql://u:{KEY}@host/db"
    )
    assert result.returncode == 0, result.stderr[-3_000:]
    yield place, result.stdout + result.stderr
    place.instance.dispose()


def holding(folder: Path, *secrets: str) -> list[str]:
    """Return the files below a folder that hold one of the texts."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets)
    ]


def test_no_event_run_config_snapshot_artifact_or_model_file_holds_a_secret(run_with_secrets):
    place, _ = run_with_secrets
    assert len(list(place.folder.rglob("*"))) > 30
    assert holding(place.folder, PASSWORD, KEY) == []


def test_no_snapshot_of_a_job_holds_a_secret(run_with_secrets):
    """Dagster keeps what a job was, with the values of its resources, compressed."""
    place, _ = run_with_secrets
    found = []
    for database in place.folder.rglob("*.db"):
        with sqlite3.connect(database) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if "snapshots" in tables:
                found += connection.execute("SELECT snapshot_body FROM snapshots").fetchall()
        connection.close()
    texts = [zlib.decompress(body).decode() for (body,) in found]
    assert any("MLFLOW_TRACKING_URI" in text for text in texts)
    assert not [text for text in texts if PASSWORD in text or KEY in text]


def test_mlflow_holds_no_secret(
    run_with_secrets, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory
):
    server = tmp_path_factory.getbasetemp() / "mlflow-server0"
    assert (server / "server.db").exists()
    assert list((server / "artifacts").rglob("model.onnx"))
    assert holding(server, PASSWORD, KEY) == []


def test_nothing_printed_holds_a_secret(run_with_secrets):
    _, printed = run_with_secrets
    assert PASSWORD not in printed
    assert KEY not in printed


def test_the_link_to_mlflow_is_without_the_password(run_with_secrets, mlflow_server: str):
    place, _ = run_with_secrets
    assert str(place.metadata("blobs/registered_model")["mlflow run"]).startswith(f"{mlflow_server}/#/")


def test_the_password_still_reaches_the_server(monkeypatch: pytest.MonkeyPatch):
    """MLflow reads it from the variables of its own, which are set for this process."""
    import os

    from jukebox_orch.registry.mlflow_resource import MlflowResource

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    tracking = MlflowResource(tracking_uri="http://reader:p%40ss@127.0.0.1:1/base", artifact_root="")
    assert tracking.address == "http://127.0.0.1:1/base"
    tracking.client()
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "reader"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@ss"
