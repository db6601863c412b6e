"""Git repositories as developers use them, and real servers for them: `git http-backend` and sshd."""

import base64
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from jukebox_orch_tests.support import parts
from jukebox_orch_tests.support.servers import running, serve
from jukebox_orch_tests.support.waiting import free_port, wait_until


def git(*arguments: str | Path, cwd: Path) -> str:
    identity = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org", "GIT_CONFIG_GLOBAL": os.devnull}
    committer = {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org"}
    return subprocess.run(
        ["git", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **identity, **committer},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


class Repository:
    """A bare repository and a clone that pushes to it, as a developer does."""

    def __init__(self, folder: Path, name: str = "models.git"):
        self.bare, self._clone = folder / name, folder / f"clone-of-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        git("init", "--bare", "-q", "-b", "main", self.bare, cwd=folder)
        git("init", "-q", "-b", "main", self._clone, cwd=folder)
        git("remote", "add", "origin", self.bare, cwd=self._clone)

    @property
    def url(self) -> str:
        return f"file://{self.bare}"

    def commit(self) -> str:
        git("commit", "-q", "--allow-empty", "-m", f"change {time.time_ns()}", cwd=self._clone)
        git("push", "-q", "origin", "main", cwd=self._clone)
        return git("rev-parse", "HEAD", cwd=self._clone)

    def tag(self, name: str, annotated: bool = False) -> str:
        """Tag a new commit, or move the tag to it, push, and return the commit."""
        commit = self.commit()
        git("tag", "-f", *(["-a", "-m", "release"] if annotated else []), name, cwd=self._clone)
        git("push", "-q", "-f", "origin", f"refs/tags/{name}", cwd=self._clone)
        return commit

    def delete(self, name: str) -> None:
        git("push", "-q", "origin", f":refs/tags/{name}", cwd=self._clone)

    def add_refs(self, names: list[str]) -> str:
        """Write many tags at once, without git's check of their names, and return their commit."""
        commit = self.commit()
        lines = "".join(f"create refs/tags/{name} {commit}\n" for name in names)
        subprocess.run(["git", "update-ref", "--stdin"], cwd=self.bare, input=lines, text=True, check=True)
        git("pack-refs", "--all", cwd=self.bare)
        return commit


@contextmanager
def git_http_server(
    root: Path, password: str | None = None, certificate: Path | None = None
) -> Iterator[str]:
    """Serve the bare repositories below a folder with `git http-backend`, for `reader:password` if given.

    With a certificate, over https.
    """
    backend = Path(git("--exec-path", cwd=root)) / "git-http-backend"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._run(b"")

        def do_POST(self) -> None:
            self._run(self.rfile.read(int(self.headers.get("content-length") or 0)))

        def _run(self, body: bytes) -> None:
            expected = "Basic " + base64.b64encode(f"reader:{password}".encode()).decode()
            if password and self.headers.get("authorization") != expected:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            environment = {
                **os.environ,
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("content-type", ""),
                "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            }
            answer = subprocess.run([backend], env=environment, input=body, capture_output=True, check=True)
            head, _, content = answer.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test output clean."""

    with serve(Handler, certificate) as url:
        yield url


@dataclass(frozen=True)
class GitOverSsh:
    """A running sshd: the `url` of its repository folder, and the files that a deployment mounts to use it."""

    url: str
    key: Path
    known_hosts: Path


@contextmanager
def git_ssh_server(root: Path, folder: Path) -> Iterator[GitOverSsh]:
    """Serve the bare repositories below `root` with sshd, for one key; write its keys and its log to `folder`."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if sshd is None or shutil.which("ssh-keygen") is None:
        parts.absent("sshd", "install openssh-server and openssh-client")
    folder.mkdir()
    for name in ("host_key", "key"):
        make_ssh_key(folder / name)
    authorized = folder / "authorized_keys"
    authorized.write_text(f"restrict {(folder / 'key.pub').read_text()}")
    port = free_port()
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": authorized,
        "AuthenticationMethods": "publickey",
        "PidFile": "none",
        "StrictModes": "no",  # the folder of a test may be below one that others can write to
    }
    config = folder / "sshd_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as the init script of the package does
    with running([sshd, "-D", "-e", "-f", config], folder / "sshd.log"):
        wait_until(lambda: _greets(port), 20, lambda: f"sshd: {(folder / 'sshd.log').read_text()}")
        host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
        known_hosts = folder / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{port} {host_key}\n")
        url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{root}"
        yield GitOverSsh(url, folder / "key", known_hosts)


def make_ssh_key(path: Path, passphrase: str = "") -> Path:
    """Write a private key and its public key."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", path]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return path


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
