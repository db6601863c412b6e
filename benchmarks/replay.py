"""Writes real days to a landing folder, in order, while the real daemon runs.

    python -m benchmarks.replay DATA [--out docs/images] [--first-days 3]

DATA is a folder with song_properties.parquet and song_rankings.parquet. The songs and the first days arrive
together; then one day at a time. The new-data sensor starts one run per arrival; its gates compare with the floor
and with the champion on the new day. The result is a table and a plot of the accuracy on each new day: of the model
retrained on the days before it, of the champion until then, and of the first model that passed, never retrained.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table

from jukebox_orch import deployment
from jukebox_orch.ml.artifacts import LoadedVersion
from jukebox_orch.ml.evaluation import score_champion
from jukebox_orch.projects.jukebox import Jukebox, JukeboxSource, JukeboxSplit
from jukebox_orch.registry.versions import current_champion

PROJECT, MODEL = "jukebox", "jukebox"
SEED = 42
RUN_SECONDS = 900


@dataclass(frozen=True)
class Day:
    """Results of one day; accuracies are on that day's rankings."""

    day: str
    run_id: str
    status: str
    retrained: float
    served: float | None
    trained_once: float | None
    champion: str


def main() -> None:
    """Replay, print the table, save table and plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the real data")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/images"), help="folder for replay.csv and replay.png"
    )
    parser.add_argument(
        "--first-days", type=int, default=3, help="days that arrive together at the start (>= 3)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        days = replay(options.data, Path(home), options.first_days)
    options.out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([vars(day) for day in days]).drop(columns="run_id")
    table.to_csv(options.out / "replay.csv", index=False, float_format="%.4f")
    plot(days, options.out / "replay.png")
    show(days)


def replay(data: Path, home: Path, first_days: int) -> list[Day]:
    """Write the days one after the other; the daemon runs until the last run is finished."""
    landing = home / "landing"
    landing.mkdir()
    settings = {
        "location": str(landing),
        "patterns": ["*.parquet"],
        "quiet_seconds": 0,
        "include_earlier": True,
        "interval_seconds": 1,
    }
    (home / "projects.yaml").write_text(yaml.safe_dump({PROJECT: {"triggers": {"new_data": settings}}}))
    (home / "dagster.yaml").write_text(Path("dagster.yaml").read_text())
    os.environ |= {"DAGSTER_HOME": str(home), "JUKEBOX_ORCH_PROJECTS": str(home / "projects.yaml")}
    rankings = pd.read_parquet(data / "song_rankings.parquet")
    dates = pd.to_datetime(rankings["snapshot_date"]).dt.strftime("%Y-%m-%d")
    calendar = sorted(dates.unique())
    resources = deployment.resources()
    mlflow, store = resources["mlflow"], resources["model_store"]
    played: list[Day] = []
    with dg.DagsterInstance.from_config(str(home)) as instance, _daemon(home):
        instance.get_runs_count()
        once: LoadedVersion | None = None
        for last in range(first_days - 1, len(calendar)):
            served = current_champion(mlflow, store, MODEL) if once else None
            arriving = [calendar[last]] if played else calendar[: last + 1]
            folder = home / ".arriving"
            folder.mkdir()
            if not played:
                (folder / "song_properties.parquet").write_bytes(
                    (data / "song_properties.parquet").read_bytes()
                )
            for date in arriving:
                rankings[dates == date].to_parquet(folder / f"rankings-{date}.parquet", index=False)
            folder.rename(landing / f"arrival-{calendar[last]}")
            run = _wait_for_run(instance, len(played) + 1)
            champion = current_champion(mlflow, store, MODEL)
            once = once or champion
            played.append(
                Day(
                    day=calendar[last],
                    run_id=run.run_id,
                    status=run.status.value,
                    retrained=_test_accuracy(instance, run.run_id),
                    served=_accuracy(served, landing) if served else None,
                    trained_once=_accuracy(once, landing) if once else None,
                    champion=champion.version if champion else "",
                )
            )
            print(played[-1], flush=True)
        # Nothing has arrived since: after a few more ticks there must still be one run per arrival.
        time.sleep(15)
        runs = instance.get_runs_count()
        if runs != len(played):
            raise RuntimeError(f"{len(played)} arrivals started {runs} runs")
    return played


def show(days: list[Day]) -> None:
    """Print the table."""
    table = Table(
        "new day", "run", "retrained daily", "champion until then", "trained once", "champion after"
    )
    for day in days:
        scores = [day.retrained, day.served, day.trained_once]
        shown = ["-" if score is None else f"{score:.3f}" for score in scores]
        table.add_row(day.day, day.status, *shown, f"version {day.champion}" if day.champion else "none")
    Console().print(table)


def plot(days: list[Day], path: Path) -> None:
    """Plot the accuracy per day: retrained daily and trained once."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    labels = [day.day for day in days]
    axes.plot(labels, [day.retrained for day in days], "o-", label="retrained daily")
    since = [(day.day, day.trained_once) for day in days if day.trained_once is not None]
    axes.plot([day for day, _ in since], [score for _, score in since], "s--", label="trained once")
    axes.set_xlabel("new day")
    axes.set_ylabel("accuracy on that day's charts")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=144)


@contextmanager
def _daemon(home: Path) -> Iterator[None]:
    command = [Path(sys.executable).parent / "dagster-daemon", "run", "-m", "jukebox_orch.definitions"]
    with (home / "daemon.log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def _wait_for_run(instance: dg.DagsterInstance, number: int) -> dg.DagsterRun:
    """Wait until the run with this number, counted from 1, is finished, and return it."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        runs = [record.dagster_run for record in instance.get_run_records(ascending=True)]
        if len(runs) >= number and runs[number - 1].is_finished:
            return runs[number - 1]
        time.sleep(1)
    raise TimeoutError(f"run {number} was not finished after {RUN_SECONDS} s")


def _test_accuracy(instance: dg.DagsterInstance, run_id: str) -> float:
    """Return the accuracy of the run's model on the last day, which is its test split."""
    key = dg.AssetKey([PROJECT, "evaluation"])
    for record in instance.fetch_materializations(key, limit=10).records:
        if record.run_id == run_id and record.asset_materialization:
            return float(record.asset_materialization.metadata["test accuracy"].value)  # pyright: ignore[reportArgumentType]
    raise RuntimeError(f"run {run_id} evaluated no model: see its events in the UI of this DAGSTER_HOME")


def _accuracy(version: LoadedVersion, landing: Path) -> float:
    """Return the accuracy of a registered model on the last day in the landing folder."""
    project = Jukebox()
    files = [{"url": str(path)} for path in sorted(landing.rglob("*.parquet"))]
    dataset = project.load(JukeboxSource.model_validate({"files": files}))
    features = project.build_features(dataset, JukeboxSplit(), SEED)
    scores, problem = score_champion(project, features, version)
    if scores is None:
        raise RuntimeError(problem)
    return scores.metrics["accuracy"]


if __name__ == "__main__":
    main()
