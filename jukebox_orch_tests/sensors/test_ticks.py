"""Complete ticks of the Dagster sensors with real sources: status, requests, skip reasons and cursors."""

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
def test_unconfigured_sensor_is_stopped_and_explains_configuration(instance, tmp_path, kind):
    sensor = Sensor(instance, tmp_path, kind)
    assert sensor.definition.default_status is dg.DefaultSensorStatus.STOPPED
    assert f"add `{kind}` to the triggers of `p` in the deployment's projects file" in sensor.reason()


def test_configured_sensor_runs_and_describes_its_source(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path, interval_seconds=7)
    assert sensor.definition.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.definition.minimum_interval_seconds == 7
    assert sensor.definition.description == f"New files at {tmp_path}/landing start training, once per event."
    assert sensor.definition.job_name == "training"


def test_loading_sensors_accesses_no_source(instance, tmp_path):
    unreachable = {
        "new_data": {"location": "s3://nowhere/x"},
        "git_tags": {"repository": "https://nowhere.invalid/r.git"},
        "model_alerts": {"url": "http://nowhere.invalid", "matchers": ['a="b"']},
    }
    for kind, settings in unreachable.items():
        assert Sensor(instance, tmp_path, kind, **settings).definition.name == f"p_{kind}"
    assert not (tmp_path / "state").exists()


def test_recovered_source_is_read_with_old_cursor(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path)
    (tmp_path / "landing" / "a.csv").write_text("a")
    assert len(sensor.tick().run_requests or []) == 1
    cursor = sensor.cursor
    (tmp_path / "landing").rename(tmp_path / "unmounted")
    assert "cannot be listed: No such file or directory; nothing was decided. Next tick at" in sensor.reason()
    assert sensor.cursor == cursor
    (tmp_path / "unmounted").rename(tmp_path / "landing")
    assert "nothing new" in sensor.reason()


def test_failing_alertmanager_neither_loses_nor_repeats_alerts(instance, tmp_path):
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
def test_corrupted_cursor_is_reported_and_starts_no_second_run(instance, tmp_path, damage):
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


def test_cursor_with_other_state_is_reported(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path)
    sensor.tick()
    from jukebox_orch.sensors.cursor import CursorCodec

    sensor.cursor = CursorCodec("new_data", str(tmp_path / "landing"), str(tmp_path)).encode({}, {"tags": {}})
    assert "the state in the cursor is invalid" in sensor.reason()


def test_runs_have_dataset_name_of_deployment(instance, tmp_path):
    for name in ("", "charts"):
        folder = tmp_path / (name or "none")
        folder.mkdir()
        sensor = data_sensor(instance, folder, dataset_name=name)
        (folder / "landing" / "a.csv").write_text(f"data {name}")
        (request,) = sensor.tick().run_requests or []
        assert request.run_config["source"]["location"] == f"{folder / 'landing'}/"
        assert request.run_config.get("dataset_name", "") == name


def test_run_without_saved_cursor_is_not_repeated(instance, tmp_path):
    """Dagster drops an interrupted tick after a day. Its run may exist, and there may be more files."""
    sensor = data_sensor(instance, tmp_path)
    (tmp_path / "landing" / "a.csv").write_text("a")
    before = sensor.cursor
    assert len(sensor.tick().run_requests or []) == 1
    sensor.cursor = before
    (tmp_path / "landing" / "b.csv").write_text("b")
    (again,) = sensor.tick().run_requests or []
    assert [Path(f["url"]).name for f in again.run_config["source"]["files"]] == ["b.csv"]


def test_moved_location_starts_no_second_run(instance, tmp_path):
    (tmp_path / "landing").mkdir()
    (tmp_path / "landing" / "a.csv").write_text("a")
    first = data_sensor(instance, tmp_path)
    assert len(first.tick().run_requests or []) == 1
    (tmp_path / "landing").rename(tmp_path / "moved")
    moved = data_sensor(instance, tmp_path, location=str(tmp_path / "moved"))
    moved.cursor = first.cursor
    reason = moved.reason()
    assert "the cursor could not be used (it belongs to new_data of" in reason
    assert "1 file whose content already had a run" in reason


def test_cursor_stays_small_with_many_files(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path, max_files_per_run=2_000)
    for i in range(2_000):
        (tmp_path / "landing" / f"{i}-{os.urandom(8).hex()}.csv").write_text(str(i))
    assert len(sensor.tick().run_requests or []) == 1
    assert len(sensor.cursor or "") < 1_000
    assert "nothing new" in sensor.reason()
    (snapshot,) = (tmp_path / "state" / "p" / "new_data").iterdir()
    snapshot.unlink()
    restarted = data_sensor(instance, tmp_path, max_files_per_run=2_000)
    restarted.cursor = sensor.cursor
    reason = restarted.reason()
    assert f"its snapshot {snapshot.name[:12]} is missing" in reason
    assert "2,000 files whose content already had a run" in reason


def test_incomplete_and_unsafe_entries_are_named(instance, tmp_path):
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


def test_password_is_not_in_cursor_tags_or_reasons(instance, tmp_path):
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
        texts = [sensor.reason()]
        repository.tag("v1.1.0")
        (request,) = sensor.tick().run_requests or []
        credentials.write_text(url.replace("://", "://reader:wrong-canary@") + "\n")
        texts += [sensor.reason(), str(request), sensor.cursor or ""]
    assert "Authentication failed" in texts[1]
    assert "canary" not in "".join(texts)


def test_unavailable_repository_is_reported_and_tag_starts_later(instance, tmp_path):
    repository = Repository(tmp_path / "git")
    repository.tag("v1.0.0")
    sensor = Sensor(instance, tmp_path, "git_tags", repository=repository.url)
    sensor.reason()
    commit = repository.tag("v1.1.0")
    repository.bare.rename(tmp_path / "away")
    assert "`git ls-remote` failed" in sensor.reason()
    (tmp_path / "away").rename(repository.bare)
    (request,) = sensor.tick().run_requests or []
    assert request.run_key == f"git_tag:v1.1.0:{commit}"
    assert "nothing new" in sensor.reason()


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029"])
def test_tag_with_line_separator_is_refused_alone(instance, tmp_path, separator):
    repository = Repository(tmp_path / "git")
    repository.tag("v1.0.0")
    sensor = Sensor(instance, tmp_path, "git_tags", repository=repository.url)
    sensor.reason()
    repository.tag(f"v1.0.1{separator}")
    repository.tag("v1.1.0")
    result = sensor.tick()
    assert [request.tags["git/tag"] for request in result.run_requests or []] == ["v1.1.0"]
    reason = sensor.reason()
    assert f"'v1.0.1{ascii(separator)[1:-1]}'" in reason
    assert "refused (no version after 'v'" in reason
    assert "2 tags match 'v*'" in reason


def test_semantic_prereleases_of_repository_start(instance, tmp_path):
    repository = Repository(tmp_path / "git")
    repository.tag("v1.0.0")
    sensor = Sensor(instance, tmp_path, "git_tags", repository=repository.url, max_runs_per_tick=9)
    sensor.reason()
    names = [
        "v1.1.0-SNAPSHOT",
        "v1.1.0-alpha.beta",
        "v1.1.0-hotfix.1",
        "v1.1.0-rc.2",
        "v1.1.0-rc.10",
        "v1.1.0+5",
    ]
    repository.add_refs([*reversed(names), "v1.1.0rc1"])
    assert [request.tags["git/tag"] for request in sensor.tick().run_requests or []] == names
    assert "use for example v1.2.3 or v1.2.3-rc.1, see semver.org): 'v1.1.0rc1'" in sensor.reason()


def names_of(result: dg.SensorResult) -> list[str]:
    files = [file for r in result.run_requests or [] for file in r.run_config["source"]["files"]]
    return [Path(file["url"]).name for file in files]


def test_success_marker_makes_file_start_its_run(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path, complete_when="success_marker")
    (tmp_path / "landing" / "a.csv").write_text("a")
    assert "1 file not complete yet: 'a.csv'" in sensor.reason()
    (tmp_path / "landing" / "_SUCCESS").touch()
    assert names_of(sensor.tick()) == ["a.csv"]
    assert "nothing new" in sensor.reason()


def test_file_that_matches_manifest_starts_its_run(instance, tmp_path):
    sensor = data_sensor(instance, tmp_path, complete_when="manifest")
    landing = tmp_path / "landing"
    (landing / "a.csv").write_text("whole")
    (landing / "b.csv").write_text("whole too")
    assert "2 files not complete yet" in sensor.reason()
    made = subprocess.run(["sha256sum", "a.csv", "b.csv"], cwd=landing, capture_output=True, check=True)
    (landing / "b.csv").write_text("half")
    (landing / "SHA256SUMS").write_bytes(made.stdout)
    assert names_of(sensor.tick()) == ["a.csv"]
    assert "its content does not match SHA256SUMS): 'b.csv'" in sensor.reason()
    (landing / "b.csv").write_text("whole too")
    assert names_of(sensor.tick()) == ["b.csv"]


def test_http_file_starts_one_run_per_content(instance, tmp_path):
    server = Misbehaviour()
    with server.serve() as url:
        sensor = data_sensor(instance, tmp_path, location=f"{url}/day.csv")
        server.body, server.headers = b"one", {"ETag": '"1"'}
        (request,) = sensor.tick().run_requests or []
        digest = hashlib.sha256(b"one").hexdigest()
        assert request.run_config["source"]["files"] == [{"url": f"{url}/day.csv", "sha256": digest}]
        assert "nothing new" in sensor.reason()
        server.headers = {"ETag": '"2"'}
        assert "1 file whose content already had a run" in sensor.reason()
        server.body, server.headers, server.status = b"two", {"ETag": '"3"'}, 503
        assert "503" in sensor.reason()
        server.status = 200
        assert names_of(sensor.tick()) == ["day.csv"]


def test_file_changed_after_tick_stops_run_and_is_named(tmp_path):
    deployment = Deployment(tmp_path / "deployment")
    sensor = data_sensor(deployment.instance, tmp_path)
    for name, table in sample.generate(days=3, chart=5).items():
        pd.DataFrame(table).to_parquet(tmp_path / "landing" / f"{name}.parquet")
    (request,) = sensor.tick().run_requests or []
    ops = {"jukebox__dataset": {"config": request.run_config}}
    assert deployment.run(project=Jukebox(), only=["dataset"], ops=ops).success
    (tmp_path / "landing" / "rankings.parquet").write_bytes(b"other")
    changed = deployment.run(project=Jukebox(), only=["dataset"], ops=ops)
    (failure,) = changed.get_step_failure_events()
    message = str(failure.step_failure_data.error)
    assert f"{tmp_path}/landing/rankings.parquet: " in message
    assert ", expected " in message
