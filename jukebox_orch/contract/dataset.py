"""A dataset as its source holds it, and the result of validating it."""

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
"""Named tables and arrays as the source holds them: values are typed but not changed."""


@dataclass(frozen=True)
class Finding:
    """Result of one validation rule.

    Attributes:
        rule: name of the rule, one of the project's `rules`.
        message: what is wrong and what to do, shown to the user.
        count: number of affected rows.
        fatal: True: the data cannot be used and the run stops. False: the rows are quarantined.
        examples: up to five of the affected rows, column -> value.
    """

    rule: str
    message: str
    count: int
    fatal: bool = False
    examples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Validation:
    """Result of validating a dataset: `rows` checked, `invalid_rows` of them unusable, and the reasons."""

    rows: int
    invalid_rows: int
    findings: Sequence[Finding] = ()
