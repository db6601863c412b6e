"""A run with each step in its own process, two of them killed, and secrets in their environment.

The tests search everything that it leaves for the canary secrets.
"""

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from jukebox_orch.assets import NODES
from jukebox_orch_tests.support.deployment import SMALL, Deployment

pytestmark = pytest.mark.crash
PASSWORD, KEY = "canary-password-7f3a", "canary-key-91bc"


@pytest.fixture(scope="module")
def run(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str]]:
    """Yield a finished run and its output; the first processes of `features` and `registered_model` are killed."""
    address = mlflow_server.replace("http://", f"http://reader:{PASSWORD}@")
    folder = tmp_path_factory.mktemp("processes")
    (folder / "killed").mkdir()
    deployment = Deployment(folder, mlflow=address)
    result = deployment.execute(
        "blobs_training",
        {**SMALL, "version": "1.0.0", "seed": 42},
        JUKEBOX_ORCH_EXECUTOR="multiprocess",
        OPENBLAS_NUM_THREADS="1",
        DIE_IN="jukebox_orch.assets.features:check_results jukebox_orch.registry.promotion:promote",
        DIE_ONCE=str(folder / "killed"),
        AWS_SECRET_ACCESS_KEY=KEY,
        DATABASE_URL=f"postgresql://u:{KEY}@host/db",
    )
    assert result.returncode == 0, result.stderr[-3_000:]
    yield deployment, result.stdout + result.stderr
    deployment.instance.dispose()


def test_run_gives_same_files_as_one_process(finished, run):
    deployment, _ = run
    pids = {event.pid for event in deployment.events(dg.DagsterEventType.STEP_SUCCESS)}
    assert len(pids) == len(NODES)
    for asset in ("dataset", "features", "trained_model", "evaluation"):
        assert deployment.version(f"blobs/{asset}") == finished[0].version(f"blobs/{asset}"), asset
    onnx_sha256 = deployment.metadata("blobs/onnx_model")["onnx_sha256"]
    assert onnx_sha256 == finished[0].metadata("blobs/onnx_model")["onnx_sha256"]


def test_killed_step_is_retried_and_leaves_no_files(run):
    deployment, _ = run
    assert len(list((deployment.folder / "killed").iterdir())) == 2
    retried = deployment.events(dg.DagsterEventType.STEP_RESTARTED)
    assert [event.step_key for event in retried] == ["blobs__features", "blobs__registered_model"]
    folders = list(Path(deployment.artifacts, "blobs", "features").iterdir())
    assert len(folders) == 1
    assert list(Path(deployment.artifacts, ".incoming").iterdir()) == []


def test_killed_registration_is_completed_by_retry(run):
    deployment, _ = run
    assert deployment.versions() == [1]
    assert deployment.aliases() == {"challenger": "1", "champion": "1", "staging": "1"}
    assert deployment.value("blobs/registered_model").adopted


def files_containing(folder: Path, *secrets: str) -> list[str]:
    """Return the files below a folder that contain one of the secrets."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets)
    ]


def test_files_of_run_contain_no_secret(run):
    deployment, _ = run
    assert len(list(deployment.folder.rglob("*"))) > 30
    assert files_containing(deployment.folder, PASSWORD, KEY) == []


def test_job_snapshots_contain_no_secret(run):
    """Dagster stores compressed snapshots of jobs, with the values of their resources."""
    deployment, _ = run
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


def test_mlflow_contains_no_secret(run, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory):
    *_, server = sorted(tmp_path_factory.getbasetemp().glob("mlflow-server[0-9]*"))
    assert (server / "server.db").exists()
    assert list((server / "artifacts").rglob("model.onnx"))
    assert files_containing(server, PASSWORD, KEY) == []


def test_output_contains_no_secret(run):
    _, output = run
    assert PASSWORD not in output
    assert KEY not in output


def test_mlflow_link_has_no_password(run, mlflow_server: str):
    deployment, _ = run
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
