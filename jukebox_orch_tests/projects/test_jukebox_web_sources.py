"""Reading songs and rankings over HTTP."""

import http.server
import socket
import threading
import traceback
from pathlib import Path

import pytest

from jukebox_orch.contract import InputError, SourceFile
from jukebox_orch.projects.jukebox import Jukebox
from jukebox_orch_tests.support.jukebox_files import (
    assert_same,
    combined,
    frame,
    load,
    parquet_folder,
    refusal,
    tables,
)

SIGNATURE = "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=hunter2/a.json"


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
            if "signed" in self.path:
                # As an object store answers: only this method and this signature are valid.
                if self.command != "GET" or not self.path.endswith(SIGNATURE):
                    self.send_error(403)
                    return None
                self.path = self.path.replace("signed_", "").removesuffix(SIGNATURE)
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


def test_signed_urls_are_read(web: str, folder: Path) -> None:
    urls = [f"{web}/signed_{name}.parquet{SIGNATURE}" for name in ("song_properties", "song_rankings")]
    dataset = load("", *[SourceFile(url=url) for url in urls])
    assert_same(dataset, load(folder))
    assert frame(dataset, "rankings")["file"].unique().tolist() == ["signed_song_rankings.parquet"]


def test_signed_location_is_read(web: str, folder: Path) -> None:
    songs, rankings = tables()
    combined((songs, rankings)).to_csv(folder / "charts.csv.gz", index=False)
    (folder / "plain").mkdir()
    combined((songs, rankings)).to_csv(folder / "plain" / "charts.csv", index=False)
    assert_same(load(f"{web}/signed_charts.csv.gz{SIGNATURE}"), load(folder / "plain"))


@pytest.mark.parametrize(
    "name",
    [
        "signed_broken.csv",
        "signed_secret.csv",
        "signed_song_rankings.parquet",
        "signed_cut.parquet",
        "missing/",
    ],
)
def test_messages_have_no_signature_and_no_password(web: str, folder: Path, name: str) -> None:
    (folder / "cut.parquet").write_bytes(b"PAR1")
    location = f"{web.replace('//', '//user:hunter2@')}/{name}{SIGNATURE}"
    for files in ([], [SourceFile(url=location, sha256="0" * 64)]):
        with pytest.raises((InputError, OSError)) as caught:
            load(location, *files)
        assert f"{web}/{name}: " in str(caught.value)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_bad_signature_is_refused(web: str) -> None:
    message = refusal(f"{web}/signed_song_rankings.parquet?X-Amz-Signature=hunter3")
    assert message == (f"{web}/signed_song_rankings.parquet: access denied; check permissions or credentials")


def test_findings_have_no_signature(web: str, folder: Path) -> None:
    songs, rankings = tables()
    parquet_folder(folder, songs, rankings.assign(daily_rank=99))
    urls = [f"{web}/signed_{name}.parquet{SIGNATURE}" for name in ("song_properties", "song_rankings")]
    dataset = load("", *[SourceFile(url=url) for url in urls])
    findings = Jukebox().validate(dataset).findings
    assert any(example["file"] == "signed_song_rankings.parquet" for f in findings for example in f.examples)
    assert "hunter2" not in f"{findings}"
