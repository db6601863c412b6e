"""Reading songs and rankings: all published formats, from all kinds of locations."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from jukebox_orch.contract import InputError, SourceFile
from jukebox_orch.ml.artifact_formats import format_of
from jukebox_orch.ml.artifacts import SourcedDataset
from jukebox_orch.projects.jukebox import sample
from jukebox_orch.projects.jukebox.schema import FEATURES, RANKING_COLUMNS
from jukebox_orch_tests.support.jukebox_files import (
    assert_same,
    combined,
    csv_folder,
    frame,
    load,
    parquet_folder,
    tables,
)
from jukebox_orch_tests.support.parts import real_data


@pytest.fixture(scope="module")
def made() -> tuple[pd.DataFrame, pd.DataFrame]:
    return tables()


@pytest.fixture
def folder(tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> Path:
    return parquet_folder(tmp_path, *made)


def test_empty_location_gives_same_embedded_sample() -> None:
    assert_same(load(), load())
    assert "Synthetic" in frame(load(), "songs")["name"].iloc[0]


def test_sample_written_to_files_is_read_back(folder: Path) -> None:
    dataset = sample.generate()
    for table in dataset:
        frame(dataset, table).to_parquet(
            folder / f"song_{'properties' if table == 'songs' else table}.parquet"
        )
    assert_same(load(folder), dataset)


def test_values_are_read_unchanged(folder: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    songs, rankings = made
    dataset = load(folder)
    assert_frame_equal(frame(dataset, "songs")[songs.columns], songs)
    read = frame(dataset, "rankings")[list(RANKING_COLUMNS)].astype({"spotify_id": "str", "country": "str"})
    expected = rankings[list(RANKING_COLUMNS)].astype({"spotify_id": "str", "country": "str"})
    assert_frame_equal(read, expected)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip"])
def test_csv_gives_same_dataset_as_parquet(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    made: tuple[pd.DataFrame, pd.DataFrame],
    suffix: str,
) -> None:
    other = csv_folder(tmp_path_factory.mktemp("csv"), *made, suffix=suffix)
    assert_same(load(other), load(folder))


def test_date_formats_may_differ_between_files(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    songs, rankings = made
    other = tmp_path_factory.mktemp("dates")
    songs.to_csv(other / "song_properties.csv", index=False)
    dates = rankings["snapshot_date"]
    half = len(rankings) // 2
    rankings.assign(snapshot_date=dates.dt.strftime("%Y-%m-%d 00:00:00"))[:half].to_csv(
        other / "song_rankings_1.csv", index=False
    )
    rankings.assign(snapshot_date=dates.dt.strftime("%d/%m/%Y"))[half:].to_csv(
        other / "song_rankings_2.csv", index=False
    )
    assert_same(load(other), load(folder))


@pytest.mark.parametrize("dtype", ["date32[day][pyarrow]", "datetime64[s, UTC]", "str"])
def test_parquet_dates_of_any_type_are_read(
    folder: Path, made: tuple[pd.DataFrame, pd.DataFrame], dtype: str
) -> None:
    expected = load(folder)
    rankings = made[1].copy()
    if "UTC" in dtype:
        rankings["snapshot_date"] = rankings["snapshot_date"].dt.tz_localize("UTC")
    rankings.astype({"snapshot_date": dtype}).to_parquet(folder / "song_rankings.parquet")
    assert_same(load(folder), expected)


def test_published_file_gives_both_tables(tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table = combined(made)
    table.to_csv(tmp_path / "universal_top_spotify_songs.csv", index=False)
    dataset = load(tmp_path / "universal_top_spotify_songs.csv")
    assert len(frame(dataset, "rankings")) == len(table)
    assert len(frame(dataset, "songs")) == table["spotify_id"].nunique()
    assert list(frame(dataset, "songs").columns) == [
        "spotify_id",
        "name",
        "artists",
        *FEATURES,
        "file",
        "row",
    ]


@pytest.mark.parametrize("form", ["lines", "fields"])
def test_extra_layer_of_quotes_is_removed(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame], form: str
) -> None:
    table = combined(made)
    table["name"] = table["name"].str.replace("\n", " ")
    plain = tmp_path / "plain.csv"
    table.to_csv(plain, index=False)
    wrapped = tmp_path / "wrapped.csv"
    if form == "lines":  # "id,""name"",…"
        quoted = ['"' + line.replace('"', '""') + '"' for line in plain.read_text().splitlines()]
        wrapped.write_text("\n".join(quoted) + "\n")
    else:  # """id""","""name""",…
        text = table.astype("str").where(table.notna(), "")
        text = text.apply(lambda column: '"' + column.str.replace('"', '""') + '"')
        text.columns = [f'"{name}"' for name in text]
        text.to_csv(wrapped, index=False)
    assert wrapped.read_text() != plain.read_text()
    assert_same(load(wrapped), load(plain))


def test_quotes_of_song_name_are_kept(tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    songs = made[0].copy()
    songs.loc[[0, 1, 2], "name"] = ['"Heroes"', '"Hello, Goodbye"', "Hello, my\nfriend"]
    songs = songs[["name", *songs.columns.drop("name")]]
    folder = csv_folder(tmp_path, songs, made[1])
    assert (folder / "song_properties.csv").read_text().splitlines()[1].startswith('"""Heroes""",')
    names = frame(load(folder), "songs")["name"]
    assert names[:3].tolist() == ['"Heroes"', '"Hello, Goodbye"', "Hello, my\nfriend"]


def test_song_name_over_two_lines_is_kept(tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    songs = made[0][["name", *made[0].columns.drop("name")]].copy()
    songs.loc[0, "name"] = "Hello, my\nfriend"
    read = frame(load(csv_folder(tmp_path, songs, made[1])), "songs")
    assert read["name"][0] == "Hello, my\nfriend"


def test_extra_quotes_around_text_only_are_removed(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    songs, rankings = made
    plain = csv_folder(tmp_path, songs.assign(name="a"), rankings)
    expected = load(plain)
    quoted = songs.assign(name="a")
    for column in ("spotify_id", "name", "artists"):
        quoted[column] = '"' + quoted[column].fillna("") + '"'
    quoted.to_csv(plain / "song_properties.csv", index=False)
    assert_same(load(plain), expected)


def test_parquet_bytes_are_read_as_text(folder: Path) -> None:
    expected = load(folder)
    for name in ("song_properties", "song_rankings"):
        table = pq.read_table(folder / f"{name}.parquet")
        for position, column in enumerate(table.column_names):
            if column in ("spotify_id", "name", "country"):
                values = table[column].cast(pa.string()).cast(pa.binary())
                table = table.set_column(position, column, values)
        pq.write_table(table.replace_schema_metadata(None), folder / f"{name}.parquet")
    assert_same(load(folder), expected)


@pytest.mark.parametrize("name", ["what?", "take #2", "a?b#c&d=e.csv"])
def test_path_with_question_mark_or_hash_is_read(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame], name: str
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    expected = load(parquet_folder(plain, *made))
    folder = tmp_path / name
    folder.mkdir()
    made[0].to_parquet(folder / f"songs {name}.parquet")
    made[1].to_csv(folder / f"rankings {name}.csv.gz", index=False)
    combined(made).to_parquet(tmp_path / f"{name}.parquet")
    assert_same(load(folder), expected)
    assert_same(load(f"file://{folder}"), expected)
    assert len(frame(load(tmp_path / f"{name}.parquet"), "rankings")) == len(combined(made))
    assert frame(load(folder), "rankings")["file"].unique().tolist() == [f"rankings {name}.csv.gz"]
    (folder / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=re.escape(f"{folder}/cut.parquet: cannot be read")):
        load(folder)


def test_file_name_that_is_not_utf8_is_escaped(folder: Path) -> None:
    (folder / "song_rankings.parquet").rename(folder / "r\udce9.parquet")
    dataset = load(folder)
    assert frame(dataset, "rankings")["file"].unique().tolist() == ["r\\udce9.parquet"]
    stored = SourcedDataset(dataset, origin=None)
    assert format_of(stored).digest(stored)


def test_rows_name_their_file_and_row(folder: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    made[1][:10].to_csv(folder / "later.csv", index=False)
    rankings = frame(load(folder), "rankings")
    assert rankings["file"].tolist() == ["later.csv"] * 10 + ["song_rankings.parquet"] * len(made[1])
    assert rankings["row"].tolist() == [*range(10), *range(len(made[1]))]


def test_files_of_one_name_are_told_apart_by_folder(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    files = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        parquet_folder(tmp_path / name, *made)
        files += [SourceFile(url=str(file)) for file in sorted((tmp_path / name).iterdir())]
    named = frame(load("", *files), "songs")["file"]
    assert named.unique().tolist() == [
        f"{tmp_path}/{name}/song_properties.parquet" for name in ("one", "other")
    ]


def test_na_is_namibia_and_empty_is_missing(tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    songs, rankings = made
    rankings = rankings.astype({"country": object})
    rankings.loc[0, "country"] = "NA"
    dataset = load(csv_folder(tmp_path, songs, rankings))
    assert frame(dataset, "rankings")["country"].iloc[0] == "NA"
    assert frame(dataset, "rankings")["country"].isna().sum() == rankings["country"].isna().sum()


def test_fsspec_url_is_read(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    for file in folder.iterdir():
        memory.pipe(f"/jukebox-test/{file.name}", file.read_bytes())
    assert_same(load("memory://jukebox-test"), load(folder))


def test_only_listed_files_are_read_and_verified(folder: Path) -> None:
    expected = load(folder)
    files = [
        SourceFile(url=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        for file in sorted(folder.iterdir())
    ]
    (folder / "song_rankings_later.parquet").write_bytes(b"not listed")
    assert_same(load("ignored/when/files/are/listed", *files), expected)


def test_source_is_not_modified(folder: Path) -> None:
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    folder.chmod(0o500)
    load(folder)
    folder.chmod(0o700)
    assert before == {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def test_real_data_is_read() -> None:
    dataset = load(real_data())
    assert len(frame(dataset, "songs")) == 14_245
    assert len(frame(dataset, "rankings")) == 16_349
    assert frame(dataset, "rankings")["country"].isna().sum() == 250
    assert frame(dataset, "rankings")["snapshot_date"].nunique() == 5


def test_project_import_loads_no_framework() -> None:
    heavy = "'tensorflow', 'keras', 'sklearn', 'scipy', 'matplotlib', 'mlflow', 'onnx', 'dagster'"
    code = f"import sys, jukebox_orch.projects.jukebox; print({{{heavy}}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
