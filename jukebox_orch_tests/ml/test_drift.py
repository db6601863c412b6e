"""The population stability index: its formula, and columns that simple binning cannot handle."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jukebox_orch.ml.drift import profile, psi


def stored(table: pd.DataFrame) -> dict:
    """Return a profile as it is read from the model store."""
    return json.loads(json.dumps(profile(table), allow_nan=False))


numbers = st.lists(
    st.one_of(st.floats(width=32), st.integers(-3, 3).map(float), st.just(float("nan"))),
    min_size=1,
    max_size=200,
)


@given(numbers)
@settings(deadline=None)
def test_equal_data_has_zero_psi(values: list[float]):
    table = pd.DataFrame({"x": values})
    assert psi(stored(table), table) == {"x": 0.0}


@given(numbers, numbers)
@settings(deadline=None)
def test_psi_is_finite_and_not_negative(old: list[float], new: list[float]):
    (value,) = psi(stored(pd.DataFrame({"x": old})), pd.DataFrame({"x": new})).values()
    assert np.isfinite(value)
    assert value >= 0


@given(numbers)
@settings(deadline=None)
def test_shares_sum_to_one(values: list[float]):
    assert sum(stored(pd.DataFrame({"x": values}))["x"]["shares"]) == pytest.approx(1)


def test_psi_of_binary_column_equals_formula():
    old, new = (
        pd.DataFrame({"explicit": [0] * 80 + [1] * 20}),
        pd.DataFrame({"explicit": [0] * 50 + [1] * 50}),
    )
    expected = (0.5 - 0.8) * np.log(0.5 / 0.8) + (0.5 - 0.2) * np.log(0.5 / 0.2)
    assert psi(stored(old), new)["explicit"] == pytest.approx(expected)


def test_continuous_column_has_ten_equal_bins():
    values = np.random.default_rng(0).normal(size=10_000)
    described = stored(pd.DataFrame({"x": values}))["x"]
    assert len(described["edges"]) == 9
    np.testing.assert_allclose(described["shares"][:-1], 0.1, atol=1e-3)
    assert described["shares"][-1] == 0


def test_psi_separates_noise_from_shift():
    random = np.random.default_rng(0)
    reference = stored(pd.DataFrame({"x": random.normal(size=5_000)}))
    assert psi(reference, pd.DataFrame({"x": random.normal(size=5_000)}))["x"] < 0.02
    assert psi(reference, pd.DataFrame({"x": random.normal(loc=1, size=5_000)}))["x"] > 0.2


def test_new_missing_values_count_as_shift():
    reference = stored(pd.DataFrame({"x": np.arange(1000.0)}))
    table = pd.DataFrame({"x": np.where(np.arange(1000) % 4 == 0, np.nan, np.arange(1000.0))})
    assert psi(reference, table)["x"] > 0.2


def test_unknown_value_counts_as_shift():
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
    ids=["bool", "int", "float", "nullable int", "nullable bool", "arrow", "all missing"],
)
def test_every_numeric_type_has_profile(column: pd.Series):
    table = pd.DataFrame({"x": column})
    assert psi(stored(table), table) == {"x": 0.0}


def test_empty_table_has_profile_and_finite_psi():
    empty, table = pd.DataFrame({"x": np.array([], float)}), pd.DataFrame({"x": [1.0, 2.0]})
    assert psi(stored(empty), empty) == {"x": 0.0}
    assert np.isfinite(psi(stored(table), empty)["x"])
    assert np.isfinite(psi(stored(empty), table)["x"])


def test_psi_covers_common_columns_only():
    assert list(
        psi(stored(pd.DataFrame({"a": [1.0], "b": [1.0]})), pd.DataFrame({"b": [1.0], "c": [1.0]}))
    ) == ["b"]
