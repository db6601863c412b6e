"""Reads dates from text. The file's own dates decide the order of day and month in slash dates.

`12/25/2024` can only be month first, so the file's other slash dates are month first too. `2/12/2025` alone can be
read both ways: a file with such dates only is refused until the source's settings say how to read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from jukebox_orch.contract import InputError

DateFormat = Literal["auto", "month_first", "day_first"]
"""How slash dates are read; auto: as the file's own dates show."""

_TIME = r"(?:[T ][\d:.]+(?:Z|[+-]\d{2}:?\d{2})?)?"
_ISO = rf"^(\d{{4}}-\d{{2}}-\d{{2}}){_TIME}$"
_SLASH = rf"^(\d{{1,2}}/\d{{1,2}}/\d{{4}}){_TIME}$"
_ORDERS = {"day_first": "%d/%m/%Y", "month_first": "%m/%d/%Y"}
_WORDS = {"day_first": "day first", "month_first": "month first"}


def read_dates(
    column: pd.Series, others: Callable[[], Sequence[pd.Series]], order: DateFormat, shown: str
) -> pd.Series:
    """Return the dates of `column` as datetime64[us]. The time of day, which some exports add, is dropped.

    Args:
        others: reads the other date columns of the file; called only if `column` has slash dates and `order` is
            auto.
        order: how slash dates are read; auto: as the file's own dates show.
        shown: name of the file, for messages.

    Raises:
        InputError: a value is not a date, or the order of day and month is unknown or contradictory.
    """
    if pd.api.types.is_datetime64_any_dtype(column):
        return column.dt.tz_localize(None).dt.normalize().astype("datetime64[us]")
    codes, text = _distinct(column)
    slashed = text.str.extract(_SLASH)[0]
    dates = pd.to_datetime(text.str.extract(_ISO)[0], format="%Y-%m-%d", errors="coerce")
    readable = dates.notna() | _readings(slashed).notna().any(axis=1)
    if not readable.all():
        wrong = column[np.isin(codes, np.flatnonzero(~readable))]
        raise conversion_error("dates (expected YYYY-MM-DD, DD/MM/YYYY or MM/DD/YYYY)", wrong, shown)
    if slashed.notna().any():
        order = _order_of(column, others, order, shown)
        dates = dates.fillna(_readings(slashed)[order])
    days = dates.to_numpy().astype("datetime64[us]")
    # The appended entry is for missing values (code -1).
    return pd.Series(np.append(days, np.datetime64("NaT", "us"))[codes], index=column.index)


def conversion_error(expected: str, bad: pd.Series, shown: str) -> InputError:
    """Return the error for the values `bad`, whose index is their row in the file."""
    first = ", ".join(f"{value!r} in row {row}" for row, value in bad.head(5).items())
    return InputError(
        f"{shown}: column {bad.name}: {len(bad):,} values are not {expected}: {first}. Fix them in the source. "
        "(Row 0 is the first row below the header.)"
    )


def _order_of(
    column: pd.Series, others: Callable[[], Sequence[pd.Series]], order: DateFormat, shown: str
) -> Literal["month_first", "day_first"]:
    """Return the order of day and month in the slash dates of `column`."""
    proofs, ambiguous = _evidence([column])
    if order != "auto":
        opposite = next((name for name in proofs if name != order), None)
        if opposite:
            raise InputError(
                f"{shown}: {proofs[opposite]} can only be {_WORDS[opposite]}, but source.date_format is {order}; "
                "change the setting, or write the dates as YYYY-MM-DD"
            )
        return order
    proofs, _ = _evidence([column, *others()])
    if len(proofs) > 1:
        raise InputError(
            f"{shown}: {proofs['day_first']} can only be day first, {proofs['month_first']} only month first; "
            f"write the dates as YYYY-MM-DD, or set source.date_format to the order of {column.name}"
        )
    if not proofs and ambiguous:
        raise InputError(
            f"{shown}: {ambiguous} can be read day first and month first, and no date of the file decides; "
            "set source.date_format to day_first or month_first, or write the dates as YYYY-MM-DD"
        )
    return "month_first" if "month_first" in proofs else "day_first"


def _evidence(columns: Sequence[pd.Series]) -> tuple[dict[str, str], str]:
    """Return the first value that can only be read in one order, by order, and the first that differs between both."""
    proofs: dict[str, str] = {}
    ambiguous = ""
    for column in columns:
        codes, text = _distinct(column)
        readings = _readings(text.str.extract(_SLASH)[0])
        valid = readings.notna()
        for order, opposite in (("day_first", "month_first"), ("month_first", "day_first")):
            only = valid[order] & ~valid[opposite]
            if only.any():
                proofs.setdefault(order, _first(column, codes, only))
        both = valid.all(axis=1) & (readings["day_first"] != readings["month_first"])
        if both.any() and not ambiguous:
            ambiguous = _first(column, codes, both)
    return proofs, ambiguous


def _first(column: pd.Series, codes: np.ndarray, chosen: pd.Series) -> str:
    """Return column, value and row of the first of the `chosen` distinct values, for messages."""
    row = np.isin(codes, np.flatnonzero(chosen)).argmax()
    return f"column {column.name}: {column.iloc[row]!r} in row {row}"


def _distinct(column: pd.Series) -> tuple[np.ndarray, pd.Series]:
    """Return per row the position of its value, -1 if it is missing, and the distinct values as text."""
    codes, values = pd.factorize(column)
    return codes, pd.Series(values).astype("str").str.strip()


def _readings(slashed: pd.Series) -> pd.DataFrame:
    """Return the dates of `slashed` in either order; NaT where the text is not a date in that order."""
    return pd.DataFrame(
        {order: pd.to_datetime(slashed, format=layout, errors="coerce") for order, layout in _ORDERS.items()}
    )
