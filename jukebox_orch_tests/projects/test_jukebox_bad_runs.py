"""Runs on bad songs and rankings stop with a reason, register nothing and do not change the source."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from jukebox_orch.projects.jukebox import Jukebox
from jukebox_orch_tests.support.deployment import Deployment, checks, failures, made
from jukebox_orch_tests.support.jukebox_files import csv_folder, parquet_folder, tables

Tables = tuple[pd.DataFrame, pd.DataFrame]
BAD: dict[str, tuple[Callable[[pd.DataFrame, pd.DataFrame], Tables], str]] = {
    "wrong columns": (
        lambda songs, ranks: (songs.drop(columns="tempo"), ranks),
        "song_properties.csv: column tempo is missing",
    ),
    "ambiguous dates": (
        lambda songs, ranks: (songs, ranks.assign(snapshot_date="2/12/2025")),
        "song_rankings.csv: column snapshot_date: '2/12/2025' in row 0 can be read day first and month first",
    ),
    "no countries": (lambda songs, ranks: (songs, ranks.assign(country=None)), "country"),
    "unknown countries": (lambda songs, ranks: (songs, ranks.assign(country="XX")), "'XX'"),
    "songs of zero length": (lambda songs, ranks: (songs.assign(duration_ms=0), ranks), "duration_ms"),
    "songs with extreme tempo": (lambda songs, ranks: (songs.assign(tempo=1e308), ranks), "tempo"),
    "no rows": (
        lambda songs, ranks: (songs, ranks.head(0)),
        "song_rankings.csv: the file has columns but no rows",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_stops_run_and_keeps_source(case: str, deployment: Deployment, tmp_path: Path):
    make, message = BAD[case]
    folder = csv_folder(_folder(tmp_path), *make(*tables()))
    assert_run_stops(deployment, folder, message)


@pytest.mark.parametrize(
    ("share", "message"), [(0.0, "song_rankings.parquet: "), (0.5, "it may be truncated")]
)
def test_truncated_file_stops_run(share: float, message: str, deployment: Deployment, tmp_path: Path):
    folder = parquet_folder(_folder(tmp_path), *tables())
    file = folder / "song_rankings.parquet"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    assert_run_stops(deployment, folder, message)


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def assert_run_stops(deployment: Deployment, folder: Path, message: str) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    result = deployment.run(project=Jukebox(), source={"location": str(folder)})
    assert not result.success
    messages = failures(result) + "".join(f"{e.description} {e.metadata}" for e in checks(result).values())
    assert message in messages
    assert "trained_model" not in made(result)
    assert not [e for e in result.all_events if e.is_step_up_for_retry]
    assert deployment.versions("jukebox") == []
    assert not Path(deployment.models).exists()
    incoming = Path(deployment.artifacts, ".incoming")
    assert not incoming.exists() or not list(incoming.iterdir())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
