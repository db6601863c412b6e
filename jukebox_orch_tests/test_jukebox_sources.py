"""Reading songs and rankings: every published form read right, every broken one refused by name."""

import bz2
import gzip
import hashlib
import http.server
import io
import lzma
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from jukebox_orch.project import Dataset, InputError, Source, SourceFile
from jukebox_orch.projects.jukebox import Jukebox, sample
from jukebox_orch.projects.jukebox.schema import FEATURES, RANKING_COLUMNS

REAL = Path(__file__).parents[1] / ".." / "shared" / "data"


def load(location: object = "", *files: SourceFile) -> Dataset:
    return Jukebox().load(Source(location=str(location), files=list(files)))


@pytest.fixture(scope="module")
def made() -> tuple[pd.DataFrame, pd.DataFrame]:
    dataset = sample.generate(days=3, chart=5)
    songs, rankings = frame(dataset, "songs"), frame(dataset, "rankings")
    songs.loc[10, "name"] = 'A "quoted", long\nname'
    return songs, rankings.assign(popularity=7)


@pytest.fixture
def folder(tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> Path:
    songs, rankings = made
    songs.to_parquet(tmp_path / "song_properties.parquet")
    rankings.to_parquet(tmp_path / "song_rankings.parquet")
    return tmp_path


def csv_folder(folder: Path, songs: pd.DataFrame, rankings: pd.DataFrame, suffix: str = ".csv") -> Path:
    songs.to_csv(folder / f"song_properties{suffix}", index=False)
    rankings.to_csv(folder / f"song_rankings{suffix}", index=False)
    return folder


def combined(made: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    songs, rankings = made
    text = rankings.astype({"spotify_id": "str"}).assign(daily_movement=0, album_name="x, y")
    return text.merge(songs, on="spotify_id")


def assert_same(ours: Dataset, theirs: Dataset) -> None:
    for table in ("songs", "rankings"):
        assert_frame_equal(frame(ours, table), frame(theirs, table))


def frame(dataset: Dataset, table: str) -> pd.DataFrame:
    found = dataset[table]
    assert isinstance(found, pd.DataFrame)
    return found


def refusal(location: object = "", *files: SourceFile) -> str:
    with pytest.raises(InputError) as caught:
        load(location, *files)
    return str(caught.value)


# --- what is read ---


def test_no_location_means_the_embedded_sample_the_same_every_time() -> None:
    assert_same(load(), load())
    assert "Synthetic" in frame(load(), "songs")["name"].iloc[0]


def test_the_sample_in_files_is_the_sample(folder: Path) -> None:
    dataset = sample.generate()
    for table in dataset:
        frame(dataset, table).to_parquet(
            folder / f"song_{'properties' if table == 'songs' else table}.parquet"
        )
    assert_same(load(folder), dataset)


def test_values_are_read_as_they_are(folder: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    songs, rankings = made
    dataset = load(folder)
    assert_frame_equal(frame(dataset, "songs"), songs)
    read = frame(dataset, "rankings").astype({"spotify_id": "str", "country": "str"})
    kept = rankings[list(RANKING_COLUMNS)].astype({"spotify_id": "str", "country": "str"})
    assert_frame_equal(read, kept)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip"])
def test_csv_gives_the_same_dataset_as_parquet(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    made: tuple[pd.DataFrame, pd.DataFrame],
    suffix: str,
) -> None:
    other = csv_folder(tmp_path_factory.mktemp("csv"), *made, suffix=suffix)
    assert_same(load(other), load(folder))


def test_dates_may_be_day_month_year_and_differ_between_files(
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
def test_parquet_may_hold_dates_of_any_type(
    folder: Path, made: tuple[pd.DataFrame, pd.DataFrame], dtype: str
) -> None:
    expected = load(folder)
    rankings = made[1].copy()
    if "UTC" in dtype:
        rankings["snapshot_date"] = rankings["snapshot_date"].dt.tz_localize("UTC")
    rankings.astype({"snapshot_date": dtype}).to_parquet(folder / "song_rankings.parquet")
    assert_same(load(folder), expected)


def test_one_file_in_the_published_layout_holds_both_tables(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    table = combined(made)
    table.to_csv(tmp_path / "universal_top_spotify_songs.csv", index=False)
    dataset = load(tmp_path / "universal_top_spotify_songs.csv")
    assert len(frame(dataset, "rankings")) == len(table)
    assert len(frame(dataset, "songs")) == table["spotify_id"].nunique()
    assert list(frame(dataset, "songs").columns) == ["spotify_id", "name", "artists", *FEATURES]


@pytest.mark.parametrize("form", ["lines", "fields"])
def test_a_surplus_layer_of_quotes_is_taken_off(
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


def test_namibia_is_a_country_and_empty_is_not(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    songs, rankings = made
    rankings = rankings.astype({"country": object})
    rankings.loc[0, "country"] = "NA"
    dataset = load(csv_folder(tmp_path, songs, rankings))
    assert frame(dataset, "rankings")["country"].iloc[0] == "NA"
    assert frame(dataset, "rankings")["country"].isna().sum() == rankings["country"].isna().sum()


def test_any_fsspec_url_is_a_source(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    for file in folder.iterdir():
        memory.pipe(f"/jukebox-test/{file.name}", file.read_bytes())
    assert_same(load("memory://jukebox-test"), load(folder))


def test_listed_files_are_read_exactly_and_verified(folder: Path) -> None:
    expected = load(folder)
    files = [
        SourceFile(url=str(file), sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        for file in sorted(folder.iterdir())
    ]
    (folder / "song_rankings_later.parquet").write_bytes(b"not listed")
    assert_same(load("ignored/when/files/are/listed", *files), expected)


def test_sources_are_only_read(folder: Path) -> None:
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    folder.chmod(0o500)
    load(folder)
    folder.chmod(0o700)
    assert before == {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def test_the_real_data_is_read() -> None:
    if not REAL.is_dir():
        pytest.skip(f"no real data at {REAL}")
    dataset = load(REAL)
    assert len(frame(dataset, "songs")) == 14_245
    assert len(frame(dataset, "rankings")) == 16_349
    assert frame(dataset, "rankings")["country"].isna().sum() == 250
    assert frame(dataset, "rankings")["snapshot_date"].nunique() == 5


# --- over HTTP ---


@pytest.fixture
def web(folder: Path):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def send_head(self):
            if "broken" in self.path:
                self.send_error(503)
                return None
            if "secret" in self.path:
                self.send_error(403)
                return None
            return super().send_head()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_web_folder_is_a_source(web: str, folder: Path) -> None:
    assert_same(load(web + "/"), load(folder))


def test_a_missing_web_file_is_a_clear_error(web: str) -> None:
    assert refusal(f"{web}/gone.parquet") == f"{web}/gone.parquet: not found; check the path or URL"


def test_a_forbidden_web_file_is_a_clear_error_without_the_password(web: str) -> None:
    message = refusal(f"{web.replace('//', '//user:hunter2@')}/secret.csv?sig=hunter3")
    assert "access denied" in message
    assert "hunter" not in message


def test_a_failing_server_may_be_tried_again(web: str) -> None:
    with pytest.raises(OSError, match=r"broken\.csv: cannot be read now: HTTP status 503; try again later"):
        load(f"{web}/broken.csv")


def test_a_server_that_is_not_there_may_be_tried_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/song_rankings.csv"
        with pytest.raises(OSError, match=r"song_rankings\.csv: cannot be read now: .*try again later"):
            load(url)


# --- what is refused ---


def test_a_changed_file_is_refused(folder: Path) -> None:
    url = str(folder / "song_rankings.parquet")
    message = refusal("", SourceFile(url=url, sha256="0" * 64))
    assert message.startswith(f"{url}: ")
    assert f"{'0' * 64} was asked for" in message


@pytest.mark.parametrize("location", ["nowhere", "nowhere.parquet"])
def test_a_missing_location_is_named(tmp_path: Path, location: str) -> None:
    assert refusal(tmp_path / location) == f"{tmp_path / location}: not found; check the path or URL"


def test_an_empty_folder_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no data")
    assert ".parquet, .csv" in refusal(tmp_path)


def test_an_unknown_protocol_is_a_clear_error() -> None:
    assert "ftpx" in refusal("ftpx://host/data")


def test_a_missing_driver_is_a_clear_error() -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from jukebox_orch.project import InputError, Source\n"
        "from jukebox_orch.projects.jukebox import Jukebox\n"
        "try: Jukebox().load(Source(location='s3://bucket/data'))\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("s3://bucket/data: this kind of URL needs another package: Install s3fs")


def test_rankings_without_songs_are_refused(folder: Path) -> None:
    (folder / "song_properties.parquet").unlink()
    assert (
        refusal(folder)
        == f"{folder}: no file holds song properties; add one, for example song_properties.parquet"
    )


def test_songs_without_rankings_are_refused(folder: Path) -> None:
    (folder / "song_rankings.parquet").unlink()
    assert "no file holds rankings" in refusal(folder)


def test_a_file_of_something_else_is_named_with_its_columns(folder: Path) -> None:
    pd.DataFrame({"a": [1], "b": [2]}).to_csv(folder / "other.csv", index=False)
    message = refusal(folder)
    assert "other.csv: neither song properties nor rankings: its columns are a, b;" in message


def test_a_missing_column_is_named(folder: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    made[0].drop(columns=["tempo", "key"]).to_parquet(folder / "song_properties.parquet")
    assert "song_properties.parquet: column key, tempo is missing; it has spotify_id" in refusal(folder)


def test_a_column_twice_is_refused(tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    folder = csv_folder(tmp_path, *made)
    file = folder / "song_rankings.csv"
    file.write_text(file.read_text().replace("popularity", "country", 1))
    assert "column country occurs more than once" in refusal(folder)


@pytest.mark.parametrize("value", ["loud", "1,5", "0x1F"])
def test_a_cell_that_is_no_number_is_named_with_its_row(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame], value: str
) -> None:
    songs = made[0].astype({"loudness": object})
    songs.loc[[4, 9], "loudness"] = value
    message = refusal(csv_folder(tmp_path, songs, made[1]))
    assert "song_properties.csv: column loudness: 2 values are no number: " in message
    assert f"{value!r} in row 4, {value!r} in row 9" in message


def test_month_first_dates_are_refused_with_the_rows(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    songs, rankings = made
    wrong = rankings.assign(snapshot_date=rankings["snapshot_date"].dt.strftime("%m/%d/%Y"))
    message = refusal(csv_folder(tmp_path, songs, wrong))
    assert f"song_rankings.csv: column snapshot_date: {len(rankings):,} values are no date" in message
    assert "(expected YYYY-MM-DD or DD/MM/YYYY): '12/17/2023' in row 0" in message


def test_lines_with_too_few_fields_are_refused(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    folder = csv_folder(tmp_path, *made)
    with (folder / "song_rankings.csv").open("a") as file:
        file.write("cut,off\n")
    assert "1 lines do not have the 5 fields of the header: 'cut,off' has 2" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00", b"PAR1", gzip.compress(b"")])
@pytest.mark.parametrize("name", ["song_rankings.parquet", "song_rankings.csv", "song_rankings.csv.gz"])
def test_an_empty_or_foreign_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert f"{folder / name}: " in refusal(folder)


def test_a_file_without_rows_is_named(folder: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    made[1].head(0).to_parquet(folder / "song_rankings.parquet")
    assert "song_rankings.parquet: the file has columns but no rows" in refusal(folder)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_truncated_parquet_file_is_named(folder: Path, share: float) -> None:
    file = folder / "song_rankings.parquet"
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * share)])
    assert f"{file}: cannot be read, it may be cut off" in refusal(folder)


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip"])
def test_a_truncated_compressed_file_is_named(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame], suffix: str
) -> None:
    folder = csv_folder(tmp_path, *made, suffix=suffix)
    file = folder / f"song_rankings{suffix}"
    file.write_bytes(file.read_bytes()[:-40])
    assert f"{file}: cannot be read" in refusal(folder)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_a_zip_bomb_is_refused_before_it_unfolds(folder: Path, suffix: str) -> None:
    content = b"\0" * (70 * 1024**2)
    if suffix == ".zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("song_rankings.csv", content)
        raw = packed.getvalue()
    else:
        raw = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](content)
    (folder / f"song_rankings.csv{suffix}").write_bytes(raw)
    message = refusal(folder)
    assert (
        f"song_rankings.csv{suffix}: {len(raw):,} compressed bytes expand to more than 67,108,864" in message
    )


def test_a_parquet_file_that_claims_too_many_rows_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jukebox_orch.projects.jukebox.tables.MAX_ROWS", 100)
    assert "rows; at most 100 are read" in refusal(folder)


def test_missing_and_extreme_numbers_are_left_to_validation(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    songs = made[0].astype({"tempo": object, "key": object})
    songs.loc[0, "tempo"], songs.loc[1, "tempo"], songs.loc[2, "tempo"] = "1e308", "1e999", "nan"
    songs.loc[3, "key"] = None
    read = frame(load(csv_folder(tmp_path, songs, made[1])), "songs")
    assert read["tempo"].iloc[0] == 1e308
    assert read["tempo"].iloc[1] == np.inf
    assert np.isnan(read["tempo"].iloc[2])
    assert np.isnan(read["key"].iloc[3])


def test_the_project_imports_no_heavy_framework() -> None:
    heavy = "'tensorflow', 'keras', 'sklearn', 'scipy', 'matplotlib', 'mlflow', 'onnx', 'dagster'"
    code = f"import sys, jukebox_orch.projects.jukebox; print({{{heavy}}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
