"""Files are read by path or URL and verified; errors name the file and the reason."""

import hashlib
import http.server
import os
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from jukebox_orch.contract import (
    InputError,
    Source,
    SourceFile,
    display_url,
    open_verified,
    read_bytes,
    read_csv,
    read_error,
    url_path,
)

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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hunter2@host:8080/a/b.csv?sig=hunter2&x=/y#hunter2", "https://host:8080/a/b.csv"),
        ("https://host?sig=hunter2", "https://host"),
        ("HTTPS://me:hunter2@host/a.csv", "HTTPS://host/a.csv"),
        ("http://me:hunter2@[::1]:80/a.csv?sig=hunter2", "http://[::1]:80/a.csv"),
        ("filecache::https://me:hunter2@host/a.csv?sig=hunter2", "filecache::https://host/a.csv"),
        ("zip://a.csv::https://me:hunter2@host/a.zip?sig=hunter2", "zip://a.csv::https://host/a.zip"),
        ("https://me:hun/ter2@host/a.csv", "https://…"),
        ("https://me:hun#ter2@host/a.csv", "https://…"),
        ("https://[::1/a.csv?sig=hunter2", "https://…"),
        ("s3://bucket/a.csv", "s3://bucket/a.csv"),
        ("file:///data/what?/a#b.csv", "/data/what?/a#b.csv"),
        ("/data/what?/a#b.csv", "/data/what?/a#b.csv"),
        ("/data/caf\udce9.csv", "/data/caf\\udce9.csv"),
    ],
)
def test_display_url_shows_no_secret(url: str, shown: str) -> None:
    assert display_url(url) == shown


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://host/a/b.csv?sig=x/y.parquet#z", "https://host/a/b.csv"),
        ("filecache::https://host/a.csv?sig=x", "https://host/a.csv"),
        ("http://[::1]:80/a.csv?sig=x", "http://[::1]:80/a.csv"),
        ("s3://bucket/what?/a#b.csv", "s3://bucket/what?/a#b.csv"),
        ("file:///data/what?/a#b.csv", "file:///data/what?/a#b.csv"),
        ("/data/what?/a#b.csv", "/data/what?/a#b.csv"),
    ],
)
def test_url_path_names_the_file(url: str, path: str) -> None:
    assert url_path(url) == path


@pytest.mark.parametrize("status", [400, 404, 429, 503])
def test_errors_of_signed_urls_contain_no_signature(status: int, server: str) -> None:
    signature = "".join(["hun", "ter2"])  # a traceback has the text of this line
    with pytest.raises((InputError, OSError)) as raised:
        read_bytes(SourceFile(url=f"{server}/{status}?X-Amz-Signature={signature}"))
    assert f"/{status}: " in str(raised.value)
    assert signature not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("error", [ValueError, OSError, RuntimeError])
def test_error_that_repeats_url_is_hidden(error: type[Exception]) -> None:
    for url in ("https://host/a.csv?sig=hunter2", "https://me:hunter2@host/a.csv"):
        message = str(read_error(url, error(f"bad URL {url}")))
        assert message.startswith("https://host/a.csv: cannot be read")
        assert error.__name__ in message
        assert "hunter2" not in message
    assert "bad port" in str(read_error("https://host/a.csv", error("bad port")))


def test_path_with_question_mark_and_hash_is_read(tmp_path: Path) -> None:
    file = tmp_path / "what?" / "a#b.bin"
    file.parent.mkdir()
    file.write_bytes(DATA)
    for url in (str(file), f"file://{file}"):
        assert read_bytes(SourceFile(url=url)) == DATA
        with pytest.raises(InputError) as raised:
            read_bytes(SourceFile(url=url, sha256="0" * 64))
        assert str(raised.value).startswith(f"{file}: has sha256")


def test_csv_files_of_source_are_one_table(tmp_path: Path) -> None:
    sample, first, second = (tmp_path / f"{name}.csv" for name in ("sample", "first", "second"))
    for number, path in enumerate((sample, first, second)):
        path.write_text(f"code,n\n0{number},{number}\n")
    files = [SourceFile(url=str(path)) for path in (second, first)]

    def read(source: Source) -> list[list[object]]:
        return read_csv(source, sample, dtype={"code": "str"}).to_numpy().tolist()

    assert read(Source()) == [["00", 0]]
    assert read(Source(location=str(first))) == [["01", 1]]
    assert read(Source(location=str(first), files=files)) == [["02", 2], ["01", 1]]


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2,3\n1\n1,2,3,4,5\n", b"\xff\xfe\x00"])
def test_file_that_is_no_csv_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.csv: is not a CSV file as expected"):
        read_csv(Source(location=str(tmp_path / "bad.csv")), tmp_path / "sample.csv")
