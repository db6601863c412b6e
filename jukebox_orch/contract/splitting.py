"""Split rows into train, validation and test; rows with the same key stay in one split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jukebox_orch.contract.settings import InputError

if TYPE_CHECKING:
    import numpy as np


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
