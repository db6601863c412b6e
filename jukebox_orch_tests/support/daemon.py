"""Starts the real `dagster-daemon run`, and can kill it at a point of a sensor's tick.

As a program, this module is a `dagster-daemon` that kills itself with SIGKILL once, at the point named in the file
ARMED. For this it wraps, only in its own process, the public methods of `DagsterInstance` and `DefaultRunLauncher` that
the daemon calls at these points.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from jukebox_orch_tests.support.servers import running, stop
from jukebox_orch_tests.support.waiting import free_port, listens, wait_until

POINTS = (
    "before requests",
    "run ids reserved",
    "run created",
    "run submitted",
    "run launched",
    "cursor not saved",
    "cursor saved",
)
DAGSTER_YAML = """\
telemetry: {enabled: false}
sensors: {use_threads: true, num_workers: 3}
run_queue: {dequeue_interval_seconds: 1, max_concurrent_runs: 2}
"""


class DaemonDeployment:
    """A Dagster instance in a folder, with a code location whose settings are files in the same folder."""

    def __init__(
        self,
        folder: Path,
        module: str = "jukebox_orch_tests.support.daemon_location",
        **environment: str,
    ):
        self.folder = folder
        self._module = module
        self._location = ["-m", module]
        (folder / "home").mkdir(parents=True, exist_ok=True)
        (folder / "home" / "dagster.yaml").write_text(DAGSTER_YAML)
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(folder / "home"),
            "SENSOR_TEST_FOLDER": str(folder),
            **environment,
        }
        # Create the databases now: daemon and test would otherwise create them at the same time.
        self.instance = dg.DagsterInstance.from_config(str(folder / "home"))
        self.instance.get_runs_count()
        self.instance.all_instigator_state()
        self.instance.get_latest_materialization_event(dg.AssetKey("none"))

    def configure(self, **triggers: Any) -> None:
        (self.folder / "projects.yaml").write_text(yaml.safe_dump({"toy": {"triggers": triggers}}))

    def die_at(self, point: str) -> None:
        """Make the running daemon, started with `mortal`, kill itself at that point."""
        (self.folder / "armed").write_text(point)

    @contextmanager
    def code_server(self) -> Iterator[None]:
        """Serve the code location to every daemon from one process, which survives killed daemons."""
        port = free_port()
        command = [sys.executable, "-m", "dagster", "api", "grpc", "-m", self._module, "-p", str(port)]
        with running(command, self.folder / "code_server.log", self.environment):
            wait_until(lambda: listens(port), 60, "the code server to listen", every=0.3)
            workspace = self.folder / "workspace.yaml"
            workspace.write_text(f"load_from: [grpc_server: {{host: localhost, port: {port}}}]\n")
            self._location = ["-w", str(workspace)]
            yield

    @contextmanager
    def daemon(self, mortal: bool = False) -> Iterator[subprocess.Popen]:
        """Run the daemon. At the end, stop it and everything that it started."""
        program = (
            [sys.executable, "-m", __name__] if mortal else [Path(sys.executable).parent / "dagster-daemon"]
        )
        with (self.folder / "daemon.log").open("ab") as log:
            process = subprocess.Popen(
                [*map(str, program), "run", *self._location],
                env={**self.environment, "ARMED": str(self.folder / "armed")},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            stop(process, 30)
            _kill_group(process.pid)

    def runs(self) -> list[dg.DagsterRun]:
        """Return all runs, oldest first."""
        return [record.dagster_run for record in self.instance.get_run_records(ascending=True)]

    def finished(self, count: int) -> bool:
        """Return whether at least that many runs exist and all are finished."""
        runs = self.runs()
        return len(runs) >= count and all(run.is_finished for run in runs)

    def skip_reasons(self, sensor: str) -> list[str]:
        """Return the skip reasons of a sensor's ticks, newest first."""
        return [tick.skip_reason or "" for tick in self.ticks(sensor)]

    def ticks(self, sensor: str) -> list[Any]:
        """Return the latest ticks of a sensor, newest first."""
        states = [s for s in self.instance.all_instigator_state() if s.instigator_name == sensor]
        return [
            tick
            for state in states
            for tick in self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=50)
        ]

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")[-8_000:]

    def wait(self, condition: Callable[[], bool], seconds: float = 90) -> None:
        wait_until(condition, seconds, lambda: f"the daemon; its log:\n{self.log()}", every=0.3)


def _kill_group(group: int) -> None:
    """Kill the code server and the runs, which survive a killed daemon."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _make_mortal(armed: Path) -> None:
    def at(point: str, applies: Callable[..., bool] = lambda *_: True) -> Callable[..., None]:
        def die(*arguments: Any) -> None:
            if armed.exists() and armed.read_text() == point and applies(*arguments):
                armed.unlink()
                print(f"dies at: {point}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

        return die

    def nothing(*arguments: Any) -> None:
        """Do nothing before or after the call."""

    def wrap(
        owner: type, name: str, before: Callable[..., None] = nothing, after: Callable[..., None] = nothing
    ) -> None:
        original = getattr(owner, name)

        def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
            before(self, *arguments)
            result = original(self, *arguments, **named)
            after(self, *arguments)
            return result

        setattr(owner, name, wrapped)

    def reserves(instance: Any, tick: Any) -> bool:
        return bool(tick.reserved_run_ids_with_requests) and not tick.run_ids

    def has_started_runs(instance: Any, state: Any) -> bool:
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        return bool(ticks and ticks[0].run_ids)

    instance = dg.DagsterInstance
    wrap(instance, "update_tick", at("before requests", reserves), at("run ids reserved", reserves))
    wrap(instance, "create_run", after=at("run created"))
    wrap(instance, "submit_run", after=at("run submitted"))
    wrap(dg.DefaultRunLauncher, "launch_run", after=at("run launched"))
    wrap(
        instance,
        "update_instigator_state",
        at("cursor not saved", has_started_runs),
        at("cursor saved", has_started_runs),
    )


if __name__ == "__main__":
    _make_mortal(Path(os.environ["ARMED"]))
    (daemon,) = entry_points(group="console_scripts", name="dagster-daemon")
    sys.argv[0] = "dagster-daemon"
    daemon.load()()
