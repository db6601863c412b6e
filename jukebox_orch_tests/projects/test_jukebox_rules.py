"""Validation finds what is wrong with songs and rankings, and quarantines what cannot be used."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from jukebox_orch.contract import Dataset, Finding, Source, Validation
from jukebox_orch.projects.jukebox import Jukebox, JukeboxSplit, sample
from jukebox_orch.projects.jukebox.rules import usability
from jukebox_orch.projects.jukebox.schema import COUNTRIES, RANGES
from jukebox_orch_tests.support.parts import real_data

PROJECT = Jukebox()


@pytest.fixture
def clean() -> Dataset:
    """Three days of sixty songs in four charts and the world's, nothing wrong with them."""
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


def test_clean_data_has_no_finding_but_the_absent_countries(clean: Dataset) -> None:
    validation = PROJECT.validate(clean)
    assert (validation.rows, validation.invalid_rows) == (600, 0)  # the world's chart is no label
    assert [finding.rule for finding in validation.findings] == ["label_coverage"]
    assert "no usable rankings of AR, AT, AU" in validation.findings[0].message


@pytest.mark.parametrize("feature", RANGES)
@pytest.mark.parametrize(
    ("value", "rule"), [(np.nan, "types"), (np.inf, "ranges"), (1e308, "ranges"), (-99, "ranges")]
)
def test_songs_with_unusable_features_are_quarantined_with_their_rankings(
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


def test_songs_without_length_are_counted_as_withdrawn(clean: Dataset) -> None:
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
def test_oddities_that_do_no_harm_are_reported_and_kept(
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
def test_unusable_rankings_are_quarantined_and_shown(
    clean: Dataset, column: str, value: object, rule: str, message: str
) -> None:
    rankings = clean["rankings"]
    assert isinstance(rankings, pd.DataFrame)
    if column == "country" and value is None:  # the world's chart of that day first, in any order of files
        clean["rankings"] = rankings.sort_values(
            "country", na_position="first", kind="stable", ignore_index=True
        )
    change(clean, "rankings", [300, 302], column, value)
    validation, found = validated(clean, rule)
    assert len(found) == 1
    assert message in found[0].message
    assert (found[0].count, validation.invalid_rows, validation.rows) == (2, 2, 600)
    assert [example["row"] for example in found[0].examples] == [300, 302]


def test_at_most_five_rows_are_shown(clean: Dataset) -> None:
    change(clean, "rankings", slice(0, 40), "daily_rank", 99)
    _, found = validated(clean, "ranges")
    assert found[0].count == 41
    assert len(found[0].examples) == 5


def test_a_file_given_twice_counts_once(clean: Dataset) -> None:
    rankings = clean["rankings"]
    assert isinstance(rankings, pd.DataFrame)
    once = PROJECT.build_features(clean, JukeboxSplit(), 0)
    clean["rankings"] = pd.concat([rankings, rankings], ignore_index=True)
    validation, found = validated(clean, "schema")
    assert "repeat a song, country and date" in found[0].message
    assert (validation.rows, validation.invalid_rows, found[0].count) == (1200, 600, 600)
    twice = PROJECT.build_features(clean, JukeboxSplit(), 0)
    np.testing.assert_array_equal(once.train.weight, twice.train.weight)


def test_a_song_described_again_counts_by_its_first_usable_description(clean: Dataset) -> None:
    songs = songs_of(clean)
    clean["songs"] = pd.concat([songs.assign(tempo=-1), songs, songs.assign(tempo=7)], ignore_index=True)
    validation, found = validated(clean, "schema")
    assert (found[0].count, validation.invalid_rows) == (120, 0)
    features = PROJECT.build_features(clean, JukeboxSplit(), 0)
    np.testing.assert_array_equal(np.unique(features.train.x[:, -1]), np.unique(songs["tempo"].astype("f4")))


@pytest.mark.parametrize("table", ["songs", "rankings"])
def test_a_missing_table_is_fatal(clean: Dataset, table: str) -> None:
    del clean[table]
    _, found = validated(clean, "schema")
    assert found[0].fatal
    assert f"table {table} is missing or empty" in found[0].message


@pytest.mark.parametrize(("table", "column"), [("songs", "tempo"), ("rankings", "country")])
def test_a_missing_column_is_fatal(clean: Dataset, table: str, column: str) -> None:
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
def test_a_column_of_the_wrong_type_is_fatal(clean: Dataset, table: str, column: str) -> None:
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


def test_categories_may_come_in_any_form(clean: Dataset) -> None:
    """An artifact store may give back plain text where there were categories."""
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
    [sample.generate, pytest.param(lambda: PROJECT.load(Source(location=str(real_data()))), id="real")],
)
def test_features_hold_exactly_the_rows_that_validation_leaves(
    data: Callable[[], Dataset],
) -> None:
    dataset = data()
    validation = PROJECT.validate(dataset)
    kinds: list[Literal["by_date", "by_song"]] = ["by_date", "by_song"]
    for kind in kinds:
        features = PROJECT.build_features(dataset, JukeboxSplit(kind=kind), 7)
        rows = sum(part.weight.sum() for part in features.splits.values())
        assert rows == validation.rows - validation.invalid_rows


def test_the_sample_has_some_of_the_known_dirt_and_passes() -> None:
    validation = PROJECT.validate(sample.generate())
    assert {finding.rule for finding in validation.findings} == set(PROJECT.rules)
    assert not any(finding.fatal for finding in validation.findings)
    assert 0 < validation.invalid_rows / validation.rows < PROJECT.gates().max_invalid_share / 5


def test_the_known_dirt_of_the_real_data_is_found() -> None:
    validation = PROJECT.validate(PROJECT.load(Source(location=str(real_data()))))
    assert (validation.rows, validation.invalid_rows) == (16_099, 0)
    found = {
        finding.message.partition(" songs have ")[2].split(":")[0]: finding for finding in validation.findings
    }
    assert {name: finding.count for name, finding in found.items()} == {
        "a duration_ms outside 1 to 86400000, 6 of them 0 (withdrawn songs)": 6,
        "a loudness above 0 dB": 15,
        "no name or artists": 6,
    }
    assert all(len(finding.examples) == 5 for finding in validation.findings)


def test_the_classes_are_the_sorted_published_charts() -> None:
    assert len(COUNTRIES) == len(set(COUNTRIES)) == 72
    assert list(COUNTRIES) == sorted(COUNTRIES)
    assert all(len(code) == 2 and code.isupper() for code in COUNTRIES)
