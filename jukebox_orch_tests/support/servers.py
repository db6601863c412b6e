"""Servers for tests and benchmarks: a real Alertmanager, a real S3 server, and a misbehaving HTTP server.

Each is a context manager on a free loopback port that stops the server it started.
"""

import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from jukebox_orch_tests.support import parts
from jukebox_orch_tests.support.waiting import answers, free_port, wait_until

ALERTMANAGER = "github.com/prometheus/alertmanager/cmd/alertmanager@v0.27.0"
"""The first version with quoted label names, which Debian's does not have."""
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler], certificate: Path | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class Misbehaviour:
    """A server's next response: status, body, headers and a delay (s)."""

    def __init__(self) -> None:
        self.status, self.body, self.delay = 200, b"", 0.0
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self._over = threading.Event()

    @contextmanager
    def serve(self, certificate: Path | None = None) -> Iterator[str]:
        behaviour = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                behaviour.requests.append((self.command, self.path))
                behaviour._over.wait(behaviour.delay)
                self.send_response(behaviour.status)
                for name, value in {"Content-Length": str(len(behaviour.body)), **behaviour.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(behaviour.body)

            def log_message(self, format: str, *args: object) -> None:
                """Keep the test output clean."""

        with serve(Handler, certificate) as url:
            try:
                yield url
            finally:
                self._over.set()


def self_signed_certificate(folder: Path) -> Path:
    """Return a PEM file with a key and an untrusted certificate."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(
        ["openssl", *command, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
    return certificate


class Alertmanager:
    """A client of a running Alertmanager, as Prometheus and an operator use it."""

    def __init__(self, url: str):
        self.url = url

    def fire(
        self, *alerts: dict[str, str], starts_at: float | None = None, ends_at: float | None = None
    ) -> None:
        """Post alerts, one per dict of labels, from `starts_at` (now) to `ends_at` (in an hour), s since the epoch."""
        moments = {
            "startsAt": _rfc3339(starts_at or time.time()),
            "endsAt": _rfc3339(ends_at or time.time() + 3_600),
        }
        body = [{"labels": {"alertname": "ModelDrift", **labels}, **moments} for labels in alerts]
        httpx.post(f"{self.url}/api/v2/alerts", json=body, timeout=30).raise_for_status()

    def silence(self, label: str, value: str) -> None:
        body = {
            "matchers": [{"name": label, "value": value, "isRegex": False, "isEqual": True}],
            "startsAt": _rfc3339(time.time() - 1),
            "endsAt": _rfc3339(time.time() + 3_600),
            "createdBy": "test",
            "comment": "test",
        }
        httpx.post(f"{self.url}/api/v2/silences", json=body, timeout=30).raise_for_status()


@contextmanager
def alertmanager(folder: Path, program: Path | None = None) -> Iterator[Alertmanager]:
    """Run `program`, or Debian's. Alerts with role `mute` inhibit those with role `mutable` per `model`."""
    command = (
        program
        or shutil.which("alertmanager")
        or parts.program(
            "prometheus-alertmanager", "install Debian's prometheus-alertmanager, or put alertmanager on PATH"
        )
    )
    config = folder / "alertmanager.yml"
    config.write_text(
        "route: {receiver: none, group_wait: 0s}\nreceivers: [{name: none}]\n"
        "inhibit_rules: [{source_matchers: ['role=\"mute\"'], target_matchers: ['role=\"mutable\"'], equal: [model]}]\n"
    )
    port = free_port()
    listen = ["--cluster.listen-address=", f"--web.listen-address=127.0.0.1:{port}"]
    with running(
        [command, f"--config.file={config}", f"--storage.path={folder / 'am'}", *listen], folder / "am.log"
    ):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/-/ready"), 20, "Alertmanager to be ready")
        yield Alertmanager(url)


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Run versitygw on `folder` (its subfolders are the buckets) and yield a client's environment variables."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    keys = {"ROOT_ACCESS_KEY": "user", "ROOT_SECRET_KEY": "password"}
    command = [versitygw(), "--port", f"127.0.0.1:{port}", "posix", folder]
    with running(command, folder.parent / "versitygw.log", {**os.environ, **keys}):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url), 20, "versitygw to be ready")
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "user",
            "AWS_SECRET_ACCESS_KEY": "password",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def versitygw() -> Path:
    """Return the path of the S3 server; without one on PATH, build it once with Go in the user's cache folder."""
    found = shutil.which("versitygw")
    return Path(found) if found else built_with_go(VERSITYGW)


def built_with_go(package: str) -> Path:
    """Return the program of a Go package; build it once in the user's cache folder."""
    name, _, version = package.rpartition("/")[2].partition("@")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jukebox-orch-tests"
    program = cache / f"{name}-{version}" / name
    if not program.exists():
        go = shutil.which("go") or parts.absent(
            name, f"put it on PATH, or Go to build it: go install {package}"
        )
        environment = {**os.environ, "GOBIN": str(program.parent)}
        built = subprocess.run(
            [go, "install", package], env=environment, capture_output=True, text=True, check=False
        )
        if built.returncode:
            parts.absent(name, f"`go install {package}` failed: {built.stderr.strip()[-300:]}")
    return program


@contextmanager
def running(command: list, log: Path, environment: dict[str, str] | None = None) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            yield
        finally:
            stop(process)


def stop(process: subprocess.Popen, seconds: float = 20) -> None:
    """Ask the process to end; kill it if it does not."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()
