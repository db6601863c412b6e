"""Split rows into train, validation and test: by shares of keys, or in the order of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jukebox_orch.contract.settings import InputError

if TYPE_CHECKING:
    import numpy as np

    from jukebox_orch.contract.features import Features


def split_by_share(
    keys: np.ndarray,
    validation_share: float,
    test_share: float,
    seed: int,
    strata: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the row numbers (ascending) of train, validation and test.

    Args:
        keys: (n,) the group of each row: a customer, a patient, or the row's content or number. All rows of a
            key go to one split; otherwise the model would be tested on data it was trained on.
        validation_share, test_share: shares of the distinct keys, 0..1; at least one key each, 0: none.
        strata: (n,) class of each row; every class is split by the shares; None: no classes.

    Raises:
        InputError: there are no rows, or a class has too few distinct keys for the splits.
    """
    import numpy as np

    if not len(keys):
        raise InputError("no usable rows to split; see the checks of validated_data and correct the data")
    classes = np.zeros(len(keys)) if strata is None else strata
    random = np.random.default_rng(seed)
    split = np.full(len(keys), "train", "U10")
    for name in np.unique(classes):
        shuffled = random.permutation(np.unique(keys[classes == name]))
        sizes = [
            max(1, round(share * len(shuffled))) if share else 0 for share in (validation_share, test_share)
        ]
        validation, test = shuffled[: sizes[0]], shuffled[sizes[0] : sum(sizes)]
        if len(shuffled) <= sum(sizes):
            group = "the data" if strata is None else f"class {str(name)!r}"
            raise InputError(
                f"{group} has {len(shuffled)} different entries: too few for train, validation and test; "
                "add data or lower the shares"
            )
        split[np.isin(keys, validation)] = "validation"
        split[np.isin(keys, test)] = "test"
    return {name: np.flatnonzero(split == name) for name in ("train", "validation", "test")}


def split_by_time(
    times: np.ndarray, validation_share: float, test_share: float, gap: np.timedelta64 | float | None = None
) -> dict[str, np.ndarray]:
    """Return the row numbers (ascending) of train, validation and test, the newest rows in test.

    Rows of one time stay in one split. Use the times as keys of the splits: then the check `no_overlap` compares them.

    Args:
        times: (n,) when each row was observed: datetime64, or numbers such as the year.
        validation_share, test_share: shares of the distinct times, 0..1; at least one time each.
        gap: rows closer than this before the first time of a later split belong to no split: how long before its time a
            row's target was still unknown, or how far a window reaches back; None: no gap.

    Raises:
        InputError: there are too few times for three splits, or a time is missing.
    """
    import numpy as np
    import pandas as pd

    if pd.isna(times).any():
        raise InputError(f"{int(pd.isna(times).sum())} rows have no time: drop them before the split")
    if gap is not None and (times.dtype.kind == "M") != isinstance(gap, np.timedelta64):
        unit = f"np.timedelta64({gap}, 'h')" if times.dtype.kind == "M" else "a number"
        raise InputError(f"gap = {gap!r}: the times are {times.dtype}, so give {unit}")
    distinct = np.unique(times)
    test = max(1, round(test_share * len(distinct)))
    validation = max(1, round(validation_share * len(distinct)))
    if len(distinct) <= test + validation:
        raise InputError(
            f"{len(distinct)} different times are too few for train, validation and test: add data or lower the shares"
        )
    first_test, first_validation = distinct[-test], distinct[-test - validation]
    end_train = first_validation if gap is None else first_validation - gap
    end_validation = first_test if gap is None else first_test - gap
    rows = {
        "train": np.flatnonzero(times < end_train),
        "validation": np.flatnonzero((times >= first_validation) & (times < end_validation)),
        "test": np.flatnonzero(times >= first_test),
    }
    if empty := [name for name, index in rows.items() if not len(index)]:
        raise InputError(
            f"a gap of {gap} leaves no rows for {' and '.join(empty)}: use a smaller one, or add data"
        )
    return rows


def late_entries(features: Features) -> tuple[int, str]:
    """Return how many entries are not older than those of the next split, by `Split.times`, and this in words."""
    import numpy as np

    times = [split.times for split in features.splits.values() if split.times is not None]
    if not times:
        return 0, "the split is not one by time: its entries have no times"
    train, validation, test = times
    late = int(np.count_nonzero(train >= validation.min())) + int(np.count_nonzero(validation >= test.min()))
    return late, (
        f"train ends {train.max()}, validation begins {validation.min()} and ends {validation.max()}, "
        f"test begins {test.min()}"
    )
