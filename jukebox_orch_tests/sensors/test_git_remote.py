"""Listing tags with git over every transport, and inputs that are refused before git runs."""

import subprocess
import time
from pathlib import Path

import pytest

from jukebox_orch.sensors.git_tags.remote import list_tags
from jukebox_orch.sensors.trigger_types import SourceUnavailableError
from jukebox_orch_tests.support.git_server import Repository, git_http_server
from jukebox_orch_tests.support.servers import Misbehaviour, self_signed_certificate
from jukebox_orch_tests.support.waiting import free_port


@pytest.fixture
def repository(tmp_path) -> Repository:
    return Repository(tmp_path)


@pytest.mark.parametrize("transport", ["file", "http", "https"])
def test_tags_are_listed_and_annotated_tags_peeled(repository, tmp_path, transport, monkeypatch):
    light = repository.tag("v1.0.0")
    annotated = repository.tag("jukebox/v1.1.0", annotated=True)
    certificate = self_signed_certificate(tmp_path) if transport == "https" else None
    monkeypatch.setenv("GIT_SSL_CAINFO", str(certificate or ""))
    with git_http_server(tmp_path, certificate=certificate) as server:
        url = repository.url if transport == "file" else f"{server}/models.git"
        assert list_tags(url) == {"v1.0.0": light, "jukebox/v1.1.0": annotated}


def test_moved_and_deleted_tags_are_detected(repository):
    first = repository.tag("v1.0.0")
    second = repository.tag("v1.0.0")
    assert first != second
    assert list_tags(repository.url) == {"v1.0.0": second}
    repository.delete("v1.0.0")
    assert list_tags(repository.url) == {}


def test_hostile_tag_name_runs_no_command(repository, tmp_path):
    names = [f"v-x;$(touch${{IFS}}{tmp_path}/ran)", "--upload-pack=touch", "v1.0.0;touch"]
    repository.add_refs(names)
    assert list_tags(repository.url).keys() == set(names)
    assert not (tmp_path / "ran").exists()


def test_password_is_read_from_file_without_prompt_or_leak(repository, tmp_path):
    commit = repository.tag("v1.0.0")
    with git_http_server(tmp_path, password="s3cret-canary") as server:
        url = f"{server}/models.git"
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError, match="terminal prompts disabled"):
            list_tags(url)
        assert time.monotonic() - began < 10
        credentials = tmp_path / "with space; touch ran" / "git-credentials"
        credentials.parent.mkdir()
        credentials.write_text(url.replace("://", "://reader:s3cret-canary@") + "\n")
        assert list_tags(url, credentials_file=credentials) == {"v1.0.0": commit}
        assert not Path("ran").exists()
        credentials.write_text(url.replace("://", "://reader:wrong-canary@") + "\n")
        with pytest.raises(SourceUnavailableError) as refused:
            list_tags(url, credentials_file=credentials)
        assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["ext::sh -c 'touch ran'", "--upload-pack=touch ran", "fd::3", "/some/path", "ftp://h/r", "-x;$(id)"],
)
def test_hostile_url_is_refused_before_git_runs(url, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # git itself would fail with another error
    with pytest.raises(SourceUnavailableError, match="must"):
        list_tags(url)


def test_git_uses_only_transport_of_url(repository, tmp_path, monkeypatch):
    repository.tag("v1.0.0")
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "ext::touch {tmp_path}/ran "]\n\tinsteadOf = file://\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    config.rename(tmp_path / ".gitconfig")
    with pytest.raises(SourceUnavailableError, match="not allowed"):
        list_tags(repository.url)
    assert not (tmp_path / "ran").exists()


def test_hanging_server_times_out_and_processes_end():
    behaviour = Misbehaviour()
    behaviour.delay = 30
    with behaviour.serve() as url:
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError, match="did not answer within 1 s"):
            list_tags(f"{url}/r.git", seconds=1)
        assert time.monotonic() - began < 3
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert url not in listed


def test_server_and_certificate_errors_are_reported(tmp_path):
    behaviour = Misbehaviour()
    behaviour.status = 500
    with behaviour.serve() as url, pytest.raises(SourceUnavailableError, match="500"):
        list_tags(f"{url}/r.git")
    with (
        behaviour.serve(self_signed_certificate(tmp_path)) as url,
        pytest.raises(SourceUnavailableError, match="certificate"),
    ):
        list_tags(f"{url}/r.git")
    with pytest.raises(SourceUnavailableError, match="`git ls-remote` failed"):
        list_tags(f"http://127.0.0.1:{free_port()}/r.git")
    with pytest.raises(SourceUnavailableError, match="`git ls-remote` failed"):
        list_tags(f"file://{tmp_path}/nowhere.git")


def test_missing_git_is_reported_with_instruction(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceUnavailableError, match="`git` is not installed"):
        list_tags("file:///r.git")
