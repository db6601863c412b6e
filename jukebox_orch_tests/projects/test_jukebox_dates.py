"""Slash dates are read as the file itself shows, or as the settings say; without either the file is refused."""

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from jukebox_orch.assets.run_config import config_schema
from jukebox_orch.projects.jukebox import Jukebox
from jukebox_orch_tests.support.jukebox_files import frame, load, refusal, tables

SONGS, RANKINGS = tables()


def write(file: Path, dates: list[str], **columns: list[str]) -> Path:
    """Write one ranking per date, and the songs beside them."""
    SONGS.to_parquet(file.parent / "song_properties.parquet")
    table = RANKINGS.head(len(dates)).astype({"spotify_id": "str"}).assign(snapshot_date=dates, **columns)
    if file.suffix == ".parquet":
        table.to_parquet(file)
    else:
        table.to_csv(file, index=False)
    return file


def days(folder: Path, **settings: Any) -> list[str]:
    return frame(load(folder, **settings), "rankings")["snapshot_date"].dt.strftime("%Y-%m-%d").tolist()


@pytest.mark.parametrize("name", ["song_rankings.csv", "song_rankings.parquet"])
@pytest.mark.parametrize(
    ("proof", "expected"),
    [
        ("12/25/2024", ["2025-02-12", "2024-12-25"]),
        ("25/12/2024", ["2025-12-02", "2024-12-25"]),
        ("12/25/2024 10:30:00", ["2025-02-12", "2024-12-25"]),
    ],
)
def test_unambiguous_date_decides_for_column(
    tmp_path: Path, name: str, proof: str, expected: list[str]
) -> None:
    write(tmp_path / name, ["2/12/2025", proof])
    assert days(tmp_path) == expected


@pytest.mark.parametrize("name", ["song_rankings.csv", "song_rankings.parquet"])
@pytest.mark.parametrize(("proof", "expected"), [("12/25/2024", "2025-02-12"), ("25/12/2024", "2025-12-02")])
def test_other_date_column_decides(tmp_path: Path, name: str, proof: str, expected: str) -> None:
    write(
        tmp_path / name, ["2/12/2025"] * 2, album_release_date=["1/2/2025", proof], Timestamp=["10:30", "x"]
    )
    assert days(tmp_path) == [expected] * 2


@pytest.mark.parametrize(
    "others", [{}, {"album_release_date": ["1/1/2025", "4/5/2025"]}, {"title": ["12/25/2024"] * 2}]
)
def test_ambiguous_dates_are_refused(tmp_path: Path, others: dict[str, list[str]]) -> None:
    file = write(tmp_path / "song_rankings.csv", ["3/3/2025", "2/12/2025"], **others)
    assert refusal(tmp_path) == (
        f"{file}: column snapshot_date: '2/12/2025' in row 1 can be read day first and month first, and no date of "
        "the file decides; set source.date_format to day_first or month_first, or write the dates as YYYY-MM-DD"
    )


@pytest.mark.parametrize(
    ("setting", "expected"), [("month_first", "2025-02-12"), ("day_first", "2025-12-02")]
)
def test_setting_decides_for_ambiguous_dates(tmp_path: Path, setting: str, expected: str) -> None:
    write(tmp_path / "song_rankings.csv", ["2/12/2025"], album_release_date=["25/12/2024"])
    assert days(tmp_path, date_format=setting) == [expected]


@pytest.mark.parametrize("setting", ["auto", "month_first", "day_first"])
def test_iso_dates_and_equal_day_and_month_need_no_order(tmp_path: Path, setting: str) -> None:
    write(tmp_path / "song_rankings.csv", ["2025-02-12", "3/3/2025", "2025-02-12T08:00:00Z"])
    assert days(tmp_path, date_format=setting) == ["2025-02-12", "2025-03-03", "2025-02-12"]


def test_contradictory_dates_of_column_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "song_rankings.csv", ["2/12/2025", "12/25/2024", "25/12/2024"])
    assert refusal(tmp_path).startswith(
        f"{file}: column snapshot_date: '25/12/2024' in row 2 can only be day first, column snapshot_date: "
        "'12/25/2024' in row 1 only month first; write the dates as YYYY-MM-DD"
    )


def test_contradictory_columns_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "song_rankings.csv", ["2/12/2025", "12/25/2024"], released_date=["", "31/1/2020"])
    message = refusal(tmp_path)
    assert f"{file}: column released_date: '31/1/2020' in row 1 can only be day first" in message
    assert "column snapshot_date: '12/25/2024' in row 1 only month first" in message
    assert days(tmp_path, date_format="month_first") == ["2025-02-12", "2024-12-25"]


def test_date_against_setting_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "song_rankings.csv", ["2/12/2025", "12/25/2024"])
    assert refusal(tmp_path, date_format="day_first") == (
        f"{file}: column snapshot_date: '12/25/2024' in row 1 can only be month first, but source.date_format is "
        "day_first; change the setting, or write the dates as YYYY-MM-DD"
    )


def test_each_file_is_judged_alone(tmp_path: Path) -> None:
    write(tmp_path / "day_first.csv", ["2/12/2025", "25/12/2024"])
    write(tmp_path / "month_first.csv", ["2/12/2025", "12/25/2024"])
    assert days(tmp_path) == ["2025-12-02", "2024-12-25", "2025-02-12", "2024-12-25"]
    file = write(tmp_path / "one_day.csv", ["2/12/2025"])
    assert refusal(tmp_path).startswith(f"{file}: column snapshot_date: '2/12/2025' in row 0 can be read")


@pytest.mark.parametrize("value", ["13/13/2025", "2/30/2025", "2/12/25", "2025/12/02", "soon"])
def test_value_that_is_not_a_date_is_named(tmp_path: Path, value: str) -> None:
    file = write(tmp_path / "song_rankings.csv", ["12/25/2024", value])
    assert refusal(tmp_path).startswith(
        f"{file}: column snapshot_date: 1 values are not dates (expected YYYY-MM-DD, DD/MM/YYYY or MM/DD/YYYY): "
        f"{value!r} in row 1"
    )


def test_launchpad_offers_date_formats() -> None:
    field = config_schema(Jukebox().source)["date_format"]
    choices = field.config_type
    assert isinstance(choices, dg.Enum)
    assert [choice.config_value for choice in choices.enum_values] == ["auto", "month_first", "day_first"]
    assert "2/12/2025" in (field.description or "")
    assert field.default_value == "auto"


def test_missing_dates_stay_missing(tmp_path: Path) -> None:
    write(tmp_path / "song_rankings.csv", ["2/12/2025", "", "12/25/2024"])
    assert pd.isna(days(tmp_path)[1])
