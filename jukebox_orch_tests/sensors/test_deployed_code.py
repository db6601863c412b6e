"""A tag trains with its own code: how the deployment finds its code, and when a tag waits."""

from pathlib import Path

import dagster as dg
import pytest

from jukebox_orch import deployment
from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.project_settings import ProjectSettings
from jukebox_orch_tests.support.git_server import Repository, git
from jukebox_orch_tests.support.projects import Blobs


@pytest.mark.parametrize(("executor", "starts"), [("k8s", False), ("in_process", True)])
def test_tag_in_kubernetes_waits_for_deployment_of_its_code(tmp_path, monkeypatch, executor, starts):
    repository = Repository(tmp_path / "git")
    old = repository.tag("v1.2.1")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("JUKEBOX_ORCH_EXECUTOR", executor)
    monkeypatch.setenv("JUKEBOX_ORCH_VERSION", "1.2.1")
    settings = ProjectSettings(triggers={"git_tags": {"repository": repository.url}})
    cursor = None

    def tick(commit: str) -> dg.SensorResult:
        nonlocal cursor
        monkeypatch.setenv("JUKEBOX_ORCH_GIT_COMMIT", commit)
        sensors = deployment.automation("p", Blobs(), settings).sensors or ()
        (sensor,) = [s for s in sensors if s.name == "p_git_tags"]
        with dg.DagsterInstance.ephemeral() as instance:
            result = sensor(dg.build_sensor_context(instance=instance, cursor=cursor))
        assert isinstance(result, dg.SensorResult)
        cursor = result.cursor
        return result

    tick(old)
    new = repository.tag("v1.3.0")
    result = tick(old)
    if starts:
        (request,) = result.run_requests or []
        assert request.tags["git/code_matches_tag"] == "no"
        return
    assert result.skip_reason
    assert f"v1.3.0 ({new[:12]}) seen, this deployment is v1.2.1 ({old[:12]}): waiting for the roll-out" in (
        result.skip_reason.skip_message or ""
    )
    (request,) = tick(new).run_requests or []
    assert request.tags["git/code_matches_tag"] == "yes"
    assert request.tags["git/commit"] == request.tags["git/deployed_commit"] == new


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """Return a folder with the package that deployment.py seems to be in."""
    for name in ("GIT_COMMIT", "VERSION"):
        monkeypatch.delenv(f"JUKEBOX_ORCH_{name}", raising=False)
    checkout = tmp_path / "checkout"
    (checkout / "package").mkdir(parents=True)
    monkeypatch.setattr("jukebox_orch.deployment.__file__", str(checkout / "package" / "code.py"))
    return checkout


@pytest.fixture
def committed(checkout) -> str:
    """Commit the package, an ignored folder and a document, and return the commit."""
    git("init", "-q", cwd=checkout)
    (checkout / "package" / "code.py").write_text("VALUE = 1\n")
    (checkout / "notes.md").write_text("notes")
    (checkout / ".gitignore").write_text("*.log\n")
    git("add", ".", cwd=checkout)
    git("commit", "-q", "-m", "first", cwd=checkout)
    return git("rev-parse", "HEAD", cwd=checkout)


def test_deployed_code_comes_from_build_or_checkout(checkout, monkeypatch):
    assert deployment.deployed_code() == DeployedCode(None, None)
    git("init", "-q", cwd=checkout)
    assert deployment.deployed_code() == DeployedCode(None, None)
    git("commit", "-q", "--allow-empty", "-m", "first", cwd=checkout)
    head = git("rev-parse", "HEAD", cwd=checkout)
    assert deployment.deployed_code() == DeployedCode(head, None)
    git("tag", "v1.0.0", cwd=checkout)
    assert deployment.deployed_code() == DeployedCode(head, "v1.0.0")
    monkeypatch.setenv("JUKEBOX_ORCH_GIT_COMMIT", "c0ffee1")
    monkeypatch.setenv("JUKEBOX_ORCH_VERSION", "1.0.0")
    assert deployment.deployed_code() == DeployedCode("c0ffee1", "1.0.0")


def test_checkout_with_uncommitted_changes_is_dirty(checkout, committed):
    assert deployment.deployed_code().commit == committed
    changes = {"package/code.py": "VALUE = 2\n", "notes.md": "other", "package/new.py": ""}
    for name, content in changes.items():
        before = (checkout / name).read_text() if (checkout / name).exists() else None
        (checkout / name).write_text(content)
        assert deployment.deployed_code() == DeployedCode(f"{committed}-dirty", None), name
        if before is None:
            (checkout / name).unlink()
        else:
            (checkout / name).write_text(before)
        assert deployment.deployed_code().commit == committed
    (checkout / "package" / "new.py").write_text("")
    git("add", "package/new.py", cwd=checkout)
    assert deployment.deployed_code().commit == f"{committed}-dirty"


def test_files_that_are_no_code_leave_checkout_clean(checkout, committed):
    (checkout / "data.csv").write_text("1")
    (checkout / "package" / "__pycache__").mkdir()
    (checkout / "package" / "__pycache__" / "code.pyc").write_text("")
    (checkout / "package" / "debug.log").write_text("")
    (checkout / "package" / "code.py").touch()
    assert deployment.deployed_code().commit == committed


def test_dirty_checkout_does_not_run_code_of_tag(tmp_path, checkout, committed, monkeypatch):
    git("tag", "v1.0.0", cwd=checkout)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUKEBOX_ORCH_EXECUTOR", "k8s")
    settings = ProjectSettings(triggers={"git_tags": {"repository": f"file://{checkout}"}})
    sensors = deployment.automation("p", Blobs(), settings).sensors or ()
    (sensor,) = [s for s in sensors if s.name == "p_git_tags"]

    def tick() -> dg.SensorResult:
        with dg.DagsterInstance.ephemeral() as instance:
            result = sensor(dg.build_sensor_context(instance=instance))
        assert isinstance(result, dg.SensorResult)
        return result

    (checkout / "package" / "code.py").write_text("VALUE = 2\n")
    result = tick()
    assert not result.run_requests
    assert result.skip_reason
    assert (
        f"v1.0.0 ({committed[:12]}) seen, this deployment is v1.0.0 ({committed[:12]}-dirty) with uncommitted "
        "changes: commit or remove them, and deploy the tag's commit"
    ) in (result.skip_reason.skip_message or "")
    (checkout / "package" / "code.py").write_text("VALUE = 1\n")
    (request,) = tick().run_requests or []
    assert request.tags["git/code_matches_tag"] == "yes"
    assert request.tags["git/deployed_commit"] == committed
