"""Files are read by path or URL and verified; errors name the file and the reason."""

import hashlib
import http.server
import os
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from jukebox_orch.contract import InputError, SourceFile, display_url, open_verified, read_bytes

DATA = b"0123456789" * 300_000


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers /<status> with that status."""

    def do_GET(self) -> None:
        status = int(self.path.split("?")[0].strip("/"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(DATA)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Do not write to the test's output."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    return path


def test_content_equals_file(file: Path, server: str) -> None:
    for url in (str(file), file.as_uri(), f"{server}/200"):
        assert read_bytes(SourceFile(url=url)) == DATA
        with open_verified(SourceFile(url=url)) as stream:
            assert stream.read() == DATA


def test_digest_is_verified_in_either_case(file: Path) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    for expected in (digest, digest.upper()):
        assert read_bytes(SourceFile(url=str(file), sha256=expected)) == DATA
    wrong = SourceFile(url=str(file), sha256="0" * 64)
    with pytest.raises(InputError, match=rf"data\.bin: has sha256 {digest}, expected 0000"):
        read_bytes(wrong)
    with pytest.raises(InputError, match="has sha256"), open_verified(wrong):
        pass


def test_verified_copy_ignores_later_changes(file: Path) -> None:
    with open_verified(SourceFile(url=str(file))) as stream:
        file.write_bytes(b"changed")
        assert stream.read() == DATA


def test_file_above_limit_is_refused(file: Path) -> None:
    with pytest.raises(InputError, match=r"data\.bin: larger than 1 MiB"):
        read_bytes(SourceFile(url=str(file)), limit=1 << 20)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "not found"),
        (410, "not found"),
        (401, "access denied"),
        (403, "access denied"),
        (400, "cannot be"),
    ],
)
def test_permanent_http_error_is_input_error(status: int, message: str, server: str) -> None:
    with pytest.raises(InputError, match=rf"/{status}: {message}"):
        read_bytes(SourceFile(url=f"{server}/{status}"))


@pytest.mark.parametrize("status", [500, 503])
def test_transient_http_error_is_os_error(status: int, server: str) -> None:
    with pytest.raises(OSError, match=rf"/{status}: cannot be read now: HTTP status {status}; try again"):
        read_bytes(SourceFile(url=f"{server}/{status}"))


def test_unreachable_server_is_os_error() -> None:
    with pytest.raises(OSError, match="cannot be read now"):
        read_bytes(SourceFile(url="http://127.0.0.1:9/x"))


def test_missing_file_folder_and_unknown_protocol_are_refused(tmp_path: Path) -> None:
    for url, message in (
        (str(tmp_path / "no"), "no: not found"),
        (str(tmp_path), "is not a regular file"),
        ("nosuch://x", "nosuch://x: cannot be read: Protocol not known"),
    ):
        with pytest.raises(InputError, match=message):
            read_bytes(SourceFile(url=url))


def test_fifo_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is not a regular file"):
        read_bytes(SourceFile(url=str(tmp_path / "pipe")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_refused(file: Path) -> None:
    file.chmod(0)
    with pytest.raises(InputError, match="access denied"):
        read_bytes(SourceFile(url=str(file)))


def test_errors_contain_no_credentials(server: str) -> None:
    assert display_url("https://me:secret@host/a.csv?X-Amz-Signature=abc#f") == "https://host/a.csv"
    password = "".join(["hun", "ter2"])
    with_password = server.replace("//", f"//me:{password}@")
    with pytest.raises(InputError) as raised:
        read_bytes(SourceFile(url=f"{with_password}/404?token={password}"))
    assert password not in "".join(traceback.format_exception(raised.value))
