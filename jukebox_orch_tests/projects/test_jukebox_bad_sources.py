"""Reading songs and rankings: a bad source is refused and named."""

import bz2
import csv
import gzip
import io
import lzma
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jukebox_orch.contract import SourceFile
from jukebox_orch_tests.support.jukebox_files import csv_folder, frame, load, parquet_folder, refusal, tables


@pytest.fixture(scope="module")
def made() -> tuple[pd.DataFrame, pd.DataFrame]:
    return tables()


@pytest.fixture
def folder(tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> Path:
    return parquet_folder(tmp_path, *made)


def test_changed_file_is_refused(folder: Path) -> None:
    url = str(folder / "song_rankings.parquet")
    message = refusal("", SourceFile(url=url, sha256="0" * 64))
    assert message.startswith(f"{url}: ")
    assert f"expected {'0' * 64}" in message


@pytest.mark.parametrize("location", ["nowhere", "nowhere.parquet"])
def test_missing_location_is_named(tmp_path: Path, location: str) -> None:
    assert refusal(tmp_path / location) == f"{tmp_path / location}: not found; check the path or URL"


def test_empty_folder_error_names_expected_suffixes(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no data")
    assert ".parquet, .csv" in refusal(tmp_path)


def test_unknown_protocol_is_named() -> None:
    assert "ftpx" in refusal("ftpx://host/data")


def test_missing_driver_is_named() -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from jukebox_orch.contract import InputError\n"
        "from jukebox_orch.projects.jukebox import Jukebox, JukeboxSource\n"
        "try: Jukebox().load(JukeboxSource(location='s3://bucket/data'))\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("s3://bucket/data: this kind of URL needs another package: Install s3fs")


def test_rankings_without_songs_are_refused(folder: Path) -> None:
    (folder / "song_properties.parquet").unlink()
    assert (
        refusal(folder)
        == f"{folder}: no file has song properties; add one, for example song_properties.parquet"
    )


def test_songs_without_rankings_are_refused(folder: Path) -> None:
    (folder / "song_rankings.parquet").unlink()
    assert "no file has rankings" in refusal(folder)


def test_unrelated_file_is_named_with_columns(folder: Path) -> None:
    pd.DataFrame({"a": [1], "b": [2]}).to_csv(folder / "other.csv", index=False)
    message = refusal(folder)
    assert "other.csv: neither song properties nor rankings: its columns are a, b;" in message


def test_missing_column_is_named(folder: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    made[0].drop(columns=["tempo", "key"]).to_parquet(folder / "song_properties.parquet")
    assert "song_properties.parquet: column key, tempo is missing; it has spotify_id" in refusal(folder)


def test_duplicate_column_is_refused(tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    folder = csv_folder(tmp_path, *made)
    file = folder / "song_rankings.csv"
    file.write_text(file.read_text().replace("popularity", "country", 1))
    assert "column country occurs more than once" in refusal(folder)


@pytest.mark.parametrize("value", ["loud", "1,5", "0x1F"])
def test_non_numeric_cell_is_named_with_row(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame], value: str
) -> None:
    songs = made[0].astype({"loudness": object})
    songs.loc[[4, 9], "loudness"] = value
    message = refusal(csv_folder(tmp_path, songs, made[1]))
    assert "song_properties.csv: column loudness: 2 values are not numbers: " in message
    assert f"{value!r} in row 4, {value!r} in row 9" in message


def test_lines_with_too_few_fields_are_refused(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    folder = csv_folder(tmp_path, *made)
    with (folder / "song_rankings.csv").open("a") as file:
        file.write("cut,off\n")
    assert "1 lines do not have the 5 fields of the header: 'cut,off' has 2" in refusal(folder)


# Without `mtime`, the bytes have the time, and processes that collect the tests in parallel find different ones.
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00", b"PAR1", gzip.compress(b"", mtime=0)])
@pytest.mark.parametrize("name", ["song_rankings.parquet", "song_rankings.csv", "song_rankings.csv.gz"])
def test_empty_or_invalid_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert f"{folder / name}: " in refusal(folder)


def test_file_without_rows_is_named(folder: Path, made: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    made[1].head(0).to_parquet(folder / "song_rankings.parquet")
    assert "song_rankings.parquet: the file has columns but no rows" in refusal(folder)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_truncated_parquet_file_is_named(folder: Path, share: float) -> None:
    file = folder / "song_rankings.parquet"
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * share)])
    assert f"{file}: cannot be read, it may be truncated" in refusal(folder)


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip"])
def test_truncated_compressed_file_is_named(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame], suffix: str
) -> None:
    folder = csv_folder(tmp_path, *made, suffix=suffix)
    file = folder / f"song_rankings{suffix}"
    file.write_bytes(file.read_bytes()[:-40])
    assert f"{file}: cannot be read" in refusal(folder)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_decompression_bomb_is_refused(folder: Path, suffix: str) -> None:
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


def test_parquet_with_too_many_rows_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jukebox_orch.projects.jukebox.tables.MAX_ROWS", 100)
    assert "rows; at most 100 are read" in refusal(folder)


def test_missing_and_extreme_numbers_are_read(
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


@pytest.mark.parametrize(
    ("separator", "words"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")]
)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_other_separator_is_named(
    tmp_path: Path,
    made: tuple[pd.DataFrame, pd.DataFrame],
    separator: str,
    words: str,
    quoting: Literal[0, 1],
) -> None:
    songs = made[0].assign(name="Hello, world")
    folder = csv_folder(tmp_path, *made)
    songs.to_csv(folder / "song_properties.csv", index=False, sep=separator, quoting=quoting)
    assert refusal(folder) == (
        f"{folder}/song_properties.csv: the fields are separated by {words} ({separator!r}), expected commas; save "
        "the file as CSV with commas"
    )


def not_utf8(values: pd.Series, row: int) -> pa.Array:
    """Return text with Latin-1 bytes at `row`, as some programs write it to Parquet."""
    encoded = [str(value).encode() for value in values]
    encoded[row] = "Café".encode("latin-1")
    return pa.array(encoded, pa.binary())


@pytest.mark.parametrize("column", ["spotify_id", "name", "artists"])
@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_parquet_text_that_is_not_utf8_is_named(folder: Path, column: str, kind: pa.DataType) -> None:
    file = folder / "song_properties.parquet"
    table = pq.read_table(file)
    bad = not_utf8(table[column].to_pandas(), 7).view(kind)
    pq.write_table(table.set_column(table.column_names.index(column), column, bad), file)
    assert refusal(folder) == (
        f"{file}: column {column}: b'Caf\\xe9' in row 7 is not UTF-8 text; save the column as UTF-8"
    )


@pytest.mark.parametrize("column", ["country", "snapshot_date"])
def test_parquet_key_or_date_that_is_not_utf8_is_named(folder: Path, column: str) -> None:
    file = folder / "song_rankings.parquet"
    table = pq.read_table(file)
    bad = not_utf8(table[column].to_pandas(), 2).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index(column), column, bad), file)
    assert f"{file}: column {column}: b'Caf\\xe9' in row 2 is not UTF-8 text" in refusal(folder)


@pytest.mark.parametrize(("encoding", "line"), [("latin-1", 6), ("utf-16", 1)])
def test_csv_that_is_not_utf8_is_named(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame], encoding: str, line: int
) -> None:
    songs = made[0].copy()
    songs.loc[4, "name"] = "Café"
    folder = csv_folder(tmp_path, *made)
    file = folder / "song_properties.csv"
    songs.to_csv(file, index=False, encoding=encoding)
    message = refusal(folder)
    assert message.startswith(f"{file}: b")
    assert f" in line {line} is not UTF-8 text; save the file as CSV UTF-8" in message


def test_csv_that_is_not_utf8_far_down_is_named(
    tmp_path: Path, made: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    songs = made[0].copy()
    songs.loc[len(songs) - 1, "name"] = "Café"
    folder = csv_folder(tmp_path, *made)
    songs.to_csv(folder / "song_properties.csv", index=False, encoding="latin-1")
    assert "Caf\\xe9" in refusal(folder)
