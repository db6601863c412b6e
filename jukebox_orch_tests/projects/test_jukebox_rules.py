"""Validation reports problems of songs and rankings, and quarantines unusable rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from jukebox_orch.contract import Dataset, Finding, Validation
from jukebox_orch.projects.jukebox import Jukebox, JukeboxSplit, sample
from jukebox_orch.projects.jukebox.rules import usability
from jukebox_orch.projects.jukebox.schema import COUNTRIES, RANGES
from jukebox_orch_tests.support.jukebox_files import combined, load, parquet_folder, tables
from jukebox_orch_tests.support.parts import real_data

PROJECT = Jukebox()


@pytest.fixture
def clean() -> Dataset:
    """Three days of four countries' charts and the worldwide one, with sixty songs and without faults."""
    random = np.random.default_rng(1)
    songs = pd.DataFrame({"spotify_id": [f"song{n:02d}" for n in range(60)], "name": "a", "artists": "b"})
    for feature, (low, high) in RANGES.items():
        songs[feature] = random.uniform(low, min(high, 0) if feature == "loudness" else high, 60)
    rankings = pd.DataFrame(
        [
            (f"song{(rank + 9 * chart + day) % 60:02d}", country, f"2023-12-{15 + day}", rank)
            for day in range(3)
            for chart, country in enumerate(["AE", "DE", "US", "ZA", None])
            for rank in range(1, 51)
        ],
        columns=["spotify_id", "country", "snapshot_date", "daily_rank"],
    )
    rankings["snapshot_date"] = rankings["snapshot_date"].astype("datetime64[us]")
    return {
        "songs": songs,
        "rankings": rankings.astype({"spotify_id": "category", "country": "category"}),
    }


def validated(dataset: Dataset, rule: str) -> tuple[Validation, list[Finding]]:
    validation = PROJECT.validate(dataset)
    assert {finding.rule for finding in validation.findings} <= set(PROJECT.rules)
    return validation, [
        f for f in validation.findings if f.rule == rule and "never predicted" not in f.message
    ]


def change(dataset: Dataset, table: str, row: int | list[int] | slice, column: str, value: Any) -> None:
    frame = dataset[table]
    assert isinstance(frame, pd.DataFrame)
    if isinstance(frame[column].dtype, pd.CategoricalDtype):
        frame[column] = frame[column].astype(object)
    if isinstance(value, float):
        frame[column] = frame[column].astype(float)
    frame.loc[row, column] = value


def songs_of(dataset: Dataset) -> pd.DataFrame:
    songs = dataset["songs"]
    assert isinstance(songs, pd.DataFrame)
    return songs


def test_clean_data_reports_only_missing_countries(clean: Dataset) -> None:
    validation = PROJECT.validate(clean)
    assert (validation.rows, validation.invalid_rows) == (600, 0)  # the worldwide chart has no label
    assert [finding.rule for finding in validation.findings] == ["label_coverage"]
    assert "no usable rankings of AR, AT, AU" in validation.findings[0].message


@pytest.mark.parametrize("feature", RANGES)
@pytest.mark.parametrize(
    ("value", "rule"), [(np.nan, "types"), (np.inf, "ranges"), (1e308, "ranges"), (-99, "ranges")]
)
def test_song_with_unusable_feature_is_quarantined_with_rankings(
    clean: Dataset, feature: str, value: float, rule: str
) -> None:
    change(clean, "songs", 7, feature, value)
    validation, found = validated(clean, rule)
    assert feature in found[0].message
    assert found[0].count == 1
    assert not found[0].fatal
    assert found[0].examples[0]["row"] == 7
    assert found[0].examples[0]["spotify_id"] == "song07"
    _, joined = validated(clean, "join_completeness")
    assert "without usable properties" in joined[0].message
    assert validation.invalid_rows == joined[0].count > 0


def test_songs_of_zero_length_count_as_withdrawn(clean: Dataset) -> None:
    change(clean, "songs", [3, 4], "duration_ms", 0)
    _, found = validated(clean, "ranges")
    assert (
        "2 songs have a duration_ms outside 1 to 86400000, 2 of them 0 (withdrawn songs)" in found[0].message
    )


@pytest.mark.parametrize(
    ("column", "value", "rule", "message"),
    [
        ("loudness", 1.2, "ranges", "loudness above 0 dB"),
        ("name", None, "types", "no name or artists"),
        ("artists", None, "types", "no name or artists"),
    ],
)
def test_harmless_anomalies_are_reported_and_kept(
    clean: Dataset, column: str, value: object, rule: str, message: str
) -> None:
    change(clean, "songs", [1, 5], column, value)
    validation, found = validated(clean, rule)
    assert message in found[0].message
    assert (found[0].count, validation.invalid_rows) == (2, 0)


@pytest.mark.parametrize(
    ("column", "value", "rule", "message"),
    [
        ("spotify_id", "nobody", "join_completeness", "a song that song properties do not describe"),
        ("spotify_id", None, "join_completeness", "a song that song properties do not describe"),
        ("country", "XX", "label_coverage", "not one of the published charts"),
        ("country", "nan", "label_coverage", "not one of the published charts"),
        ("country", None, "label_coverage", "have no country though the worldwide chart has that rank"),
        ("snapshot_date", pd.NaT, "types", "have no snapshot_date"),
        ("daily_rank", 0, "ranges", "daily_rank outside 1 to 50"),
        ("daily_rank", 51, "ranges", "daily_rank outside 1 to 50"),
        ("daily_rank", np.nan, "ranges", "daily_rank outside 1 to 50"),
        ("daily_rank", 1e308, "ranges", "daily_rank outside 1 to 50"),
    ],
)
def test_unusable_rankings_are_quarantined_with_examples(
    clean: Dataset, column: str, value: object, rule: str, message: str
) -> None:
    rankings = clean["rankings"]
    assert isinstance(rankings, pd.DataFrame)
    if (
        column == "country" and value is None
    ):  # put the worldwide chart first, so that the result depends on the order of rows
        clean["rankings"] = rankings.sort_values(
            "country", na_position="first", kind="stable", ignore_index=True
        )
    change(clean, "rankings", [300, 302], column, value)
    validation, found = validated(clean, rule)
    assert len(found) == 1
    assert message in found[0].message
    assert (found[0].count, validation.invalid_rows, validation.rows) == (2, 2, 600)
    assert [example["row"] for example in found[0].examples] == [300, 302]


def test_examples_name_file_and_row_of_source(tmp_path: Path) -> None:
    songs, rankings = tables()
    songs.loc[4, "tempo"] = 999.0
    parquet_folder(tmp_path, songs, rankings)
    bad = rankings[:20].copy()
    bad["snapshot_date"] += pd.Timedelta(days=1)
    bad.loc[13, "daily_rank"] = 99
    bad.to_csv(tmp_path / "later.csv", index=False)
    findings = PROJECT.validate(load(tmp_path)).findings
    rank = next(finding for finding in findings if "daily_rank" in finding.message)
    assert [(example["file"], example["row"]) for example in rank.examples] == [("later.csv", 13)]
    tempo = next(finding for finding in findings if "have a tempo outside" in finding.message)
    assert [(example["file"], example["row"]) for example in tempo.examples] == [
        ("song_properties.parquet", 4)
    ]


def test_example_of_song_is_its_first_row_in_published_file(tmp_path: Path) -> None:
    songs, rankings = tables()
    table = combined((songs, rankings))
    songs_in_order = table.drop_duplicates("spotify_id")
    row = songs_in_order.index[-1]
    table.loc[table["spotify_id"] == table.loc[row, "spotify_id"], "tempo"] = 999.0
    assert row >= len(songs_in_order)  # the row in the file differs from the position in the table of songs
    table.to_csv(tmp_path / "universal_top_spotify_songs.csv", index=False)
    findings = PROJECT.validate(load(tmp_path)).findings
    tempo = next(finding for finding in findings if "have a tempo outside" in finding.message)
    assert tempo.examples[0]["row"] == row
    assert tempo.examples[0]["file"] == "universal_top_spotify_songs.csv"


def test_stray_days_are_named_with_count_and_choice(clean: Dataset) -> None:
    change(clean, "rankings", [310, 311], "snapshot_date", pd.Timestamp("2031-01-01"))
    change(clean, "rankings", 312, "snapshot_date", pd.Timestamp("2204-05-06"))
    validation, found = validated(clean, "ranges")
    assert found[0].message == (
        "3 rankings are of days with less than 0.5 of the usual 200 rankings: 2031-01-01 (2), 2204-05-06 (1). Split "
        "by_date with the default split.min_day_share leaves them out, validates on 2023-12-16 and tests on "
        "2023-12-17; correct snapshot_date in the source, or lower split.min_day_share to test on such days"
    )
    assert (found[0].count, found[0].fatal, validation.invalid_rows) == (3, False, 0)
    assert [example["row"] for example in found[0].examples] == [310, 311, 312]


def test_stray_days_leave_validation_working_without_full_days(clean: Dataset) -> None:
    rankings = clean["rankings"]
    assert isinstance(rankings, pd.DataFrame)
    clean["rankings"] = rankings.assign(snapshot_date=pd.Timestamp("2023-12-15"))
    change(clean, "rankings", 310, "snapshot_date", pd.Timestamp("2031-01-01"))
    _, found = validated(clean, "ranges")
    assert found == []
    clean["rankings"] = rankings.assign(snapshot_date=pd.Series(pd.NaT, rankings.index, "datetime64[us]"))
    validation, found = validated(clean, "types")
    assert found[0].count == validation.invalid_rows == validation.rows > 0


def test_finding_has_at_most_five_examples(clean: Dataset) -> None:
    change(clean, "rankings", slice(0, 40), "daily_rank", 99)
    _, found = validated(clean, "ranges")
    assert found[0].count == 41
    assert len(found[0].examples) == 5


def test_duplicate_rankings_count_once(clean: Dataset) -> None:
    rankings = clean["rankings"]
    assert isinstance(rankings, pd.DataFrame)
    single = PROJECT.build_features(clean, JukeboxSplit(), 0)
    clean["rankings"] = pd.concat([rankings, rankings], ignore_index=True)
    validation, found = validated(clean, "schema")
    assert "repeat a song, country and date" in found[0].message
    assert (validation.rows, validation.invalid_rows, found[0].count) == (1200, 600, 600)
    double = PROJECT.build_features(clean, JukeboxSplit(), 0)
    np.testing.assert_array_equal(single.train.weight, double.train.weight)


def test_first_usable_description_of_song_is_used(clean: Dataset) -> None:
    songs = songs_of(clean)
    clean["songs"] = pd.concat([songs.assign(tempo=-1), songs, songs.assign(tempo=7)], ignore_index=True)
    validation, found = validated(clean, "schema")
    assert (found[0].count, validation.invalid_rows) == (120, 0)
    features = PROJECT.build_features(clean, JukeboxSplit(), 0)
    np.testing.assert_array_equal(np.unique(features.train.x[:, -1]), np.unique(songs["tempo"].astype("f4")))


@pytest.mark.parametrize("table", ["songs", "rankings"])
def test_missing_table_is_fatal(clean: Dataset, table: str) -> None:
    del clean[table]
    _, found = validated(clean, "schema")
    assert found[0].fatal
    assert f"table {table} is missing or empty" in found[0].message


@pytest.mark.parametrize(("table", "column"), [("songs", "tempo"), ("rankings", "country")])
def test_missing_column_is_fatal(clean: Dataset, table: str, column: str) -> None:
    frame = clean[table]
    assert isinstance(frame, pd.DataFrame)
    clean[table] = frame.drop(columns=column)
    validation, found = validated(clean, "schema")
    assert found[0].fatal
    assert f"table {table} has no column {column}" in found[0].message
    assert validation.invalid_rows == validation.rows == 750


@pytest.mark.parametrize(
    ("table", "column"), [("songs", "tempo"), ("rankings", "daily_rank"), ("rankings", "snapshot_date")]
)
def test_column_of_wrong_type_is_fatal(clean: Dataset, table: str, column: str) -> None:
    frame = clean[table]
    assert isinstance(frame, pd.DataFrame)
    clean[table] = frame.astype({column: "str"})
    _, found = validated(clean, "types")
    assert found[0].fatal
    assert f"table {table}: column {column} is of the wrong type" in found[0].message


@pytest.mark.parametrize(("countries", "left"), [([None], 0), (["XX"], 0), (["DE"], 1)])
def test_fewer_than_two_countries_are_fatal(clean: Dataset, countries: list[str], left: int) -> None:
    rankings = clean["rankings"]
    assert isinstance(rankings, pd.DataFrame)
    clean["rankings"] = rankings.assign(country=pd.Series(countries * len(rankings), dtype="category"))
    _, found = validated(clean, "label_coverage")
    assert found[-1].fatal
    assert f"usable rankings of {left} countries" in found[-1].message


def test_text_columns_give_same_result_as_categories(clean: Dataset) -> None:
    """An artifact store may return text columns instead of categories."""
    rankings = clean["rankings"]
    assert isinstance(rankings, pd.DataFrame)
    before = usability(clean)
    clean["rankings"] = rankings.astype({"spotify_id": "str", "country": "str"})
    after = usability(clean)
    for one, other in [
        (before.usable, after.usable),
        (before.song, after.song),
        (before.country, after.country),
    ]:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "data",
    [sample.generate, pytest.param(lambda: load(real_data()), id="real")],
)
def test_features_have_exactly_valid_rows(
    data: Callable[[], Dataset],
) -> None:
    dataset = data()
    validation = PROJECT.validate(dataset)
    kinds: list[Literal["by_date", "by_song"]] = ["by_date", "by_song"]
    for kind in kinds:
        features = PROJECT.build_features(dataset, JukeboxSplit(kind=kind), 7)
        rows = sum(split.weight.sum() for split in features.splits.values())
        assert rows == validation.rows - validation.invalid_rows


def test_sample_has_known_faults_and_passes() -> None:
    validation = PROJECT.validate(sample.generate())
    assert {finding.rule for finding in validation.findings} == set(PROJECT.rules)
    assert not any(finding.fatal for finding in validation.findings)
    assert 0 < validation.invalid_rows / validation.rows < PROJECT.gates().max_invalid_share / 5


def test_known_faults_of_real_data_are_found() -> None:
    validation = PROJECT.validate(load(real_data()))
    assert (validation.rows, validation.invalid_rows) == (16_099, 0)
    found = {
        finding.message.partition(" songs have ")[2].split(":")[0]: finding for finding in validation.findings
    }
    assert {name: finding.count for name, finding in found.items()} == {
        "a duration_ms outside 1 to 86400000, 6 of them 0 (withdrawn songs)": 6,
        "a loudness above 0 dB": 15,
        "no name or artists (not used by the model)": 6,
    }
    assert all(len(finding.examples) == 5 for finding in validation.findings)


def test_classes_are_sorted_published_charts() -> None:
    assert len(COUNTRIES) == len(set(COUNTRIES)) == 72
    assert list(COUNTRIES) == sorted(COUNTRIES)
    assert all(len(code) == 2 and code.isupper() for code in COUNTRIES)
