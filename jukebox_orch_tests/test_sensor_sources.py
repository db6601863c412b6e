"""The sensors' sources, each against the real thing and against one that misbehaves."""

import hashlib
import os
import subprocess
import time
from pathlib import Path

import fsspec
import pytest

from jukebox_orch.sensors.alertmanager import active_alerts
from jukebox_orch.sensors.events import SourceUnavailableError
from jukebox_orch.sensors.git_remote import list_tags
from jukebox_orch.sensors.listing import look, read_digests
from jukebox_orch.sensors.locations import open_location
from jukebox_orch.sensors.new_data import Entry, NewDataState
from jukebox_orch_tests.sensor_servers import (
    Misbehaviour,
    Repository,
    alertmanager,
    free_port,
    git_http_server,
    s3_server,
    self_signed_certificate,
    wait_until,
)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def repository(tmp_path) -> Repository:
    return Repository(tmp_path)


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


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    with alertmanager(tmp_path_factory.mktemp("alertmanager")) as running:
        yield running


class TestLocalFolder:
    def test_every_kind_of_entry_is_told_apart_and_no_link_is_followed(self, tmp_path):
        (tmp_path / "secret.csv").write_text("secret")
        landing = tmp_path / "landing"
        (landing / "day").mkdir(parents=True)
        (landing / "day" / "a.csv").write_bytes(b"a")
        (landing / "link.csv").symlink_to(tmp_path / "secret.csv")
        (landing / "linked").symlink_to(tmp_path)
        os.mkfifo(landing / "pipe.csv")
        entries = {e.path: e.kind for e in look(open_location(str(landing)), NewDataState()).entries}
        assert entries == {
            "day/a.csv": "file",
            "link.csv": "symlink",
            "linked": "symlink",
            "pipe.csv": "special",
        }

    def test_a_file_swapped_for_a_link_or_a_fifo_after_the_look_is_not_read(self, tmp_path):
        location = open_location(str(tmp_path))
        for name in ("a.csv", "b.csv", "c.csv"):
            (tmp_path / name).write_bytes(b"x")
        entries = sorted(look(location, NewDataState()).entries)
        (tmp_path / "a.csv").unlink()
        (tmp_path / "a.csv").symlink_to("/etc/hostname")
        (tmp_path / "b.csv").unlink()
        os.mkfifo(tmp_path / "b.csv")
        digests, failures = read_digests(location, entries, limit=10)
        assert digests == {"c.csv": sha(b"x")}
        assert failures == {"a.csv": "symbolic link", "b.csv": "changed while the tick was looking"}

    def test_a_file_that_grew_after_the_look_is_left_for_the_next_tick(self, tmp_path):
        location = open_location(str(tmp_path))
        (tmp_path / "a.csv").write_bytes(b"x")
        entries = look(location, NewDataState()).entries
        (tmp_path / "a.csv").write_bytes(b"xy")
        assert read_digests(location, entries, limit=10) == (
            {},
            {"a.csv": "changed while the tick was looking"},
        )

    def test_reading_stops_at_the_limit_and_at_the_end_of_the_time(self, tmp_path):
        location = open_location(str(tmp_path))
        for i in range(40):
            (tmp_path / f"{i:02}.csv").write_bytes(b"x")
        entries = sorted(look(location, NewDataState()).entries)
        digests, _ = read_digests(location, entries, limit=10)
        assert sorted(digests) == [f"{i:02}.csv" for i in range(10)]
        assert read_digests(location, entries, limit=10, seconds=-1) == ({}, {})

    def test_a_folder_that_is_not_there_is_a_reason(self, tmp_path):
        with pytest.raises(SourceUnavailableError, match="nowhere/ cannot be listed: No such file"):
            look(open_location(str(tmp_path / "nowhere")), NewDataState())

    def test_a_mount_that_hangs_is_given_up(self):
        class Hanging:
            prefix = "/mnt/nfs/"

            def look(self, state):
                time.sleep(5)

        with pytest.raises(SourceUnavailableError, match=r"/mnt/nfs/ did not answer within 0 s"):
            look(Hanging(), NewDataState(), seconds=0.1)  # pyright: ignore[reportArgumentType]

    def test_a_manifest_in_the_format_of_sha256sum_is_read(self, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "a b.csv").write_bytes(b"a")
        made = subprocess.run(["sha256sum", "a b.csv"], cwd=tmp_path / "d", capture_output=True, check=True)
        (tmp_path / "d" / "SHA256SUMS").write_bytes(made.stdout)
        listing = look(open_location(str(tmp_path)), NewDataState(), with_manifests=True)
        assert listing.manifests == {"d": {"a b.csv": sha(b"a")}}


class TestBucket:
    def test_objects_are_listed_and_their_content_is_digested(self, buckets):
        filesystem = fsspec.filesystem("s3")
        filesystem.pipe_file("landing/day/a.csv", b"a")
        filesystem.pipe_file("landing/day/sub/b.csv", b"b" * 20_000_000)
        location = open_location("s3://landing/day")
        listing = look(location, NewDataState())
        assert [e.path for e in listing.entries] == ["a.csv", "sub/b.csv"]
        assert all(e.changed_at and abs(e.changed_at - time.time()) < 60 for e in listing.entries)
        assert listing.covered == (("", None),)
        assert location.prefix == "s3://landing/day/"
        digests, failures = read_digests(location, listing.entries, 10)
        assert failures == {}
        assert digests == {"a.csv": sha(b"a"), "sub/b.csv": sha(b"b" * 20_000_000)}

    def test_an_overwritten_object_has_another_token_and_the_old_version_is_not_read(self, buckets):
        filesystem = fsspec.filesystem("s3")
        filesystem.pipe_file("landing/over/a.csv", b"old")
        location = open_location("s3://landing/over")
        before = look(location, NewDataState()).entries
        filesystem.pipe_file("landing/over/a.csv", b"new")
        assert look(location, NewDataState()).entries[0].token != before[0].token
        assert read_digests(location, before, 10) == ({}, {"a.csv": "changed while the tick was looking"})

    def test_a_large_bucket_is_seen_newest_keys_first_and_wholly_over_several_looks(
        self, buckets, monkeypatch
    ):
        monkeypatch.setattr("jukebox_orch.sensors.locations.SWEEP_SECONDS", 0)
        for i in range(2_500):
            path = buckets / "landing" / "large" / f"{i:05}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text(str(i))
        location = open_location("s3://landing/large")
        state, seen, looks = NewDataState(), set(), 0
        while len(seen) < 2_500 and looks < 10:
            listing = look(location, state)
            assert len(listing.entries) <= 2_000
            seen |= {e.path for e in listing.entries}
            state = NewDataState({path: [1, "t", "d"] for path in seen}, sweep=listing.sweep)
            looks += 1
        assert looks == 3
        (buckets / "landing" / "large" / "99999.csv").write_text("new")
        assert "99999.csv" in {e.path for e in look(location, state).entries}

    def test_a_bucket_that_is_not_there_or_refuses_is_a_reason(self, buckets, monkeypatch):
        with pytest.raises(SourceUnavailableError, match=r"s3://nowhere/x/ cannot be listed"):
            look(open_location("s3://nowhere/x"), NewDataState())
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        fsspec.filesystem("s3").clear_instance_cache()
        with pytest.raises(SourceUnavailableError, match="cannot be listed"):
            look(open_location("s3://landing/day"), NewDataState())

    def test_a_server_that_is_down_is_a_reason_in_bounded_time(self, buckets, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        fsspec.filesystem("s3").clear_instance_cache()
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError):
            look(open_location("s3://landing/day"), NewDataState())
        assert time.monotonic() - began < 25


class TestHttpFile:
    @pytest.fixture
    def server(self):
        behaviour = Misbehaviour()
        behaviour.body, behaviour.headers = b"a,b\n1,2\n", {"ETag": '"1"'}
        with behaviour.serve() as url:
            yield behaviour, open_location(f"{url}/export/day.csv")

    def test_its_version_is_its_etag_and_the_body_is_only_fetched_to_digest_it(self, server):
        behaviour, location = server
        (entry,) = look(location, NewDataState()).entries
        assert entry == Entry("day.csv", 8, '"1"', None)
        assert {method for method, _ in behaviour.requests} == {"HEAD"}
        assert read_digests(location, [entry], 1) == ({"day.csv": sha(behaviour.body)}, {})
        assert location.prefix.endswith("/export/")

    def test_without_an_etag_its_version_is_its_last_modified(self, server):
        behaviour, location = server
        behaviour.headers = {"Last-Modified": "Fri, 15 Dec 2023 10:00:00 GMT"}
        (entry,) = look(location, NewDataState()).entries
        assert entry.token == "Fri, 15 Dec 2023 10:00:00 GMT"
        assert entry.changed_at == 1_702_634_400

    def test_a_body_of_another_version_is_not_taken(self, server):
        behaviour, location = server
        (entry,) = look(location, NewDataState()).entries
        behaviour.headers = {"ETag": '"2"'}
        assert read_digests(location, [entry], 1) == (
            {},
            {"day.csv": "changed while the tick was looking"},
        )

    def test_a_server_that_tells_no_version_is_a_reason(self, server):
        behaviour, location = server
        behaviour.headers = {}
        with pytest.raises(SourceUnavailableError, match="neither ETag nor Last-Modified"):
            look(location, NewDataState())

    def test_an_error_a_bad_date_and_a_slow_server_are_reasons(self, server):
        behaviour, location = server
        behaviour.status = 503
        with pytest.raises(SourceUnavailableError, match="503"):
            look(location, NewDataState())
        behaviour.status, behaviour.headers = 200, {"Last-Modified": "yesterday"}
        with pytest.raises(SourceUnavailableError, match="cannot be listed"):
            look(location, NewDataState())
        behaviour.delay = 5
        with pytest.raises(SourceUnavailableError, match="did not answer"):
            look(location, NewDataState(), seconds=0.5)


class TestGit:
    @pytest.mark.parametrize("transport", ["file", "http"])
    def test_tags_are_listed_with_annotated_ones_peeled(self, repository, tmp_path, transport):
        light = repository.tag("v1.0.0")
        annotated = repository.tag("jukebox/v1.1.0", annotated=True)
        with git_http_server(tmp_path) as server:
            url = repository.url if transport == "file" else f"{server}/models.git"
            assert list_tags(url) == {"v1.0.0": light, "jukebox/v1.1.0": annotated}

    def test_a_moved_and_a_deleted_tag_are_seen(self, repository):
        first = repository.tag("v1.0.0")
        second = repository.tag("v1.0.0")
        assert first != second
        assert list_tags(repository.url) == {"v1.0.0": second}
        repository.delete("v1.0.0")
        assert list_tags(repository.url) == {}

    def test_a_hostile_tag_name_runs_nothing(self, repository, tmp_path):
        names = [f"v-x;$(touch${{IFS}}{tmp_path}/ran)", "--upload-pack=touch", "v1.0.0;touch"]
        repository.add_refs(names)
        assert list_tags(repository.url).keys() == set(names)
        assert not (tmp_path / "ran").exists()

    def test_a_password_is_taken_from_a_mounted_file_and_never_asked_for_or_shown(self, repository, tmp_path):
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
    def test_a_hostile_url_never_reaches_git(self, url, monkeypatch):
        monkeypatch.setenv("PATH", "/nowhere")  # git itself would now fail in another way
        with pytest.raises(SourceUnavailableError, match="must"):
            list_tags(url)

    def test_the_transport_of_the_url_is_the_only_one_git_may_use(self, repository, tmp_path, monkeypatch):
        repository.tag("v1.0.0")
        config = tmp_path / "gitconfig"
        config.write_text(f'[url "ext::touch {tmp_path}/ran "]\n\tinsteadOf = file://\n')
        monkeypatch.setenv("HOME", str(tmp_path))
        config.rename(tmp_path / ".gitconfig")
        with pytest.raises(SourceUnavailableError, match="not allowed"):
            list_tags(repository.url)
        assert not (tmp_path / "ran").exists()

    def test_a_hanging_server_is_given_up_and_its_processes_end(self):
        behaviour = Misbehaviour()
        behaviour.delay = 30
        with behaviour.serve() as url:
            began = time.monotonic()
            with pytest.raises(SourceUnavailableError, match="did not answer within 1 s"):
                list_tags(f"{url}/r.git", seconds=1)
            assert time.monotonic() - began < 3
            listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
            assert url not in listed

    def test_errors_of_the_server_and_of_its_certificate_are_reasons(self, tmp_path):
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

    def test_without_git_the_reason_says_what_to_install(self, monkeypatch):
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(SourceUnavailableError, match="`git` is not installed"):
            list_tags("file:///r.git")


class TestAlertmanager:
    def test_only_matching_firing_alerts_come_back(self, prometheus):
        prometheus.fire({"model": "jukebox"}, {"model": "other"}, {"model": "jukebox", "severity": "info"})
        prometheus.fire(
            {"model": "jukebox", "gone": "yes"}, ends_at=time.time() - 1, starts_at=time.time() - 60
        )
        found = active_alerts(prometheus.url, ['model="jukebox"', 'severity!="info"'])
        assert [alert.labels for alert in found] == [{"alertname": "ModelDrift", "model": "jukebox"}]
        assert found[0].state == "active"
        assert abs(found[0].starts_at - time.time()) < 60

    def test_the_start_stays_the_same_while_it_fires(self, prometheus):
        prometheus.fire({"model": "steady"})
        before = active_alerts(prometheus.url, ['model="steady"'])
        prometheus.fire({"model": "steady"}, starts_at=before[0].starts_at, ends_at=time.time() + 9_999)
        assert active_alerts(prometheus.url, ['model="steady"'])[0].event_id == before[0].event_id

    def test_silenced_and_inhibited_alerts_do_not_come_back(self, prometheus):
        prometheus.silence("model", "silenced")
        prometheus.fire({"model": "silenced"}, {"model": "inhibited", "role": "mutable"})
        prometheus.fire({"model": "inhibited", "role": "mute"})
        wait_until(
            lambda: not active_alerts(prometheus.url, ['model="silenced"']),
            10,
            "still not silenced",
        )
        assert [a.labels["role"] for a in active_alerts(prometheus.url, ['model="inhibited"'])] == ["mute"]

    def test_a_forged_label_is_data(self, prometheus):
        value = '{{ .Env }}"}]$(id)\u202e\n'
        prometheus.fire({"model": "forged", "version": value})
        assert active_alerts(prometheus.url, ['model="forged"'])[0].labels["version"] == value

    @pytest.mark.parametrize(
        ("status", "body", "reason"),
        [
            (500, b"overloaded", "answered 500: overloaded"),
            (200, b"<html>", "gave no list of alerts"),
            (200, b'[{"fingerprint": "f1"', "gave no list of alerts"),
            (200, b"[" * 100_000, "gave no list of alerts"),
            (200, b'{"data": []}', "gave no list of alerts: : Input should be a valid list"),
            (200, b'[{"fingerprint": "$(id)"}]', "0.fingerprint: String should match"),
            (200, b"\xff\xfe", "gave no list of alerts"),
            (302, b"", "answered 302"),
        ],
    )
    def test_an_answer_that_is_no_list_of_alerts_is_a_reason(self, status, body, reason):
        behaviour = Misbehaviour()
        behaviour.status, behaviour.body = status, body
        with behaviour.serve() as url, pytest.raises(SourceUnavailableError) as error:
            active_alerts(url, ['model="m"'])
        assert reason in str(error.value)

    def test_down_slow_endless_and_distrusted_servers_are_reasons(self, tmp_path, monkeypatch):
        with pytest.raises(SourceUnavailableError, match="cannot be reached"):
            active_alerts(f"http://127.0.0.1:{free_port()}", ['model="m"'])
        behaviour = Misbehaviour()
        behaviour.body, behaviour.delay = b"[]", 5
        with (
            behaviour.serve() as url,
            pytest.raises(SourceUnavailableError, match="did not answer within 1 s"),
        ):
            active_alerts(url, ['model="m"'], seconds=1)
        monkeypatch.setattr("jukebox_orch.sensors.alertmanager.MAX_BYTES", 1_000)
        behaviour.body, behaviour.delay = b"[" + b" " * 9_000, 0
        with behaviour.serve() as url, pytest.raises(SourceUnavailableError, match="more than 1,000 bytes"):
            active_alerts(url, ['model="m"'])
        with (
            behaviour.serve(self_signed_certificate(tmp_path)) as url,
            pytest.raises(SourceUnavailableError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            active_alerts(url, ['model="m"'])
