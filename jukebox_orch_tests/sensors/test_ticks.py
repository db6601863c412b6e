"""Whole ticks of the Dagster sensors: status, requests, skip reasons and cursors against real sources."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from jukebox_orch.projects.jukebox import Jukebox, sample
from jukebox_orch_tests.support.deployment import Deployment
from jukebox_orch_tests.support.git_server import Repository, git_http_server
from jukebox_orch_tests.support.sensor import Sensor
from jukebox_orch_tests.support.servers import Misbehaviour


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def data_sensor(instance: dg.DagsterInstance, folder: Path, **settings: Any) -> Sensor:
    landing = folder / "landing"
    landing.mkdir(exist_ok=True)
    defaults = {"location": str(landing), "patterns": ["*"], "quiet_seconds": 0}
    return Sensor(instance, folder, "new_data", **{**defaults, **settings})


@pytest.mark.parametrize("kind", ["new_data", "git_tags", "model_alerts"])
def test_an_unconfigured_sensor_is_there_stopped_and_says_how_to_configure_it(instance, tmp_path, kind):
    sensor = Sensor(instance, tmp_path, kind)
    assert sensor.definition.default_status is dg.DefaultSensorStatus.STOPPED
    assert f"add `{kind}` under `p` to the deployment's triggers file" in sensor.reason()


def test_a_configured_sensor_runs_by_itself_and_says_what_it_watches(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path, interval_seconds=7)
    assert sensor.definition.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.definition.minimum_interval_seconds == 7
    assert sensor.definition.description == f"New files at {tmp_path}/landing start training, once per event."
    assert sensor.definition.job_name == "training"


def test_loading_the_sensors_touches_no_source(instance, tmp_path):
    unreachable = {
        "new_data": {"location": "s3://nowhere/x"},
        "git_tags": {"repository": "https://nowhere.invalid/r.git"},
        "model_alerts": {"url": "http://nowhere.invalid", "matchers": ['a="b"']},
    }
    for kind, settings in unreachable.items():
        assert Sensor(instance, tmp_path, kind, **settings).definition.name == f"p_{kind}"
    assert not (tmp_path / "memory").exists()


def test_a_source_that_comes_back_is_looked_at_again_with_the_cursor_it_had(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path)
    (tmp_path / "landing" / "a.csv").write_text("a")
    assert len(sensor.tick().run_requests or []) == 1
    cursor = sensor.cursor
    (tmp_path / "landing").rename(tmp_path / "unmounted")
    assert "cannot be listed: No such file or directory; nothing was decided. Next look at" in sensor.reason()
    assert sensor.cursor == cursor
    (tmp_path / "unmounted").rename(tmp_path / "landing")
    assert "nothing new" in sensor.reason()


def test_alertmanager_failing_in_every_way_loses_and_doubles_nothing(instance, tmp_path):
    behaviour = Misbehaviour()
    alert = {
        "fingerprint": "0a",
        "startsAt": "2023-12-15T10:00:00.000Z",
        "labels": {"alertname": "Drift"},
        "status": {"state": "active", "silencedBy": [], "inhibitedBy": []},
    }
    with behaviour.serve() as url:
        sensor = Sensor(instance, tmp_path, "model_alerts", url=url, matchers=['a="b"'], cooldown_seconds=0)
        requested = []
        for status, body in [(500, b""), (200, b"{"), (200, json.dumps([alert]).encode())] * 3:
            behaviour.status, behaviour.body = status, body
            result = sensor.tick()
            requested += result.run_requests or []
            assert result.run_requests or result.skip_reason
    assert [request.run_key for request in requested] == ["model_alert:0a/2023-12-15T10:00:00.000+00:00"]


@pytest.mark.parametrize("damage", ["x", "{}", '{"version": 99}', "null"])
def test_a_corrupted_cursor_is_reported_and_no_run_starts_twice(instance, tmp_path, damage):
    repository = Repository(tmp_path / "git")
    repository.tag("v1.0.0")
    sensor = Sensor(instance, tmp_path, "git_tags", repository=repository.url)
    assert "1 tag recorded without one" in sensor.reason()
    repository.tag("v1.1.0")
    assert len(sensor.tick().run_requests or []) == 1
    sensor.cursor = damage
    repository.tag("v1.2.0")
    result = sensor.tick()
    assert [request.tags["git/tag"] for request in result.run_requests or []] == ["v1.2.0"]
    sensor.cursor = damage
    assert "the cursor could not be used" in sensor.reason()


def test_a_cursor_that_holds_another_state_is_reported(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path)
    sensor.tick()
    from jukebox_orch.sensors.cursor import CursorCodec

    sensor.cursor = CursorCodec("new_data", str(tmp_path / "landing"), str(tmp_path)).encode({}, {"tags": {}})
    assert "the cursor holds no such state" in sensor.reason()


def test_files_of_a_run_whose_cursor_was_never_written_are_not_trained_on_again(instance, tmp_path):
    """Dagster gives an interrupted tick up after a day; its run may exist, and more files may have come."""
    sensor = data_sensor(instance, tmp_path)
    (tmp_path / "landing" / "a.csv").write_text("a")
    before = sensor.cursor
    assert len(sensor.tick().run_requests or []) == 1
    sensor.cursor = before
    (tmp_path / "landing" / "b.csv").write_text("b")
    (again,) = sensor.tick().run_requests or []
    assert [Path(f["url"]).name for f in again.run_config["source"]["files"]] == ["b.csv"]


def test_another_location_keeps_what_was_trained_on(instance, tmp_path):
    (tmp_path / "landing").mkdir()
    (tmp_path / "landing" / "a.csv").write_text("a")
    first = data_sensor(instance, tmp_path)
    assert len(first.tick().run_requests or []) == 1
    (tmp_path / "landing").rename(tmp_path / "moved")
    moved = data_sensor(instance, tmp_path, location=str(tmp_path / "moved"))
    moved.cursor = first.cursor
    reason = moved.reason()
    assert "the cursor could not be used (it belongs to new_data of" in reason
    assert "1 file with a content that already had a run" in reason


def test_the_cursor_stays_small_whatever_the_number_of_files(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path, max_files_per_run=2_000)
    for i in range(2_000):
        (tmp_path / "landing" / f"{i}-{os.urandom(8).hex()}.csv").write_text(str(i))
    assert len(sensor.tick().run_requests or []) == 1
    assert len(sensor.cursor or "") < 1_000
    assert "nothing new" in sensor.reason()
    (snapshot,) = (tmp_path / "memory" / "p" / "new_data").iterdir()
    snapshot.unlink()
    restarted = data_sensor(instance, tmp_path, max_files_per_run=2_000)
    restarted.cursor = sensor.cursor
    reason = restarted.reason()
    assert f"its snapshot {snapshot.name[:12]} is missing" in reason
    assert "2,000 files with a content that already had a run" in reason


def test_half_written_and_unsafe_entries_are_named_in_the_tick(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path, quiet_seconds=3_600)
    landing = tmp_path / "landing"
    (landing / "growing.csv").write_text("half")
    (landing / "link.csv").symlink_to("/etc/passwd")
    os.mkfifo(landing / "pipe.csv")
    (landing / ".partial.csv").write_text("x")
    reason = sensor.reason()
    assert "1 file not complete yet: 'growing.csv'" in reason
    assert "refused (symbolic link): 'link.csv'" in reason
    assert "refused (neither a file nor a folder): 'pipe.csv'" in reason
    assert "refused (hidden): '.partial.csv'" in reason


def test_a_password_reaches_neither_cursor_nor_tags_nor_reasons(instance, tmp_path):
    repository = Repository(tmp_path / "git")
    repository.tag("v1.0.0")
    with git_http_server(tmp_path / "git", password="s3cret-canary") as url:
        credentials = tmp_path / "credentials"
        credentials.write_text(url.replace("://", "://reader:s3cret-canary@") + "\n")
        sensor = Sensor(
            instance,
            tmp_path,
            "git_tags",
            repository=f"{url}/models.git",
            credentials_file=str(credentials),
        )
        said = [sensor.reason()]
        repository.tag("v1.1.0")
        (request,) = sensor.tick().run_requests or []
        credentials.write_text(url.replace("://", "://reader:wrong-canary@") + "\n")
        said += [sensor.reason(), str(request), sensor.cursor or ""]
    assert "Authentication failed" in said[1]
    assert "canary" not in "".join(said)


def test_a_shutdown_of_git_hosting_is_a_reason_and_the_tag_starts_afterwards(instance, tmp_path):
    repository = Repository(tmp_path / "git")
    repository.tag("v1.0.0")
    sensor = Sensor(instance, tmp_path, "git_tags", repository=repository.url)
    sensor.reason()
    commit = repository.tag("v1.1.0")
    repository.bare.rename(tmp_path / "away")
    assert "git said" in sensor.reason()
    (tmp_path / "away").rename(repository.bare)
    (request,) = sensor.tick().run_requests or []
    assert request.run_key == f"git_tag:v1.1.0:{commit}"
    assert "nothing new" in sensor.reason()


def names_of(result: dg.SensorResult) -> list[str]:
    files = [file for r in result.run_requests or [] for file in r.run_config["source"]["files"]]
    return [Path(file["url"]).name for file in files]


def test_with_a_success_marker_a_file_starts_its_run_when_the_marker_is_there(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path, complete_when="success_marker")
    (tmp_path / "landing" / "a.csv").write_text("a")
    assert "1 file not complete yet: 'a.csv'" in sensor.reason()
    (tmp_path / "landing" / "_SUCCESS").touch()
    assert names_of(sensor.tick()) == ["a.csv"]
    assert "nothing new" in sensor.reason()


def test_with_a_manifest_a_file_starts_its_run_when_it_is_what_the_manifest_says(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path, complete_when="manifest")
    landing = tmp_path / "landing"
    (landing / "a.csv").write_text("whole")
    (landing / "b.csv").write_text("whole too")
    assert "2 files not complete yet" in sensor.reason()
    made = subprocess.run(["sha256sum", "a.csv", "b.csv"], cwd=landing, capture_output=True, check=True)
    (landing / "b.csv").write_text("half")
    (landing / "SHA256SUMS").write_bytes(made.stdout)
    assert names_of(sensor.tick()) == ["a.csv"]
    assert "its content is not what SHA256SUMS promises): 'b.csv'" in sensor.reason()
    (landing / "b.csv").write_text("whole too")
    assert names_of(sensor.tick()) == ["b.csv"]


def test_a_file_behind_http_starts_a_run_per_content_not_per_version(instance, tmp_path):
    server = Misbehaviour()
    with server.serve() as url:
        sensor = data_sensor(instance, tmp_path, location=f"{url}/day.csv")
        server.body, server.headers = b"one", {"ETag": '"1"'}
        (request,) = sensor.tick().run_requests or []
        digest = hashlib.sha256(b"one").hexdigest()
        assert request.run_config["source"]["files"] == [{"url": f"{url}/day.csv", "sha256": digest}]
        assert "nothing new" in sensor.reason()
        server.headers = {"ETag": '"2"'}
        assert "1 file with a content that already had a run" in sensor.reason()
        server.body, server.headers, server.status = b"two", {"ETag": '"3"'}, 503
        assert "503" in sensor.reason()
        server.status = 200
        assert names_of(sensor.tick()) == ["day.csv"]


def test_a_file_that_changes_between_tick_and_run_stops_the_run_and_is_named(tmp_path):
    place = Deployment(tmp_path / "place")
    sensor = data_sensor(place.instance, tmp_path)
    for name, table in sample.generate(days=3, chart=5).items():
        pd.DataFrame(table).to_parquet(tmp_path / "landing" / f"{name}.parquet")
    (request,) = sensor.tick().run_requests or []
    ops = {"jukebox__dataset": {"config": request.run_config}}
    assert place.run(project=Jukebox(), only=["dataset"], ops=ops).success
    (tmp_path / "landing" / "rankings.parquet").write_bytes(b"other")
    changed = place.run(project=Jukebox(), only=["dataset"], ops=ops)
    (failure,) = changed.get_step_failure_events()
    said = str(failure.step_failure_data.error)
    assert f"{tmp_path}/landing/rankings.parquet: " in said
    assert ", expected " in said
