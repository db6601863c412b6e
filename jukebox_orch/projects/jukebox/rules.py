"""Validation of the jukebox data: which rows are usable, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from jukebox_orch.contract import Dataset, Finding, Validation
from jukebox_orch.projects.jukebox.days import as_text, choose_days, listed
from jukebox_orch.projects.jukebox.schema import (
    COUNTRIES,
    FEATURES,
    ORIGIN_COLUMNS,
    RANGES,
    RANKING_COLUMNS,
    RANKS,
    SONG_COLUMNS,
)
from jukebox_orch.projects.jukebox.settings import JukeboxSplit


@dataclass(frozen=True)
class Usability:
    """The usable rows. Validation and features share this decision.

    Attributes:
        labelled: (rankings,) bool, rows of a country's chart, not of the worldwide one.
        usable: (rankings,) bool, the labelled rows that are not quarantined.
        song: (rankings,) int64, position of the row's song in table `songs`; -1: unknown or unusable.
        country: (rankings,) int64, index in `COUNTRIES`; -1: not in it.
        findings: problems of the quarantined rows, and of some rows that are kept.
    """

    labelled: np.ndarray
    usable: np.ndarray
    song: np.ndarray
    country: np.ndarray
    findings: Sequence[Finding]


def validate(dataset: Dataset) -> Validation:
    """Validate the dataset. Counted rows are those of the countries' charts: the worldwide chart has no label."""
    fatal = list(_fatal_findings(dataset))
    if fatal:
        rows = len(dataset.get("rankings", ()))
        return Validation(rows=rows, invalid_rows=rows, findings=fatal)
    result = usability(dataset)
    rows, usable = int(result.labelled.sum()), int(result.usable.sum())
    present = np.unique(result.country[result.usable])
    findings = [*result.findings, *_left_out_days(dataset, result.usable)]
    if len(present) < 2:
        findings.append(
            Finding(
                "label_coverage",
                f"usable rankings of {len(present)} countries: nothing to classify; provide at least two",
                rows - usable,
                fatal=True,
            )
        )
    elif len(present) < len(COUNTRIES):
        missing = ", ".join(np.delete(COUNTRIES, present))
        findings.append(Finding("label_coverage", f"no usable rankings of {missing}: never predicted", 0))
    return Validation(rows=rows, invalid_rows=rows - usable, findings=findings)


def usability(dataset: Dataset) -> Usability:
    """Decide which rows of `rankings` are usable. All columns must exist and have their types."""
    songs, rankings = _frames(dataset)
    findings: list[Finding] = []
    usable_songs = _usable_songs(songs, findings)
    first_usable = usable_songs & ~songs["spotify_id"].where(usable_songs).duplicated()
    song, described = _song_positions(songs, rankings, first_usable)
    country, unknown = _countries(rankings)
    rank, date, code = rankings["daily_rank"], rankings["snapshot_date"], rankings["spotify_id"].cat.codes

    worldwide = rankings["country"].isna()
    keys = pd.DataFrame({"song": code, "country": rankings["country"].cat.codes, "date": date, "rank": rank})
    duplicate = keys.duplicated(["song", "country", "date"])
    conflicting = worldwide & _conflicts(keys[worldwide]).reindex(worldwide.index, fill_value=False)
    labelled = ~worldwide | conflicting

    quarantine = {
        ("schema", "repeat a song, country and date; the first is used"): duplicate,
        ("types", "have no snapshot_date"): date.isna(),
        ("ranges", f"have a daily_rank outside {RANKS[0]} to {RANKS[1]}"): ~rank.between(*RANKS),
        ("join_completeness", "are of a song that song properties do not describe"): ~described,
        ("join_completeness", "are of a song without usable properties"): described & (song < 0),
        ("label_coverage", "have a country that is not one of the published charts"): unknown,
        (
            "label_coverage",
            "have no country though the worldwide chart has that rank or song already",
        ): conflicting,
    }
    usable = labelled.to_numpy()
    for (rule, problem), found in quarantine.items():
        wrong = labelled & found
        if wrong.any():
            message = f"{wrong.sum():,} rankings {problem}: left out; correct them in the source"
            findings.append(
                Finding(rule, message, int(wrong.sum()), examples=_examples(rankings, wrong, RANKING_COLUMNS))
            )
        usable = usable & ~wrong.to_numpy()
    return Usability(labelled.to_numpy(), usable, song, country, findings)


def _fatal_findings(dataset: Dataset) -> Iterator[Finding]:
    """Yield findings about missing or wrongly typed tables and columns: no row can be checked."""
    for table, columns in (("songs", SONG_COLUMNS), ("rankings", RANKING_COLUMNS)):
        frame = dataset.get(table)
        if not isinstance(frame, pd.DataFrame) or frame.empty:
            yield Finding("schema", f"table {table} is missing or empty; check the source", 0, fatal=True)
            continue
        missing = [column for column in columns if column not in frame]
        if missing:
            message = f"table {table} has no column {', '.join(missing)}; check the source"
            yield Finding("schema", message, len(frame), fatal=True)
        numbers = {*FEATURES, "daily_rank"} & set(frame)
        wrong = [name for name in sorted(numbers) if not pd.api.types.is_numeric_dtype(frame[name])]
        if "snapshot_date" in frame and not pd.api.types.is_datetime64_any_dtype(frame["snapshot_date"]):
            wrong.append("snapshot_date")
        if wrong:
            message = f"table {table}: column {', '.join(wrong)} is of the wrong type; read the source again"
            yield Finding("types", message, len(frame), fatal=True)


def _left_out_days(dataset: Dataset, usable: np.ndarray) -> Iterator[Finding]:
    """Yield a finding if split by_date, with its default settings, leaves out days with few rankings at the end."""
    _, rankings = _frames(dataset)
    share = JukeboxSplit().min_day_share
    days = choose_days(rankings["snapshot_date"].to_numpy()[usable], share)
    if not (len(days.left_out) and len(days.train)):  # too few days: the features are refused
        return
    found = pd.Series(usable, rankings.index) & rankings["snapshot_date"].isin(days.left_out)
    message = (
        f"{found.sum():,} rankings are of days with less than {share:g} of the usual {days.usual:,.0f} rankings: "
        f"{listed(days.left_out, days.rankings)}. Split by_date with the default split.min_day_share leaves them "
        f"out, validates on {as_text(days.validation)[0]} and tests on {as_text(days.test)[0]}; correct "
        "snapshot_date in the source, or lower split.min_day_share to test on such days"
    )
    yield Finding("ranges", message, int(found.sum()), examples=_examples(rankings, found, RANKING_COLUMNS))


def _frames(dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    songs, rankings = dataset["songs"], dataset["rankings"]
    assert isinstance(songs, pd.DataFrame)  # noqa: S101 - for the type checker: a dataset may hold arrays too
    assert isinstance(rankings, pd.DataFrame)  # noqa: S101
    return songs, rankings.astype({"spotify_id": "category", "country": "category"})


def _usable_songs(songs: pd.DataFrame, findings: list[Finding]) -> pd.Series:
    """Return (songs,) bool: all features present, finite and in range. Add problems to `findings`."""

    def report(rule: str, wrong: pd.Series, problem: str, columns: Sequence[str]) -> None:
        if wrong.any():
            examples = _examples(songs, wrong, ["spotify_id", "name", *columns])
            findings.append(
                Finding(rule, f"{wrong.sum():,} songs {problem}", int(wrong.sum()), examples=examples)
            )

    usable = pd.Series(True, index=songs.index)
    for column, (low, high) in RANGES.items():
        values = songs[column].astype("float64")
        missing, outside = values.isna(), values.notna() & ~values.between(low, high)
        report("types", missing, f"have no {column}: not used; complete or remove them", [column])
        problem = f"have a {column} outside {low} to {high}"
        if column == "duration_ms":
            problem += f", {int((values == 0).sum()):,} of them 0 (withdrawn songs)"
        report("ranges", outside, f"{problem}: not used; correct or remove them", [column])
        usable &= ~(missing | outside)
    report(
        "ranges", songs["loudness"] > 0, "have a loudness above 0 dB: unusual, used unchanged", ["loudness"]
    )
    nameless = songs["name"].isna() | songs["artists"].isna()
    report("types", nameless, "have no name or artists (not used by the model)", ["artists"])
    repeated = songs["spotify_id"].duplicated()
    report("schema", repeated, "are described again: the first usable description is used", [])
    return usable


def _song_positions(
    songs: pd.DataFrame, rankings: pd.DataFrame, usable: pd.Series
) -> tuple[np.ndarray, np.ndarray]:
    """Return per ranking: position of its usable song or -1, and whether `songs` has its song at all."""
    ids, codes = rankings["spotify_id"].cat.categories, rankings["spotify_id"].cat.codes.to_numpy()
    positions = np.flatnonzero(usable)
    found = pd.Index(songs["spotify_id"].to_numpy()[positions]).get_indexer(ids)
    position = np.where(found >= 0, positions[found] if len(positions) else -1, -1)
    described = ids.isin(songs["spotify_id"])
    # The appended entry is for rankings without a song id (code -1).
    return np.append(position, -1)[codes], np.append(described, False)[codes]


def _countries(rankings: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return per ranking: index of its country or -1, and whether its country is unknown."""
    codes = rankings["country"].cat.codes.to_numpy()
    index = pd.Index(COUNTRIES).get_indexer(rankings["country"].cat.categories)
    country = np.append(index, -1)[codes]
    return country, (codes >= 0) & (country < 0)


def _conflicts(worldwide: pd.DataFrame) -> pd.Series:
    """Return the rows whose rank or song is taken by another row: a daily chart has each rank and song once."""
    taken = worldwide.duplicated(["date", "rank"]) | worldwide.duplicated(["date", "song"])
    return taken & ~worldwide.duplicated()


def _examples(frame: pd.DataFrame, wrong: pd.Series, columns: Sequence[str]) -> list[dict[str, object]]:
    """Return the first five wrong rows as plain values, with their file and their row in it."""
    # A table that was not read from files, or was stored by an earlier version, has no such columns.
    origin = [name for name in ORIGIN_COLUMNS if name in frame]
    rows = frame.loc[wrong, [*origin, *columns]].head(5)
    shown = rows.astype("str").astype(object).where(rows.notna(), None)
    if "row" in rows:
        shown["row"] = rows["row"].astype(object)
    else:
        shown.insert(0, "row", np.flatnonzero(wrong)[:5])
    return [{str(name): value for name, value in row.items()} for row in shown.to_dict("records")]
