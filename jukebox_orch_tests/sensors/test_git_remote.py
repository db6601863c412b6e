"""Asking git for tags, over every transport, and what is refused before git sees it."""

import subprocess
import time
from pathlib import Path

import pytest

from jukebox_orch.sensors.decisions import SourceUnavailableError
from jukebox_orch.sensors.git_tags.remote import list_tags
from jukebox_orch_tests.support.git_server import Repository, git_http_server
from jukebox_orch_tests.support.servers import Misbehaviour, self_signed_certificate
from jukebox_orch_tests.support.waiting import free_port


@pytest.fixture
def repository(tmp_path) -> Repository:
    return Repository(tmp_path)


@pytest.mark.parametrize("transport", ["file", "http", "https"])
def test_tags_are_listed_with_annotated_ones_peeled(repository, tmp_path, transport, monkeypatch):
    light = repository.tag("v1.0.0")
    annotated = repository.tag("jukebox/v1.1.0", annotated=True)
    certificate = self_signed_certificate(tmp_path) if transport == "https" else None
    monkeypatch.setenv("GIT_SSL_CAINFO", str(certificate or ""))
    with git_http_server(tmp_path, certificate=certificate) as server:
        url = repository.url if transport == "file" else f"{server}/models.git"
        assert list_tags(url) == {"v1.0.0": light, "jukebox/v1.1.0": annotated}


def test_a_moved_and_a_deleted_tag_are_seen(repository):
    first = repository.tag("v1.0.0")
    second = repository.tag("v1.0.0")
    assert first != second
    assert list_tags(repository.url) == {"v1.0.0": second}
    repository.delete("v1.0.0")
    assert list_tags(repository.url) == {}


def test_a_hostile_tag_name_runs_nothing(repository, tmp_path):
    names = [f"v-x;$(touch${{IFS}}{tmp_path}/ran)", "--upload-pack=touch", "v1.0.0;touch"]
    repository.add_refs(names)
    assert list_tags(repository.url).keys() == set(names)
    assert not (tmp_path / "ran").exists()


def test_a_password_is_taken_from_a_mounted_file_and_never_asked_for_or_shown(repository, tmp_path):
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
def test_a_hostile_url_never_reaches_git(url, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # git itself would now fail in another way
    with pytest.raises(SourceUnavailableError, match="must"):
        list_tags(url)


def test_the_transport_of_the_url_is_the_only_one_git_may_use(repository, tmp_path, monkeypatch):
    repository.tag("v1.0.0")
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "ext::touch {tmp_path}/ran "]\n\tinsteadOf = file://\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    config.rename(tmp_path / ".gitconfig")
    with pytest.raises(SourceUnavailableError, match="not allowed"):
        list_tags(repository.url)
    assert not (tmp_path / "ran").exists()


def test_a_hanging_server_is_given_up_and_its_processes_end():
    behaviour = Misbehaviour()
    behaviour.delay = 30
    with behaviour.serve() as url:
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError, match="did not answer within 1 s"):
            list_tags(f"{url}/r.git", seconds=1)
        assert time.monotonic() - began < 3
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert url not in listed


def test_errors_of_the_server_and_of_its_certificate_are_reasons(tmp_path):
    behaviour = Misbehaviour()
    behaviour.status = 500
    with behaviour.serve() as url, pytest.raises(SourceUnavailableError, match="500"):
        list_tags(f"{url}/r.git")
    with (
        behaviour.serve(self_signed_certificate(tmp_path)) as url,
        pytest.raises(SourceUnavailableError, match="certificate"),
    ):
        list_tags(f"{url}/r.git")
    with pytest.raises(SourceUnavailableError, match="git said"):
        list_tags(f"http://127.0.0.1:{free_port()}/r.git")
    with pytest.raises(SourceUnavailableError, match="git said"):
        list_tags(f"file://{tmp_path}/nowhere.git")


def test_without_git_the_reason_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SourceUnavailableError, match="`git` is not installed"):
        list_tags("file:///r.git")
