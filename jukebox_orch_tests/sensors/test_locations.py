"""Locations of new files (folder, bucket, http file) against real and misbehaving servers."""

import hashlib
import os
import subprocess
import time

import fsspec
import pytest

from jukebox_orch.sensors.new_data.decision import Contents, Entry, NewDataState
from jukebox_orch.sensors.new_data.locations import open_location
from jukebox_orch.sensors.new_data.scan import read_digests, scan
from jukebox_orch.sensors.trigger_types import SourceUnavailableError
from jukebox_orch_tests.support.servers import Misbehaviour, s3_server, self_signed_certificate
from jukebox_orch_tests.support.waiting import free_port


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def buckets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3") / "buckets"
    (folder / "landing").mkdir(parents=True)
    with s3_server(folder) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        yield folder
        fsspec.filesystem("s3").clear_instance_cache()


class TestLocalFolder:
    def test_entry_kinds_are_listed_without_following_links(self, tmp_path):
        (tmp_path / "secret.csv").write_text("secret")
        landing = tmp_path / "landing"
        (landing / "day").mkdir(parents=True)
        (landing / "day" / "a.csv").write_bytes(b"a")
        (landing / "link.csv").symlink_to(tmp_path / "secret.csv")
        (landing / "linked").symlink_to(tmp_path)
        os.mkfifo(landing / "pipe.csv")
        entries = {e.path: e.kind for e in scan(open_location(str(landing)), NewDataState()).entries}
        assert entries == {
            "day/a.csv": "file",
            "link.csv": "symlink",
            "linked": "symlink",
            "pipe.csv": "special",
        }

    def test_file_replaced_by_link_or_fifo_is_not_read(self, tmp_path):
        location = open_location(str(tmp_path))
        for name in ("a.csv", "b.csv", "c.csv"):
            (tmp_path / name).write_bytes(b"x")
        entries = sorted(scan(location, NewDataState()).entries)
        (tmp_path / "a.csv").unlink()
        (tmp_path / "a.csv").symlink_to("/etc/hostname")
        (tmp_path / "b.csv").unlink()
        os.mkfifo(tmp_path / "b.csv")
        contents = read_digests(location, entries, limit=10)
        assert contents.digests == {"c.csv": sha(b"x")}
        assert contents.failures == {"a.csv": "symbolic link", "b.csv": "changed during the tick"}

    def test_file_that_grew_after_listing_is_not_read(self, tmp_path):
        location = open_location(str(tmp_path))
        (tmp_path / "a.csv").write_bytes(b"x")
        entries = scan(location, NewDataState()).entries
        (tmp_path / "a.csv").write_bytes(b"xy")
        failures = {"a.csv": "changed during the tick"}
        assert read_digests(location, entries, limit=10) == Contents(failures=failures)

    def test_reading_stops_at_file_and_time_limits(self, tmp_path):
        location = open_location(str(tmp_path))
        for i in range(40):
            (tmp_path / f"{i:02}.csv").write_bytes(b"x")
        entries = sorted(scan(location, NewDataState()).entries)
        digests = read_digests(location, entries, limit=10).digests
        assert sorted(digests) == [f"{i:02}.csv" for i in range(10)]
        assert read_digests(location, entries, limit=10, seconds=-1) == Contents()

    def test_missing_folder_is_reported(self, tmp_path):
        with pytest.raises(SourceUnavailableError, match="nowhere/ cannot be listed: No such file"):
            scan(open_location(str(tmp_path / "nowhere")), NewDataState())

    def test_hanging_mount_times_out(self):
        class Hanging:
            prefix = "/mnt/nfs/"

            def scan(self, state):
                time.sleep(5)

        with pytest.raises(SourceUnavailableError, match=r"/mnt/nfs/ did not answer within 0 s"):
            scan(Hanging(), NewDataState(), seconds=0.1)  # pyright: ignore[reportArgumentType]

    def test_sha256sum_manifest_is_read(self, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "a b.csv").write_bytes(b"a")
        made = subprocess.run(["sha256sum", "a b.csv"], cwd=tmp_path / "d", capture_output=True, check=True)
        (tmp_path / "d" / "SHA256SUMS").write_bytes(made.stdout)
        listing = scan(open_location(str(tmp_path)), NewDataState(), with_manifests=True)
        assert listing.manifests == {"d": {"a b.csv": sha(b"a")}}


class TestBucket:
    def test_objects_are_listed_and_digested(self, buckets):
        filesystem = fsspec.filesystem("s3")
        filesystem.pipe_file("landing/day/a.csv", b"a")
        filesystem.pipe_file("landing/day/sub/b.csv", b"b" * 20_000_000)
        location = open_location("s3://landing/day")
        listing = scan(location, NewDataState())
        assert [e.path for e in listing.entries] == ["a.csv", "sub/b.csv"]
        assert all(e.changed_at and abs(e.changed_at - time.time()) < 60 for e in listing.entries)
        assert list(listing.covered) == [("", None)]
        assert location.prefix == "s3://landing/day/"
        contents = read_digests(location, listing.entries, 10)
        assert contents.failures == {}
        assert contents.digests == {"a.csv": sha(b"a"), "sub/b.csv": sha(b"b" * 20_000_000)}

    def test_overwritten_object_has_new_token_and_is_not_read(self, buckets):
        filesystem = fsspec.filesystem("s3")
        filesystem.pipe_file("landing/over/a.csv", b"old")
        location = open_location("s3://landing/over")
        before = scan(location, NewDataState()).entries
        filesystem.pipe_file("landing/over/a.csv", b"new")
        assert scan(location, NewDataState()).entries[0].token != before[0].token
        assert read_digests(location, before, 10) == Contents({}, {"a.csv": "changed during the tick"})

    def test_large_bucket_is_listed_over_ticks_newest_keys_first(self, buckets, monkeypatch):
        monkeypatch.setattr("jukebox_orch.sensors.new_data.locations.SWEEP_SECONDS", 0)
        for i in range(2_500):
            path = buckets / "landing" / "large" / f"{i:05}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text(str(i))
        location = open_location("s3://landing/large")
        state, seen, ticks = NewDataState(), set(), 0
        while len(seen) < 2_500 and ticks < 10:
            listing = scan(location, state)
            assert len(listing.entries) <= 2_000
            seen |= {e.path for e in listing.entries}
            state = NewDataState({path: [1, "t", "d"] for path in seen}, sweep=listing.sweep)
            ticks += 1
        assert ticks == 3
        (buckets / "landing" / "large" / "99999.csv").write_text("new")
        assert "99999.csv" in {e.path for e in scan(location, state).entries}

    def test_missing_or_refusing_bucket_is_reported(self, buckets, monkeypatch):
        with pytest.raises(SourceUnavailableError, match=r"s3://nowhere/x/ cannot be listed"):
            scan(open_location("s3://nowhere/x"), NewDataState())
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        fsspec.filesystem("s3").clear_instance_cache()
        with pytest.raises(SourceUnavailableError, match="cannot be listed"):
            scan(open_location("s3://landing/day"), NewDataState())

    def test_down_server_is_reported_in_bounded_time(self, buckets, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        fsspec.filesystem("s3").clear_instance_cache()
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError):
            scan(open_location("s3://landing/day"), NewDataState())
        assert time.monotonic() - began < 25

    def test_untrusted_certificate_is_reported(self, buckets, monkeypatch, tmp_path):
        with Misbehaviour().serve(self_signed_certificate(tmp_path)) as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            fsspec.filesystem("s3").clear_instance_cache()
            with pytest.raises(SourceUnavailableError, match="certificate"):
                scan(open_location("s3://landing/day"), NewDataState())


class TestHttpFile:
    @pytest.fixture
    def server(self):
        behaviour = Misbehaviour()
        behaviour.body, behaviour.headers = b"a,b\n1,2\n", {"ETag": '"1"'}
        with behaviour.serve() as url:
            yield behaviour, open_location(f"{url}/export/day.csv")

    def test_etag_is_version_and_listing_fetches_no_body(self, server):
        behaviour, location = server
        (entry,) = scan(location, NewDataState()).entries
        assert entry == Entry("day.csv", 8, '"1"', None)
        assert {method for method, _ in behaviour.requests} == {"HEAD"}
        assert read_digests(location, [entry], 1) == Contents({"day.csv": sha(behaviour.body)}, {})
        assert location.prefix.endswith("/export/")

    def test_last_modified_is_version_without_etag(self, server):
        behaviour, location = server
        behaviour.headers = {"Last-Modified": "Fri, 15 Dec 2023 10:00:00 GMT"}
        (entry,) = scan(location, NewDataState()).entries
        assert entry.token == "Fri, 15 Dec 2023 10:00:00 GMT"
        assert entry.changed_at == 1_702_634_400

    def test_body_of_another_version_is_not_read(self, server):
        behaviour, location = server
        (entry,) = scan(location, NewDataState()).entries
        behaviour.headers = {"ETag": '"2"'}
        assert read_digests(location, [entry], 1) == Contents(failures={"day.csv": "changed during the tick"})

    def test_response_without_version_is_reported(self, server):
        behaviour, location = server
        behaviour.headers = {}
        with pytest.raises(SourceUnavailableError, match="neither ETag nor Last-Modified"):
            scan(location, NewDataState())

    def test_http_error_bad_date_and_slow_server_are_reported(self, server):
        behaviour, location = server
        behaviour.status = 503
        with pytest.raises(SourceUnavailableError, match="503"):
            scan(location, NewDataState())
        behaviour.status, behaviour.headers = 200, {"Last-Modified": "yesterday"}
        with pytest.raises(SourceUnavailableError, match="cannot be listed"):
            scan(location, NewDataState())
        behaviour.delay = 5
        with pytest.raises(SourceUnavailableError, match="did not answer"):
            scan(location, NewDataState(), seconds=0.5)

    def test_down_or_untrusted_server_is_reported(self, tmp_path):
        with pytest.raises(SourceUnavailableError, match="Connection refused"):
            scan(open_location(f"http://127.0.0.1:{free_port()}/day.csv"), NewDataState())
        with (
            Misbehaviour().serve(self_signed_certificate(tmp_path)) as url,
            pytest.raises(SourceUnavailableError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            scan(open_location(f"{url}/day.csv"), NewDataState())
