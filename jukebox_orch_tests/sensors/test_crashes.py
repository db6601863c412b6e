"""The daemon is killed during a tick, at every point of it: each event still has exactly one run."""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from jukebox_orch_tests.support.daemon import POINTS, DaemonDeployment
from jukebox_orch_tests.support.git_server import Repository

pytestmark = pytest.mark.crash


@pytest.mark.timeout(400)
def test_daemon_killed_anywhere_starts_one_run_per_event(tmp_path):
    check_one_run_per_event(tmp_path, POINTS)


@pytest.mark.slow
@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("point", POINTS)
def test_daemon_killed_repeatedly_starts_one_run_per_event(tmp_path, point):
    check_one_run_per_event(tmp_path, [point] * 10)


def check_one_run_per_event(folder: Path, points) -> None:
    """Alternately write a file and push a tag; kill the daemon in the tick that finds it, and start it again.

    The tick that finds the next event also lists all earlier ones, and must not start runs for them again.
    """
    landing, repository = folder / "landing", Repository(folder / "git")
    landing.mkdir()
    repository.tag("v0.0.0")
    deployment = DaemonDeployment(folder)
    deployment.configure(
        new_data={"location": str(landing), "quiet_seconds": 0, "interval_seconds": 1},
        git_tags={"repository": repository.url, "interval_seconds": 1},
    )
    events: list[str] = []
    with (
        deployment.code_server(),
        ExitStack() as daemons,
    ):  # the runs of a killed daemon continue to their end
        daemon = daemons.enter_context(deployment.daemon(mortal=True))
        deployment.wait(
            lambda: "1 tag recorded without one" in "".join(deployment.skip_reasons("toy_git_tags"))
        )
        for number, point in enumerate(points):
            deployment.die_at(point)
            if number % 2:
                events.append(f"v1.{number}.0")
                repository.tag(events[-1])
            else:
                events.append(f"{number}.csv")
                (landing / f".{number}").write_text(str(number))
                (landing / f".{number}").rename(landing / events[-1])
            deployment.wait(lambda dying=daemon: dying.poll() is not None)
            assert daemon.returncode == -9, deployment.log()
            daemon = daemons.enter_context(deployment.daemon(mortal=True))
            deployment.wait(lambda: deployment.finished(len(events)))
        wait_for_two_ticks(deployment)
    runs = deployment.runs()
    assert {run.status.value for run in runs} == {"SUCCESS"}
    assert [event_of(run) for run in runs] == events


def wait_for_two_ticks(deployment: DaemonDeployment) -> None:
    began = time.time()
    for sensor in ("toy_new_data", "toy_git_tags"):
        deployment.wait(
            lambda name=sensor: sum(tick.timestamp > began for tick in deployment.ticks(name)) > 1
        )


def event_of(run) -> str:
    files = run.run_config.get("source", {}).get("files", [])
    return run.tags.get("git/tag") or ",".join(Path(file["url"]).name for file in files)
