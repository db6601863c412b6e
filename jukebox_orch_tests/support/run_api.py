"""Starts the Dagster webserver and the run API (`python -m jukebox_orch.run_api`) in front of it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from jukebox_orch_tests.support.servers import running, stop
from jukebox_orch_tests.support.waiting import answers, free_port, wait_until

TOKEN = "a-token-of-the-tests-0123456789"


@contextmanager
def webserver(folder: Path, location: Sequence[str], environment: Mapping[str, str]) -> Iterator[int]:
    """Serve a code location in `folder`; yield the port."""
    port = free_port()
    program = Path(sys.executable).parent / "dagster-webserver"
    with running([program, "-p", port, *location], folder / "webserver.log", dict(environment)):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/server_info"), 90, "the Dagster webserver")
        yield port


@contextmanager
def run_api(folder: Path, webserver_port: int) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """Serve the run API in front of the webserver; yield a client and the process."""
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    port = free_port()
    settings = {
        "PORT": str(port),
        "JUKEBOX_ORCH_LAUNCHER_TOKEN_FILE": str(token),
        "JUKEBOX_ORCH_WEBSERVER": f"127.0.0.1:{webserver_port}",
    }
    with (folder / "run_api.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jukebox_orch.run_api"], env=os.environ | settings, stderr=log, text=True
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/healthz"), 90, "the run API")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client, process
    finally:
        stop(process, 30)
