"""Chooses the days of split by_date: the last full day tests, the full day before it validates, earlier days train."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Days:
    """The days of the splits, ascending datetime64 each; an empty array where the data has too few days.

    Attributes:
        left_out: days after the validation day that have too few rankings to test on. They are in no split: the
            model must not train on days after those that it is tested on.
        rankings: number of rankings per day, ascending by day.
        usual: usual number of rankings of a day.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    left_out: np.ndarray
    rankings: pd.Series
    usual: float


def choose_days(dates: np.ndarray, min_day_share: float) -> Days:
    """Choose the days for the rankings' `dates`, (rows,) datetime64 without NaT.

    A day is full if it has at least `min_day_share` of the usual number of rankings. A day before the validation
    day trains, full or not.
    """
    rankings = pd.Series(dates).value_counts(sort=False).sort_index()
    days, counts = rankings.index.to_numpy(), rankings.to_numpy()
    # The median over rankings, not over days: many mistyped dates give many days, but few rankings.
    usual = float(np.quantile(counts, 0.5, weights=counts, method="inverted_cdf")) if len(counts) else 0.0
    full = days[counts >= min_day_share * usual]
    test, validation = full[-1:], full[-2:-1]
    earlier = days < validation[0] if len(validation) else np.zeros(len(days), bool)
    return Days(
        train=days[earlier],
        validation=validation,
        test=test,
        left_out=days[~earlier & ~np.isin(days, full[-2:])],
        rankings=rankings,
        usual=usual,
    )


def listed(days: np.ndarray, rankings: pd.Series) -> str:
    """Return the first five days with their number of rankings, for messages."""
    first = days[:5]
    texts = [f"{day} ({n:,})" for day, n in zip(as_text(first), rankings.loc[first], strict=True)]
    more = f" and {len(days) - 5:,} more" if len(days) > 5 else ""
    return f"{', '.join(texts)}{more}"


def as_text(days: np.ndarray) -> np.ndarray:
    """Return days as YYYY-MM-DD."""
    return np.datetime_as_string(days, unit="D")
