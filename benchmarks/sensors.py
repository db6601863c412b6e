"""Measures sensor ticks over 100,000 files (local and S3), 10,000 tags of a real repository, 1,000 real alerts.

    python -m benchmarks.sensors [--objects 100000] [--tags 10000] [--alerts 1000]

Prints, per source: the first tick (which reads what its time limit allows), the median and the maximum of seven steady
ticks with the median CPU time, the listing without a sensor (walk and stat, botocore's paginator, `git ls-remote`, one
GET) and its ratio to the tick, the number of ticks that list everything once, a tick with a new event, and the
size of the cursor. The goal for a steady tick is one second, for a cursor 64 KiB. Between the first and the steady
ticks everything is read: by ticks, or for S3, where reading 100,000 objects takes many ticks, by writing the state
that those ticks would store.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import botocore.session
import dagster as dg
import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RUNS
from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.sensors import Triggers, build_sensors
from jukebox_orch.sensors.cursor import CursorCodec
from jukebox_orch.sensors.new_data.decision import NewDataState
from jukebox_orch.sensors.new_data.locations import open_location
from jukebox_orch.sensors.new_data.scan import scan
from jukebox_orch_tests.support.git_server import Repository
from jukebox_orch_tests.support.servers import alertmanager, s3_server

STEADY_TICKS = 7
GOAL_SECONDS = 1.0
GOAL_BYTES = 64 * 1024


@dataclass(frozen=True)
class Measured:
    """Ticks of one source; times in seconds (`steady_cpu` is CPU time), the cursor in bytes.

    `plain` is the listing without a sensor, `sweep_ticks` the number of ticks that list everything once.
    """

    source: str
    first: float
    steady: list[float]
    steady_cpu: float
    plain: float
    sweep_ticks: int
    new_event: float
    cursor: int

    @property
    def within_goal(self) -> bool:
        return statistics.median(self.steady) <= GOAL_SECONDS and self.cursor <= GOAL_BYTES


def main(objects: int = 100_000, tags: int = 10_000, alerts: int = 1_000) -> None:
    """Measure all sources and print a table."""
    show(list(measure(objects, tags, alerts)))


def measure(objects: int, tags: int, alerts: int) -> Iterator[Measured]:
    """Yield the measurements of one source after the other."""
    for source in (
        lambda folder: _local(folder, objects),
        lambda folder: _s3(folder, objects),
        lambda folder: _git(folder, tags),
        lambda folder: _alerts(folder, alerts),
    ):
        with tempfile.TemporaryDirectory() as folder:
            yield source(Path(folder))


def show(results: list[Measured]) -> None:
    """Print the table."""
    table = Table(
        "source",
        "first tick",
        "steady tick",
        "plain listing",
        "all listed in",
        "tick with a new event",
        "cursor",
        "goal",
    )
    for result in results:
        table.add_row(
            result.source,
            f"{result.first:.2f} s",
            f"{statistics.median(result.steady):.2f} s (max {max(result.steady):.2f}, CPU {result.steady_cpu:.2f})",
            f"{result.plain:.2f} s ({result.plain / statistics.median(result.steady):.1f} times the tick)",
            f"{result.sweep_ticks} tick{'s' if result.sweep_ticks > 1 else ''}",
            f"{result.new_event:.2f} s",
            f"{result.cursor:,} B",
            "met" if result.within_goal else "MISSED",
        )
    Console().print(table)


def _local(folder: Path, objects: int) -> Measured:
    landing = folder / "landing"
    _write(landing, objects)
    trigger = {
        "location": str(landing),
        "patterns": ["*.csv"],
        "quiet_seconds": 0,
        "max_files_per_run": 10_000,
    }

    def drop() -> None:
        (landing / "day-9999" / "new.csv").parent.mkdir()
        (landing / "day-9999" / "new.csv").write_text("new")

    def plain() -> None:
        folders = [str(landing)]
        while folders:
            with os.scandir(folders.pop()) as found:
                for item in found:
                    if item.is_dir(follow_symlinks=False):
                        folders.append(item.path)
                    else:
                        item.stat(follow_symlinks=False)

    return _ticks(f"{objects:,} local files", folder, {"new_data": trigger}, drop, plain)


def _s3(folder: Path, objects: int) -> Measured:
    _write(folder / "s3" / "landing", objects)
    with s3_server(folder / "s3") as environment, _environment(environment):
        trigger = {
            "location": "s3://landing",
            "patterns": ["*.csv"],
            "quiet_seconds": 0,
            "max_files_per_run": 10_000,
        }

        def drop() -> None:
            (folder / "s3" / "landing" / "day-9999").mkdir()
            (folder / "s3" / "landing" / "day-9999" / "new.csv").write_text("new")

        def settled() -> str:
            location, state = open_location("s3://landing"), NewDataState()
            files: dict[str, list[Any]] = {}
            while len(files) < objects:
                listing = scan(location, state)
                for entry in listing.entries:
                    content = (folder / "s3" / "landing" / entry.path).read_bytes()
                    files[entry.path] = [entry.size, entry.token, hashlib.sha256(content).hexdigest()]
                state = replace(state, sweep=listing.sweep)
            body = {"files": files, "waiting": {}, "gone": [], "markers": {}}
            return CursorCodec("new_data", "s3://landing", _state_path(folder)).encode({"sweep": ""}, body)

        client = botocore.session.get_session().create_client("s3")

        def plain() -> None:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket="landing")
            assert sum(len(page["Contents"]) for page in pages) >= objects

        return _ticks(f"{objects:,} S3 objects", folder, {"new_data": trigger}, drop, plain, settled)


def _git(folder: Path, tags: int) -> Measured:
    repository = Repository(folder / "git")
    repository.add_refs([f"v{i // 100}.{i % 100}.0" for i in range(tags)])
    return _ticks(
        f"{tags:,} git tags",
        folder,
        {"git_tags": {"repository": repository.url}},
        lambda: repository.add_refs([f"v{tags}.0.0"]),
        lambda: subprocess.run(
            ["git", "ls-remote", "--tags", repository.url], check=True, stdout=subprocess.PIPE
        ),
    )


def _alerts(folder: Path, alerts: int) -> Measured:
    with alertmanager(folder) as running:
        for start in range(0, alerts, 100):
            running.fire(
                *({"model": "m", "instance": str(i)} for i in range(start, min(alerts, start + 100)))
            )
        trigger = {
            "url": running.url,
            "matchers": ['model="m"'],
            "cooldown_seconds": 0,
            "max_runs_per_tick": 100,
        }
        return _ticks(
            f"{alerts:,} active alerts",
            folder,
            {"model_alerts": trigger},
            lambda: running.fire({"model": "m", "instance": "new"}),
            lambda: httpx.get(f"{running.url}/api/v2/alerts", params={"filter": 'model="m"'}).json(),
        )


def _ticks(
    source: str,
    folder: Path,
    triggers: dict[str, Any],
    new_event: Callable[[], object],
    plain: Callable[[], object],
    settled: Callable[[], str] | None = None,
) -> Measured:
    (kind,) = triggers
    sensors = build_sensors(
        "bench",
        _job,
        Triggers.model_validate(triggers),
        deployed=lambda: DeployedCode(None, None),
        state_root=str(folder / "sensors"),
    )
    (sensor,) = [sensor for sensor in sensors if sensor.name == f"bench_{kind}"]
    home = folder / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        cursor: str | None = None
        times: list[float] = []
        cpu: list[float] = []
        requests: list[int] = []

        def tick() -> None:
            nonlocal cursor
            began, cpu_began = time.perf_counter(), time.process_time()
            with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
                result = sensor(context)
            times.append(time.perf_counter() - began)
            cpu.append(time.process_time() - cpu_began)
            assert isinstance(result, dg.SensorResult)
            requests.append(len(result.run_requests or []))
            cursor = result.cursor

        tick()
        if settled:
            cursor = settled()
        else:
            while requests[-1]:
                tick()
        until_steady, sweeps = len(times), []
        for _ in range(STEADY_TICKS):
            tick()
            sweeps.append(json.loads(cursor or "{}")["head"].get("sweep", ""))
        steady, steady_cpu = times[until_steady:], statistics.median(cpu[until_steady:])
        while "" not in sweeps:
            tick()
            sweeps.append(json.loads(cursor or "{}")["head"]["sweep"])
        new_event()
        tick()
        assert requests[-1], f"{source}: the new event requested no run"
        return Measured(
            source,
            first=times[0],
            steady=steady,
            steady_cpu=steady_cpu,
            plain=statistics.median(_seconds(plain) for _ in range(RUNS)),
            sweep_ticks=sweeps.index("") + 1,
            new_event=times[-1],
            cursor=len((cursor or "").encode()),
        )


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _state_path(folder: Path) -> str:
    return str(folder / "sensors" / "bench" / "new_data")


def _write(folder: Path, objects: int) -> None:
    """Write small files with distinct contents, 1,000 in a folder."""
    for i in range(objects):
        path = folder / f"day-{i // 1_000:04}" / f"part-{i % 1_000:04}.csv"
        if i % 1_000 == 0:
            path.parent.mkdir(parents=True)
        path.write_text(f"{i}\n")


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@dg.op
def _nothing() -> None:
    """Never runs: the benchmark evaluates run requests and starts no run."""


@dg.job
def _job() -> None:
    _nothing()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--tags", type=int, default=10_000)
    parser.add_argument("--alerts", type=int, default=1_000)
    main(**vars(parser.parse_args()))
