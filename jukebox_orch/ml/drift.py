"""Measures drift of new data from the training data by the population stability index (PSI)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

# Columns with at most this many distinct values get one bin per value: quantiles hide shifts of a binary column.
_FEW_VALUES = 20
_BINS = 10
# A bin that is empty on one side would make the index infinite.
_SMALLEST_SHARE = 1e-4

Profile = dict[str, dict[str, Any]]


def profile(table: pd.DataFrame) -> Profile:
    """Return the distribution of every column: `values` or `edges` of the bins, and their `shares`; JSON-ready.

    The last bin holds missing and infinite values.
    """
    return {str(name): _describe(column.to_numpy(np.float64)) for name, column in table.items()}


def psi(reference: Profile, table: pd.DataFrame) -> dict[str, float]:
    """Return the PSI per column of `reference` that `table` has: sum over bins of (new - old) * ln(new / old).

    Source: Siddiqi, Credit Risk Scorecards (2006); 0.1 is commonly taken as a moderate shift, 0.2 as a large one.
    """
    result = {}
    for name, bins in reference.items():
        if name in table:
            old = np.maximum(bins["shares"], _SMALLEST_SHARE)
            new = np.maximum(_shares(table[name].to_numpy(np.float64), bins), _SMALLEST_SHARE)
            result[name] = float(((new - old) * np.log(new / old)).sum())
    return result


def _describe(values: np.ndarray) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    distinct = np.unique(finite)
    bins: dict[str, Any] = (
        {"values": distinct.tolist()}
        if len(distinct) <= _FEW_VALUES
        else {"edges": np.unique(np.quantile(finite, np.linspace(0, 1, _BINS + 1)[1:-1])).tolist()}
    )
    return {**bins, "shares": _shares(values, bins).tolist(), "rows": len(values)}


def _shares(values: np.ndarray, bins: dict[str, Any]) -> np.ndarray:
    """Return the share of values per bin; bins of single values get one more for others; the last is for missing."""
    finite = values[np.isfinite(values)]
    if "values" in bins:
        known = np.asarray(bins["values"])
        index = np.searchsorted(known, finite)
        seen = (
            (index < len(known)) & (known[np.minimum(index, len(known) - 1)] == finite)
            if len(known)
            else index < 0
        )
        counts = np.bincount(np.where(seen, index, len(known)), minlength=len(known) + 1)
    else:
        counts = np.bincount(
            np.searchsorted(bins["edges"], finite, side="right"), minlength=len(bins["edges"]) + 1
        )
    return np.append(counts, len(values) - len(finite)) / max(len(values), 1)
