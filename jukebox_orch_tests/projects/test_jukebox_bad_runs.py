"""Bad songs and rankings through the whole job: it stops and says why, registers nothing and touches no source."""

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
    "month first": (
        lambda songs, ranks: (
            songs,
            ranks.assign(snapshot_date=ranks["snapshot_date"].dt.strftime("%m/%d/%Y")),
        ),
        "song_rankings.csv: column snapshot_date: ",
    ),
    "no countries": (lambda songs, ranks: (songs, ranks.assign(country=None)), "country"),
    "unknown countries": (lambda songs, ranks: (songs, ranks.assign(country="XX")), "'XX'"),
    "songs of zero length": (lambda songs, ranks: (songs.assign(duration_ms=0), ranks), "duration_ms"),
    "songs beyond any number": (lambda songs, ranks: (songs.assign(tempo=1e308), ranks), "tempo"),
    "no rows": (
        lambda songs, ranks: (songs, ranks.head(0)),
        "song_rankings.csv: the file has columns but no rows",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_stops_the_whole_job_and_leaves_the_source_as_it_is(
    case: str, deployment: Deployment, tmp_path: Path
):
    make, message = BAD[case]
    folder = csv_folder(_folder(tmp_path), *make(*tables()))
    _stops(deployment, folder, message)


@pytest.mark.parametrize(("share", "message"), [(0.0, "song_rankings.parquet: "), (0.5, "it may be cut off")])
def test_a_cut_off_file_stops_the_whole_job(
    share: float, message: str, deployment: Deployment, tmp_path: Path
):
    folder = parquet_folder(_folder(tmp_path), *tables())
    file = folder / "song_rankings.parquet"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    _stops(deployment, folder, message)


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def _stops(place: Deployment, folder: Path, message: str) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    result = place.run(project=Jukebox(), source={"location": str(folder)})
    assert not result.success
    said = failures(result) + "".join(f"{e.description} {e.metadata}" for e in checks(result).values())
    assert message in said
    assert "trained_model" not in made(result)
    assert not [e for e in result.all_events if e.is_step_up_for_retry]
    assert place.versions("jukebox") == []
    assert not Path(place.models).exists()
    incoming = Path(place.artifacts, ".incoming")
    assert not incoming.exists() or not list(incoming.iterdir())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
