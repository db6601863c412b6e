"""Entries of a landing location that the process may not read are named, and the rest starts its run."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from fsspec.implementations.local import LocalFileSystem

from jukebox_orch.sensors.new_data.decision import NewDataState
from jukebox_orch.sensors.new_data.locations import RemoteFolder
from jukebox_orch.sensors.new_data.scan import scan
from jukebox_orch.sensors.trigger_types import SourceUnavailableError
from jukebox_orch_tests.support.sensor import Sensor

NOBODY = 65534


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Give up root's right to read everything; files of the test then belong to another user."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def landing() -> Iterator[Path]:
    """Yield a folder that other users can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        landing = Path(folder) / "landing"
        landing.mkdir()
        yield landing
        landing.chmod(0o755)
        for path in landing.iterdir():
            path.chmod(0o700)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def fill_with_unreadable_entries(landing: Path) -> None:
    (landing / "lost+found").mkdir()
    (landing / "lost+found" / "a.csv").write_text("a")
    (landing / "names only").mkdir()
    (landing / "names only" / "b.csv").write_text("b")
    (landing / "closed.csv").write_text("c")
    (landing / "day").mkdir()
    (landing / "day" / "good.csv").write_text("good")
    (landing / "lost+found").chmod(0o000)
    (landing / "names only").chmod(0o444)
    (landing / "closed.csv").chmod(0o000)


def test_unreadable_entries_are_named_and_the_rest_starts(landing, instance):
    sensor = Sensor(instance, landing.parent, "new_data", location=str(landing), quiet_seconds=0)
    sensor.tick()  # loads the libraries, which may be in root's home
    fill_with_unreadable_entries(landing)
    with as_ordinary_user():
        (request,) = sensor.tick().run_requests or []
        reason = sensor.reason()
    (started,) = request.run_config["source"]["files"]
    assert started["url"] == f"{landing}/day/good.csv"
    assert "not read (Permission denied): 'lost+found/', 'names only/b.csv'" in reason
    assert "not read (Permission denied): 'closed.csv'" in reason


def test_folder_that_becomes_readable_starts_its_new_files_once(landing, instance):
    sensor = Sensor(instance, landing.parent, "new_data", location=str(landing), quiet_seconds=0)
    (landing / "day").mkdir()
    (landing / "day" / "old.csv").write_text("old")
    assert len(sensor.tick().run_requests or []) == 1
    (landing / "day").chmod(0o000)
    with as_ordinary_user():
        assert "not read (Permission denied): 'day/'" in sensor.reason()
    (landing / "day").chmod(0o755)
    (landing / "day" / "new.csv").write_text("new")
    with as_ordinary_user():
        (request,) = sensor.tick().run_requests or []
    assert [file["url"] for file in request.run_config["source"]["files"]] == [f"{landing}/day/new.csv"]


def test_unreadable_manifest_is_named_and_other_folders_start(landing, instance):
    sensor = Sensor(instance, landing.parent, "new_data", location=str(landing), complete_when="manifest")
    sensor.tick()
    for name in ("closed", "open"):
        (landing / name).mkdir()
        (landing / name / "a.csv").write_text(name)
        line = f"{hashlib.sha256(name.encode()).hexdigest()}  a.csv\n"
        (landing / name / "SHA256SUMS").write_text(line)
    (landing / "closed" / "SHA256SUMS").chmod(0o000)
    with as_ordinary_user():
        (request,) = sensor.tick().run_requests or []
        reason = sensor.reason()
    assert [file["url"] for file in request.run_config["source"]["files"]] == [f"{landing}/open/a.csv"]
    assert "1 file not complete yet: 'closed/a.csv'" in reason
    assert "not read (Permission denied): 'closed/SHA256SUMS'" in reason


def test_unreadable_folder_of_other_file_system_is_named(landing):
    location = RemoteFolder(LocalFileSystem(), str(landing))
    fill_with_unreadable_entries(landing)
    with as_ordinary_user():
        listing = scan(location, NewDataState())
    assert sorted(entry.path for entry in listing.entries) == ["closed.csv", "day/good.csv"]
    assert listing.unreadable == {"lost+found/": "Permission denied", "names only/": "Permission denied"}


@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["closed", "names only"])
def test_location_itself_must_be_readable(landing, mode):
    location = RemoteFolder(LocalFileSystem(), str(landing))
    (landing / "a.csv").write_text("a")
    assert len(scan(location, NewDataState()).entries) == 1
    landing.chmod(mode)
    with as_ordinary_user(), pytest.raises(SourceUnavailableError, match="cannot be listed"):
        scan(location, NewDataState())


def test_missing_location_of_other_file_system_is_reported(landing):
    with pytest.raises(SourceUnavailableError, match="nowhere/ cannot be listed: No such file"):
        scan(RemoteFolder(LocalFileSystem(), f"{landing}/nowhere"), NewDataState())
