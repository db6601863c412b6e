"""The population stability index: its formula, and columns that break naive binning."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jukebox_orch.ml.drift import profile, psi


def stored(table: pd.DataFrame) -> dict:
    """A profile as it comes back from the model store."""
    return json.loads(json.dumps(profile(table), allow_nan=False))


numbers = st.lists(
    st.one_of(st.floats(width=32), st.integers(-3, 3).map(float), st.just(float("nan"))),
    min_size=1,
    max_size=200,
)


@given(numbers)
@settings(deadline=None)
def test_the_same_data_has_not_moved(values: list[float]):
    table = pd.DataFrame({"x": values})
    assert psi(stored(table), table) == {"x": 0.0}


@given(numbers, numbers)
@settings(deadline=None)
def test_the_index_is_finite_and_never_negative(old: list[float], new: list[float]):
    (value,) = psi(stored(pd.DataFrame({"x": old})), pd.DataFrame({"x": new})).values()
    assert np.isfinite(value)
    assert value >= 0


@given(numbers)
@settings(deadline=None)
def test_shares_add_up_to_one(values: list[float]):
    assert sum(stored(pd.DataFrame({"x": values}))["x"]["shares"]) == pytest.approx(1)


def test_the_formula_on_a_column_of_two_values():
    old, new = (
        pd.DataFrame({"explicit": [0] * 80 + [1] * 20}),
        pd.DataFrame({"explicit": [0] * 50 + [1] * 50}),
    )
    expected = (0.5 - 0.8) * np.log(0.5 / 0.8) + (0.5 - 0.2) * np.log(0.5 / 0.2)
    assert psi(stored(old), new)["explicit"] == pytest.approx(expected)


def test_a_normal_column_is_divided_into_ten_bins_of_equal_share():
    values = np.random.default_rng(0).normal(size=10_000)
    described = stored(pd.DataFrame({"x": values}))["x"]
    assert len(described["edges"]) == 9
    np.testing.assert_allclose(described["shares"][:-1], 0.1, atol=1e-3)
    assert described["shares"][-1] == 0


def test_small_noise_is_below_the_usual_threshold_and_a_shift_above():
    random = np.random.default_rng(0)
    reference = stored(pd.DataFrame({"x": random.normal(size=5_000)}))
    assert psi(reference, pd.DataFrame({"x": random.normal(size=5_000)}))["x"] < 0.02
    assert psi(reference, pd.DataFrame({"x": random.normal(loc=1, size=5_000)}))["x"] > 0.2


def test_missing_values_that_appear_count_as_a_shift():
    reference = stored(pd.DataFrame({"x": np.arange(1000.0)}))
    table = pd.DataFrame({"x": np.where(np.arange(1000) % 4 == 0, np.nan, np.arange(1000.0))})
    assert psi(reference, table)["x"] > 0.2


def test_a_value_never_seen_before_counts_as_a_shift():
    assert psi(stored(pd.DataFrame({"key": [1, 2] * 50})), pd.DataFrame({"key": [1, 2, 3] * 30}))["key"] > 0.2


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([True, False, True]),
        pd.Series([1, 2, 3], dtype="int64"),
        pd.Series([1.5, None, 2.5]),
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([True, None, False], dtype="boolean"),
        pd.Series([1.0, None, 3.0], dtype="double[pyarrow]"),
        pd.Series([np.nan, np.nan, np.nan]),
    ],
    ids=["bool", "int", "float", "nullable int", "nullable bool", "arrow", "nothing"],
)
def test_columns_of_every_numeric_type_are_described(column: pd.Series):
    table = pd.DataFrame({"x": column})
    assert psi(stored(table), table) == {"x": 0.0}


def test_an_empty_table_is_described_and_compared():
    empty, table = pd.DataFrame({"x": np.array([], float)}), pd.DataFrame({"x": [1.0, 2.0]})
    assert psi(stored(empty), empty) == {"x": 0.0}
    assert np.isfinite(psi(stored(table), empty)["x"])
    assert np.isfinite(psi(stored(empty), table)["x"])


def test_columns_that_only_one_side_has_are_left_out():
    assert list(
        psi(stored(pd.DataFrame({"a": [1.0], "b": [1.0]})), pd.DataFrame({"b": [1.0], "c": [1.0]}))
    ) == ["b"]
