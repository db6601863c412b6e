"""Reading songs and rankings over HTTP."""

import http.server
import socket
import threading
from pathlib import Path

import pytest

from jukebox_orch_tests.support.jukebox_files import assert_same, load, parquet_folder, refusal, tables


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return parquet_folder(tmp_path, *tables())


@pytest.fixture
def web(folder: Path):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def send_head(self):
            if "broken" in self.path:
                self.send_error(503)
                return None
            if "secret" in self.path:
                self.send_error(403)
                return None
            return super().send_head()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_web_folder_is_read(web: str, folder: Path) -> None:
    assert_same(load(web + "/"), load(folder))


def test_missing_web_file_is_refused(web: str) -> None:
    assert refusal(f"{web}/missing.parquet") == f"{web}/missing.parquet: not found; check the path or URL"


def test_forbidden_web_file_error_has_no_password(web: str) -> None:
    message = refusal(f"{web.replace('//', '//user:hunter2@')}/secret.csv?sig=hunter3")
    assert "access denied" in message
    assert "hunter" not in message


def test_failing_server_is_retryable(web: str) -> None:
    with pytest.raises(OSError, match=r"broken\.csv: cannot be read now: HTTP status 503; try again later"):
        load(f"{web}/broken.csv")


def test_unreachable_server_is_retryable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/song_rankings.csv"
        with pytest.raises(OSError, match=r"song_rankings\.csv: cannot be read now: .*try again later"):
            load(url)
