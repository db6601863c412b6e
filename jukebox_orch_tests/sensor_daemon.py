"""Starts the real `dagster-daemon run`, which can be told to die at a point of a sensor's tick.

Run as a program it is `dagster-daemon` with SIGKILL at the point in DIE_AT: the public methods of
`DagsterInstance` and `DefaultRunLauncher` that the daemon calls then are wrapped, in its own process only.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

POINTS = ("before requests", "run ids reserved", "run created", "run submitted", "run launched")
DAGSTER_YAML = "telemetry: {enabled: false}\nsensors: {use_threads: true, num_workers: 3}\n"


class Deployment:
    """A Dagster instance in a folder, with a code location whose settings are files in the same folder."""

    def __init__(
        self, folder: Path, module: str = "jukebox_orch_tests.sensor_deployment", **environment: str
    ):
        self.folder = folder
        self._module = module
        (folder / "home").mkdir(parents=True, exist_ok=True)
        (folder / "home" / "dagster.yaml").write_text(DAGSTER_YAML)
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(folder / "home"),
            "SENSOR_TEST_FOLDER": str(folder),
            **environment,
        }
        with self.instance() as instance:  # creates the databases before daemon and test do so at once
            instance.get_runs_count()
            instance.all_instigator_state()
            instance.get_latest_materialization_event(dg.AssetKey("none"))

    def configure(self, **triggers: Any) -> None:
        (self.folder / "triggers.yaml").write_text(yaml.safe_dump({"toy": triggers}))

    @contextmanager
    def daemon(self, die_at: str | None = None) -> Iterator[subprocess.Popen]:
        """Run the daemon; at the end it and everything it started is gone."""
        program = (
            [sys.executable, "-m", __name__] if die_at else [Path(sys.executable).parent / "dagster-daemon"]
        )
        with (self.folder / "daemon.log").open("ab") as log:
            process = subprocess.Popen(
                [*map(str, program), "run", "-m", self._module],
                env={**self.environment, "DIE_AT": die_at or ""},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _kill_group(process.pid)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
            yield instance

    def runs(self) -> list[dg.DagsterRun]:
        """Return all runs, oldest first."""
        with self.instance() as instance:
            return [record.dagster_run for record in instance.get_run_records(ascending=True)]

    def finished(self, count: int) -> bool:
        """Tell whether that many runs are there and all are over."""
        runs = self.runs()
        return len(runs) >= count and all(run.is_finished for run in runs)

    def skip_reasons(self, sensor: str) -> list[str]:
        """Return the skip reasons of a sensor's ticks, newest first."""
        return [tick.skip_reason or "" for tick in self.ticks(sensor)]

    def ticks(self, sensor: str) -> list[Any]:
        with self.instance() as instance:
            states = [s for s in instance.all_instigator_state() if s.instigator_name == sensor]
            return [
                tick
                for state in states
                for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=50)
            ]

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")[-8_000:]

    def wait(self, condition: Callable[[], bool], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s; the daemon said:\n{self.log()}")
            time.sleep(0.3)


def _kill_group(group: int) -> None:
    """End the code server and the runs, which outlive a killed daemon."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _die_at(point: str) -> None:
    def die() -> None:
        print(f"dies at: {point}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def wrap(
        owner: type,
        name: str,
        before: Callable[..., bool] | None = None,
        after: Callable[..., bool] | None = None,
    ) -> None:
        original = getattr(owner, name)

        def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
            if before and before(*arguments):
                die()
            result = original(self, *arguments, **named)
            if after and after(*arguments):
                die()
            return result

        setattr(owner, name, wrapped)

    def reserves(tick: Any) -> bool:
        return bool(tick.reserved_run_ids_with_requests) and not tick.run_ids

    def always(*arguments: Any) -> bool:
        return True

    if point == "before requests":
        wrap(dg.DagsterInstance, "update_tick", before=reserves)
    elif point == "run ids reserved":
        wrap(dg.DagsterInstance, "update_tick", after=reserves)
    elif point == "run created":
        wrap(dg.DagsterInstance, "create_run", after=always)
    elif point == "run submitted":
        wrap(dg.DagsterInstance, "submit_run", after=always)
    elif point == "run launched":
        wrap(dg.DefaultRunLauncher, "launch_run", after=always)
    else:
        raise ValueError(f"DIE_AT={point!r}: must be one of {POINTS}")


if __name__ == "__main__":
    _die_at(os.environ["DIE_AT"])
    (daemon,) = entry_points(group="console_scripts", name="dagster-daemon")
    sys.argv[0] = "dagster-daemon"
    daemon.load()()
