"""Rows are split by shares; rows with the same key stay in one split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jukebox_orch.contract import InputError, split_by_share


@given(
    keys=st.lists(st.integers(0, 40), min_size=1, max_size=200),
    classes=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_every_row_and_key_is_in_one_split(keys: list[int], classes: int, seed: int) -> None:
    array = np.array(keys)
    try:
        rows = split_by_share(array, 0.2, 0.3, seed, array % classes)
    except InputError:
        assert min(len(np.unique(array[array % classes == c])) for c in np.unique(array % classes)) < 3
        return
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(keys)))
    groups = [set(array[index]) for index in rows.values()]
    assert sum(map(len, groups)) == len(set(keys))
    assert all(groups)


def test_shares_apply_to_every_class() -> None:
    strata = np.repeat(["rare", "common"], [20, 200])
    rows = split_by_share(np.arange(220), 0.1, 0.2, 0, strata)
    assert {n: np.unique(strata[i], return_counts=True)[1].tolist() for n, i in rows.items()} == {
        "train": [140, 14],
        "validation": [20, 2],
        "test": [40, 4],
    }


def test_key_with_two_classes_stays_in_one_split() -> None:
    keys = np.repeat(np.arange(50), 2)
    rows = split_by_share(keys, 0.2, 0.2, 0, np.tile(["a", "b"], 50))
    groups = [set(keys[index]) for index in rows.values()]
    assert sum(map(len, groups)) == 50


def test_zero_share_gives_empty_split() -> None:
    assert len(split_by_share(np.arange(10), 0.2, 0, 0)["test"]) == 0


def test_seed_determines_split() -> None:
    first, same, other = (
        split_by_share(np.arange(100), 0.2, 0.2, seed)["test"].tolist() for seed in (1, 1, 2)
    )
    assert first == same != other


def test_class_with_too_few_keys_is_refused() -> None:
    with pytest.raises(InputError, match="class 'cat' has 2 different entries: too few"):
        split_by_share(np.arange(12), 0.1, 0.1, 0, np.repeat(["cat", "dog"], [2, 10]))
    with pytest.raises(InputError, match="the data has 2 different entries"):
        split_by_share(np.array([1, 2, 1]), 0.1, 0.1, 0)


def test_empty_input_is_refused() -> None:
    with pytest.raises(InputError, match="no usable rows to split"):
        split_by_share(np.array([]), 0.1, 0.1, 0)
