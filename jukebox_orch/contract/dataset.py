"""A dataset as its source holds it, and what validation finds in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Dataset = dict[str, pd.DataFrame | np.ndarray]
else:
    Dataset = dict
"""Named tables and arrays as the source holds them; values are typed, never altered."""


@dataclass(frozen=True)
class Finding:
    """What one validation rule found.

    Attributes:
        rule: name of the rule, one of the project's `rules`.
        message: what is wrong and what to do, for a person.
        count: rows concerned.
        fatal: True: the data cannot be used at all, the run stops. False: the rows are quarantined.
        examples: up to five of the offending rows, column -> value.
    """

    rule: str
    message: str
    count: int
    fatal: bool = False
    examples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Validation:
    """Verdict over a dataset: `rows` looked at, `invalid_rows` of them not usable, and why."""

    rows: int
    invalid_rows: int
    findings: Sequence[Finding] = ()
