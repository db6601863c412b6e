"""A tag trains with its own code: how the deployment finds its code, and when a tag waits."""

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


def test_deployed_code_comes_from_build_or_checkout(tmp_path, monkeypatch):
    for name in ("GIT_COMMIT", "VERSION"):
        monkeypatch.delenv(f"JUKEBOX_ORCH_{name}", raising=False)
    checkout = tmp_path / "checkout"
    (checkout / "package").mkdir(parents=True)
    monkeypatch.setattr("jukebox_orch.deployment.__file__", str(checkout / "package" / "code.py"))
    assert deployment.deployed_code() == DeployedCode(None, None)
    git("init", "-q", cwd=checkout)
    git("commit", "-q", "--allow-empty", "-m", "first", cwd=checkout)
    head = git("rev-parse", "HEAD", cwd=checkout)
    assert deployment.deployed_code() == DeployedCode(head, None)
    git("tag", "v1.0.0", cwd=checkout)
    assert deployment.deployed_code() == DeployedCode(head, "v1.0.0")
    monkeypatch.setenv("JUKEBOX_ORCH_GIT_COMMIT", "c0ffee1")
    monkeypatch.setenv("JUKEBOX_ORCH_VERSION", "1.0.0")
    assert deployment.deployed_code() == DeployedCode("c0ffee1", "1.0.0")
