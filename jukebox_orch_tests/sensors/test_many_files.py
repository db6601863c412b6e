"""A landing folder with 10,000 files of which each run gets all earlier ones."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from jukebox_orch.sensors.new_data.decision import MAX_FILES_IN_RUN
from jukebox_orch_tests.support.sensor import Sensor

File = {"url": str, "sha256": str}


@dg.op(config_schema={"source": {"location": str, "files": [File]}})
def verify_files(context: dg.OpExecutionContext) -> int:
    files = context.op_config["source"]["files"]
    for file in files:
        assert hashlib.sha256(Path(file["url"]).read_bytes()).hexdigest() == file["sha256"]
    return len(files)


@dg.config_mapping(config_schema={"source": {"location": str, "files": [File]}})
def flat(config: dict) -> dict:
    return {"ops": {"verify_files": {"config": config}}}


@dg.job(config=flat, executor_def=dg.in_process_executor)
def training():
    verify_files()


@pytest.fixture
def instance(tmp_path) -> Iterator[dg.DagsterInstance]:
    """Yield an instance with the storage of a deployment on one machine."""
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        yield instance


@pytest.fixture
def landing(tmp_path) -> Path:
    folder = tmp_path / "landing"
    folder.mkdir()
    for i in range(10_000):
        (folder / f"{i:05}.csv").write_text(str(i))
    return folder


def names_of(request: dg.RunRequest) -> set[str]:
    return {Path(file["url"]).name for file in request.run_config["source"]["files"]}


def test_run_with_all_earlier_files_starts_before_and_after_the_limit(instance, landing, tmp_path):
    settings = {"location": str(landing), "quiet_seconds": 0, "include_earlier": True}
    sensor = Sensor(instance, tmp_path, "new_data", **settings, max_files_per_run=9_999)
    (first,) = sensor.tick().run_requests or []
    (all_of_them,) = sensor.tick().run_requests or []
    assert len(names_of(first)) == 9_999
    assert names_of(all_of_them) == {path.name for path in landing.iterdir()}
    assert "jukebox/earlier_files_left_out" not in all_of_them.tags
    began = time.monotonic()
    assert "nothing new" in sensor.reason()
    assert time.monotonic() - began < 1

    for name in ("a.csv", "b.csv"):
        (landing / name).write_text(name)
    (over,) = sensor.tick().run_requests or []
    assert len(names_of(over)) == MAX_FILES_IN_RUN
    assert {path.name for path in landing.iterdir()} - names_of(over) == {"00000.csv", "00001.csv"}
    assert over.tags["jukebox/earlier_files_left_out"] == "2"
    for request in (all_of_them, over):
        run = training.execute_in_process(
            run_config=dict(request.run_config), tags=dict(request.tags), instance=instance
        )
        assert run.output_for_node("verify_files") == 10_000


def test_tick_names_number_of_files_left_out(instance, landing, tmp_path, capfd):
    (landing / "more.csv").write_text("more")
    settings = {"location": str(landing), "quiet_seconds": 0, "include_earlier": True}
    sensor = Sensor(instance, tmp_path, "new_data", **settings, max_files_per_run=9_000)
    sensor.tick()
    assert "left out" not in capfd.readouterr().err
    sensor.tick()
    assert (
        "1 earlier file left out of the run, the first that arrived: a run names at most 10,000 files; "
        "merge old files into fewer, or set include_earlier: false"
    ) in capfd.readouterr().err


def test_tick_after_many_large_runs_reads_few_of_them(instance, tmp_path, monkeypatch):
    landing = tmp_path / "landing"
    landing.mkdir()
    sensor = Sensor(instance, tmp_path, "new_data", location=str(landing), quiet_seconds=0)
    sensor.tick()
    files = [{"url": f"/landing/{i:05}.csv", "sha256": f"{i:064x}"} for i in range(10_000)]
    for i in range(25):
        run_config, tags = (
            {"source": {"files": files}},
            {"jukebox/event": "new_data", "jukebox/event_id": f"{i}"},
        )
        instance.add_run(dg.DagsterRun(job_name="training", run_config=run_config, tags=tags))
    read_records, read = instance.get_run_records, []

    def get_run_records(*arguments, **options):
        records = read_records(*arguments, **options)
        read.extend(records)
        return records

    monkeypatch.setattr(instance, "get_run_records", get_run_records)
    (landing / "new.csv").write_text("new")
    assert len(sensor.tick().run_requests or []) == 1
    assert 5 <= len(read) <= 10
