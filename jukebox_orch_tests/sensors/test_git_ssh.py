"""git over ssh with a real sshd: only mounted keys and known hosts are used, without prompts."""

import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from jukebox_orch.sensors.git_tags.remote import list_tags
from jukebox_orch.sensors.trigger_types import SourceUnavailableError
from jukebox_orch_tests.support.git_server import GitOverSsh, Repository, git_ssh_server, make_ssh_key
from jukebox_orch_tests.support.sensor import Sensor


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("repositories")


@pytest.fixture(scope="module")
def server(root, tmp_path_factory) -> Iterator[GitOverSsh]:
    with git_ssh_server(root, tmp_path_factory.mktemp("ssh") / "sshd") as running:
        yield running


@pytest.fixture(autouse=True)
def no_ssh_agent(monkeypatch):
    """Remove the ssh agent, so that only the mounted key and known hosts are used."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def tags(server: GitOverSsh, key: Path | None = None, known_hosts: Path | None = None) -> dict[str, str]:
    url = f"{server.url}/models.git"
    return list_tags(url, ssh_key_file=key or server.key, known_hosts_file=known_hosts or server.known_hosts)


@pytest.fixture(scope="module")
def repository(root) -> Repository:
    repository = Repository(root)
    repository.tag("v1.0.0")
    return repository


def test_new_tag_starts_run_without_leaking_key(server, root, tmp_path):
    repository = Repository(root, "watched.git")
    repository.tag("v1.0.0", annotated=True)
    mounted = {"ssh_key_file": str(server.key), "known_hosts_file": str(server.known_hosts)}
    with dg.DagsterInstance.ephemeral() as instance:
        sensor = Sensor(instance, tmp_path, "git_tags", repository=f"{server.url}/watched.git", **mounted)
        assert "1 tag recorded without one" in sensor.reason()
        commit = repository.tag("v1.1.0", annotated=True)
        (request,) = sensor.tick().run_requests or []
        assert request.run_key == f"git_tag:v1.1.0:{commit}"
        assert "nothing new" in sensor.reason()
    assert server.key.read_text().splitlines()[1] not in f"{sensor.cursor}{request}"


def test_unknown_key_is_reported(server, repository, tmp_path):
    with pytest.raises(
        SourceUnavailableError, match=r"`git ls-remote` failed: .*Permission denied \(publickey\)"
    ):
        tags(server, key=make_ssh_key(tmp_path / "other"))


def test_missing_key_file_is_reported(server, repository, tmp_path):
    with pytest.raises(SourceUnavailableError, match="Permission denied"):
        tags(server, key=tmp_path / "nowhere")


def test_server_with_unknown_host_key_is_not_trusted(server, repository, tmp_path):
    (tmp_path / "known_hosts").write_text("")
    with pytest.raises(SourceUnavailableError, match="Host key verification failed"):
        tags(server, known_hosts=tmp_path / "known_hosts")
    assert (tmp_path / "known_hosts").read_text() == ""
    with pytest.raises(SourceUnavailableError, match="Host key verification failed"):
        list_tags(f"{server.url}/models.git", ssh_key_file=server.key)


def test_server_with_changed_host_key_is_not_trusted(server, repository, tmp_path):
    other = make_ssh_key(tmp_path / "other").with_suffix(".pub").read_text()
    host = server.known_hosts.read_text().split()[0]
    (tmp_path / "known_hosts").write_text(f"{host} {other}")
    with pytest.raises(SourceUnavailableError, match="Host key verification failed"):
        tags(server, known_hosts=tmp_path / "known_hosts")


def test_silent_server_times_out_and_ssh_ends(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ssh://git@127.0.0.1:{silent.getsockname()[1]}/r.git"
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError, match="did not answer within 1 s"):
            list_tags(url, ssh_key_file=make_ssh_key(tmp_path / "key"), seconds=1)
        assert time.monotonic() - began < 3
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert not [line for line in listed.splitlines() if str(silent.getsockname()[1]) in line]


def test_down_server_and_missing_repository_are_reported(server, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        with pytest.raises(SourceUnavailableError, match="Connection refused"):
            list_tags(f"ssh://git@127.0.0.1:{taken.getsockname()[1]}/r.git")
    with pytest.raises(SourceUnavailableError, match="does not appear to be a git repository"):
        list_tags(f"{server.url}/nowhere.git", ssh_key_file=server.key, known_hosts_file=server.known_hosts)


@pytest.mark.parametrize("missing", ["passphrase", "known host"])
def test_git_does_not_prompt_on_terminal(server, repository, tmp_path, missing):
    mounted = {"ssh_key_file": str(server.key), "known_hosts_file": str(server.known_hosts)}
    if missing == "known host":
        del mounted["known_hosts_file"]
    else:
        locked = tmp_path / "key"
        locked.touch(mode=0o600)
        locked.write_bytes(server.key.read_bytes())
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "correct horse", "-f", locked], check=True)
        mounted["ssh_key_file"] = str(locked)
    program = (
        "import sys; from jukebox_orch.sensors.git_tags.remote import list_tags\n"
        f"try: list_tags({f'{server.url}/models.git'!r}, **{mounted!r}, seconds=5)\n"
        "except Exception as error: print('reason:', error)\n"
    )
    terminal = ["script", "-qefc", shlex.join([sys.executable, "-c", program]), "/dev/null"]
    shown = subprocess.run(terminal, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"reason: {server.url}/models.git: `git ls-remote` failed: ")
