"""Rows are split by shares or by time; rows with the same key stay in one split."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jukebox_orch.contract import Categories, Features, InputError, Split, split_by_share, split_by_time
from jukebox_orch.contract.splitting import late_entries


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


HOURS = np.datetime64("2026-01-05T00", "h") + np.arange(100)


def test_split_by_time_puts_newest_rows_into_test() -> None:
    shuffled = np.random.default_rng(1).permutation(np.repeat(HOURS, 3))
    rows = split_by_time(shuffled, 0.2, 0.1)
    assert {name: len(set(shuffled[index])) for name, index in rows.items()} == {
        "train": 70,
        "validation": 20,
        "test": 10,
    }
    assert sum(map(len, rows.values())) == 300
    assert shuffled[rows["train"]].max() < shuffled[rows["validation"]].min()
    assert shuffled[rows["validation"]].max() < shuffled[rows["test"]].min()


def test_gap_leaves_out_rows_before_each_later_split() -> None:
    rows = split_by_time(HOURS, 0.2, 0.1, gap=np.timedelta64(5, "h"))
    ends = [HOURS[rows[name]].max() for name in ("train", "validation")]
    assert [HOURS[rows["validation"]].min() - ends[0], HOURS[rows["test"]].min() - ends[1]] == [
        np.timedelta64(6, "h")
    ] * 2


def test_split_by_time_refuses_too_few_times_and_missing_ones() -> None:
    with pytest.raises(InputError, match="2 different times are too few"):
        split_by_time(np.array([1, 1, 2]), 0.2, 0.2)
    with pytest.raises(InputError, match="1 rows have no time"):
        split_by_time(np.array([1, np.nan, 3]), 0.2, 0.2)
    with pytest.raises(
        InputError, match=r"gap = 51: the times are datetime64\[h\], so give np.timedelta64\(51, 'h'\)"
    ):
        split_by_time(HOURS, 0.2, 0.1, gap=51)
    with pytest.raises(InputError, match="so give a number"):
        split_by_time(np.arange(100), 0.2, 0.1, gap=np.timedelta64(5, "h"))
    with pytest.raises(InputError, match="a gap of 50 leaves no rows for validation"):
        split_by_time(np.arange(100), 0.2, 0.1, gap=50)


def features_of(times: dict[str, np.ndarray | None]) -> Features:
    splits: dict[str, Any] = {
        name: replace(
            Split.of_rows(np.zeros((4, 1), "float32"), np.zeros(4, "int64"), np.arange(4)), times=values
        )
        for name, values in times.items()
    }
    return Features(**splits, inputs=("a",))


def test_leak_by_time_is_counted_and_told() -> None:
    late, text = late_entries(
        features_of({"train": HOURS[:4], "validation": HOURS[3:7], "test": HOURS[7:11]})
    )
    assert (late, text) == (
        1,
        "train ends 2026-01-05T03, validation begins 2026-01-05T03 and ends 2026-01-05T06, "
        "test begins 2026-01-05T07",
    )
    assert late_entries(features_of(dict.fromkeys(("train", "validation", "test"))))[0] == 0


def test_categories_are_texts_or_whole_numbers() -> None:
    block = Categories.of_train("code", np.array([20.0, np.nan, 10.0]))
    assert block.values == (10, 20)
    assert block.codes(np.array([10.0, np.nan, 30.0, 20.0])).tolist() == [0, 2, 2, 1]
    for values in (["a", 1], [True, False], [0.5, 1.0], [None], [2**63 - 1, 1]):
        with pytest.raises(
            InputError, match=r"categories 'code' have values of type .*: use texts, or whole numbers"
        ):
            Categories.of_train("code", np.array(values, object))
