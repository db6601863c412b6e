"""Sensor ticks over 100,000 files (local and S3), 10,000 tags of a real repository, 1,000 real alerts.

    python -m benchmarks.sensors [--objects 100000] [--tags 10000] [--alerts 1000]

Prints, per source: the first tick, the ticks until all is seen, the median and the worst of seven steady ticks,
and the size of the cursor. The goal for a steady tick is one second, for a cursor 64 KiB.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console
from rich.table import Table

from jukebox_orch.sensors import DeployedCode, Triggers, build_sensors
from jukebox_orch_tests.sensor_servers import Repository, alertmanager, s3_server

STEADY_TICKS = 7
GOAL_SECONDS = 1.0
GOAL_BYTES = 64 * 1024


@dataclass(frozen=True)
class Measured:
    """Ticks of one source; times in seconds, the cursor in bytes."""

    source: str
    first: float
    until_steady: int
    steady: list[float]
    new_event: float
    cursor: int

    @property
    def within_goal(self) -> bool:
        return statistics.median(self.steady) <= GOAL_SECONDS and self.cursor <= GOAL_BYTES


def main() -> None:
    """Measure all sources and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--tags", type=int, default=10_000)
    parser.add_argument("--alerts", type=int, default=1_000)
    options = parser.parse_args()
    show(list(measure(options.objects, options.tags, options.alerts)))


def measure(objects: int, tags: int, alerts: int) -> Iterator[Measured]:
    """Measure one source after the other."""
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
        "ticks until all is seen",
        "steady tick",
        "tick with a new event",
        "cursor",
        "goal",
    )
    for result in results:
        table.add_row(
            result.source,
            f"{result.first:.2f} s",
            f"{result.until_steady:,}",
            f"{statistics.median(result.steady):.2f} s (worst {max(result.steady):.2f})",
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

    return _ticks(f"{objects:,} local files", folder, {"new_data": trigger}, drop)


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

        return _ticks(f"{objects:,} S3 objects", folder, {"new_data": trigger}, drop)


def _git(folder: Path, tags: int) -> Measured:
    repository = Repository(folder / "git")
    repository.add_refs([f"v{i // 100}.{i % 100}.0" for i in range(tags)])
    return _ticks(
        f"{tags:,} git tags",
        folder,
        {"git_tags": {"repository": repository.url}},
        lambda: repository.add_refs([f"v{tags}.0.0"]),
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
        )


def _ticks(source: str, folder: Path, triggers: dict[str, Any], new_event: Callable[[], object]) -> Measured:
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
        requests: list[int] = []

        def tick() -> None:
            nonlocal cursor
            began = time.perf_counter()
            with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
                result = sensor(context)
            times.append(time.perf_counter() - began)
            assert isinstance(result, dg.SensorResult)
            requests.append(len(result.run_requests or []))
            cursor = result.cursor

        tick()
        while _is_unsettled(source, requests, times):
            tick()
        until_steady = len(times)
        for _ in range(STEADY_TICKS):
            tick()
        steady = times[until_steady:]
        new_event()
        tick()
        assert requests[-1] == 1, f"{source}: the new event asked for {requests[-1]} runs"
        return Measured(source, times[0], until_steady, steady, times[-1], len((cursor or "").encode()))


def _is_unsettled(source: str, requests: list[int], times: list[float]) -> bool:
    """Go on until a whole sweep of the source asks for nothing."""
    quiet = 30 if "S3" in source else 1
    if len(times) > 1_000:
        raise RuntimeError(f"{source}: still not steady after 1,000 ticks")
    return any(requests[-quiet:]) or len(requests) < quiet


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
    """Never runs: the benchmark asks for runs and starts none."""


@dg.job
def _job() -> None:
    _nothing()


if __name__ == "__main__":
    main()
