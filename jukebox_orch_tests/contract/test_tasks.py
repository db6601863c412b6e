"""Metrics on aggregated entries equal those of scikit-learn on the single rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from jukebox_orch.contract import Classification, Features, Normalization, Regression, Split
from jukebox_orch.contract.classification import confusion, row_counts

CLASSES = 7


@st.composite
def aggregated(draw) -> tuple[np.ndarray, np.ndarray]:
    """Draw rows per entry and class (n, CLASSES), at least one per entry, and probabilities (n, CLASSES)."""
    entries = draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = random.integers(0, 4, (entries, CLASSES))
    counts[np.arange(entries), random.integers(0, CLASSES, entries)] += 1
    probabilities = random.dirichlet(np.full(CLASSES, draw(st.sampled_from([0.05, 1.0, 20.0]))), entries)
    return counts, probabilities


def split_of(counts: np.ndarray) -> Split:
    weight = counts.sum(axis=1)
    y = (counts / weight[:, None]).astype(np.float64)
    return Split(np.zeros((len(counts), 1), np.float32), y, weight.astype(np.float32), np.array(["k"]))


def expanded(counts: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one label and one prediction per source row."""
    entry, label = np.nonzero(counts)
    repeats = counts[entry, label]
    return np.repeat(label, repeats), np.repeat(predicted[entry], repeats, axis=0)


@given(aggregated())
@settings(deadline=None, max_examples=60)
def test_classification_metrics_equal_scikit_learn_on_rows(data):
    counts, probabilities = data
    scores = Classification().score(split_of(counts), probabilities)
    labels, predicted = expanded(counts, probabilities)
    decided = predicted.argmax(axis=1)
    classes = range(CLASSES)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(labels, decided))
    assert scores["top_5_accuracy"] == pytest.approx(
        metrics.top_k_accuracy_score(labels, predicted, k=5, labels=classes)
    )
    assert scores["macro_f1"] == pytest.approx(
        metrics.f1_score(labels, decided, labels=np.unique(labels), average="macro", zero_division=0)  # pyright: ignore[reportArgumentType]
    )
    clipped = np.maximum(predicted[np.arange(len(labels)), labels], np.finfo(np.float32).eps)
    assert scores["log_loss"] == pytest.approx(-np.log(clipped).mean(), abs=1e-6)


def test_top_5_of_equal_probabilities_equals_scikit_learn():
    counts, probabilities = np.tile(np.arange(CLASSES), (4, 1)), np.zeros((4, CLASSES))
    for row, certain in enumerate(([1], [2, 3], [0, 2, 3], [0, 1, 2, 3])):
        probabilities[row, certain] = 1 / len(certain)
    labels, predicted = expanded(counts, probabilities)
    assert Classification().score(split_of(counts), probabilities)["top_5_accuracy"] == (
        metrics.top_k_accuracy_score(labels, predicted, k=5, labels=range(CLASSES))
    )


@given(aggregated())
@settings(deadline=None, max_examples=60)
def test_calibration_error_equals_definition_on_rows(data):
    counts, probabilities = data
    labels, predicted = expanded(counts, probabilities)
    confidence, hit = predicted.max(axis=1), predicted.argmax(axis=1) == labels
    edges = np.linspace(0, 1, 16)
    error = 0.0
    for number in range(15):
        last = number == 14
        inside = (confidence >= edges[number]) & (
            (confidence <= 1) if last else (confidence < edges[number + 1])
        )
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    assert Classification().score(split_of(counts), probabilities)["calibration_error"] == pytest.approx(
        error, abs=1e-6
    )


@given(aggregated())
@settings(deadline=None, max_examples=40)
def test_confusion_matrix_rows_are_true_labels(data):
    counts, probabilities = data
    labels, predicted = expanded(counts, probabilities)
    expected = metrics.confusion_matrix(labels, predicted.argmax(axis=1), labels=range(CLASSES))
    np.testing.assert_allclose(confusion(split_of(counts), probabilities), expected, atol=1e-6)


def test_integer_labels_score_like_distributions():
    random = np.random.default_rng(3)
    labels, probabilities = random.integers(0, CLASSES, 50), random.dirichlet(np.ones(CLASSES), 50)
    rows = Split.of_rows(np.zeros((50, 1), np.float32), labels, np.arange(50))
    distributions = Split(rows.x, np.eye(CLASSES)[labels], rows.weight, rows.keys)
    task = Classification()
    assert task.score(rows, probabilities) == pytest.approx(task.score(distributions, probabilities))
    np.testing.assert_array_equal(row_counts(rows, CLASSES), row_counts(distributions, CLASSES))


def test_absent_class_does_not_lower_macro_f1():
    labels = np.array([0, 0, 1, 1])
    rows = Split.of_rows(np.zeros((4, 1), np.float32), labels, np.arange(4))
    assert Classification().score(rows, np.eye(3)[labels])["macro_f1"] == 1


def test_certain_wrong_prediction_has_finite_log_loss():
    rows = Split.of_rows(np.zeros((1, 1), np.float32), np.array([0]), np.arange(1))
    assert np.isfinite(Classification().score(rows, np.array([[0.0, 1.0]]))["log_loss"])


def test_majority_baseline_predicts_training_shares():
    train, test = split_of(np.array([[6, 2, 0, 0, 0, 0, 0]])), split_of(np.array([[0, 0, 5, 0, 0, 0, 0]]))
    name, predicted = Classification().baseline(train, test)
    assert name == "majority_class"
    np.testing.assert_allclose(predicted, [[0.75, 0.25, 0, 0, 0, 0, 0]])


def test_never_predicted_class_is_collapsed():
    labels = np.array([0, 1, 2])
    rows = Split.of_rows(np.zeros((3, 1), np.float32), labels, np.arange(3))
    predicted = np.eye(3)[[0, 0, 2]]
    assert Classification().collapsed(rows, predicted, ("a", "b", "c")) == ["b"]


def test_details_name_every_label_once():
    counts = np.eye(CLASSES, dtype=int) * 2
    labels = tuple("abcdefg")
    details = Classification().details(split_of(counts), np.eye(CLASSES), labels)
    assert [row["label"] for row in details["per_class"]] == list(labels)
    assert [row["rows"] for row in details["per_class"]] == [2] * CLASSES
    assert details["confusion_matrix"]["matrix"] == (2 * np.eye(CLASSES, dtype=int)).tolist()


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
@settings(deadline=None, max_examples=60)
def test_regression_metrics_equal_scikit_learn_on_rows(seed: int, entries: int):
    random = np.random.default_rng(seed)
    y, predicted = random.normal(size=entries) * 100, random.normal(size=(entries, 1)) * 100
    repeats = random.integers(1, 5, entries)
    split = Split(predicted, y.astype(np.float64), repeats.astype(np.float32), np.array(["k"]))
    rows, predictions = np.repeat(y, repeats), np.repeat(predicted[:, 0], repeats)
    scores = Regression().score(split, predicted)
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(rows, predictions))
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(rows, predictions))
    assert scores["r2"] == pytest.approx(metrics.r2_score(rows, predictions))


def test_mean_baseline_is_weighted_training_mean():
    x = np.zeros((2, 1), np.float32)
    train = Split(x, np.array([0.0, 10.0]), np.array([3.0, 1.0], np.float32), np.array(["a"]))
    test = Split(x, np.array([99.0, 98.0]), np.ones(2, np.float32), np.array(["b"]))
    assert Regression().baseline(train, test)[1].tolist() == [[2.5], [2.5]]


def test_constant_regression_is_collapsed():
    x = np.zeros((3, 1), np.float32)
    split = Split.of_rows(x, np.array([1.0, 2.0, 3.0]), np.arange(3))
    assert Regression().collapsed(split, np.ones((3, 1)), ()) == ["the prediction"]
    assert Regression().collapsed(split, np.array([[1.0], [2.0], [3.0]]), ()) == []


@pytest.mark.parametrize("task", [Classification(), Regression()])
def test_balance_shares_sum_to_one_per_split(task):
    random = np.random.default_rng(1)
    y = random.integers(0, 3, 60)
    x = random.normal(size=(60, 2)).astype(np.float32)
    train, validation, test = (Split.of_rows(x[i], y[i], i) for i in np.split(np.arange(60), 3))
    labels = ("a", "b", "c") if task.kind == "classification" else ()
    shares = task.balance(Features(train, validation, test, ("x", "y"), labels, Normalization.standard(x)))
    assert isinstance(shares, pd.DataFrame)
    assert list(shares) == ["train", "validation", "test"]
    np.testing.assert_allclose(shares.sum(), 1)


@pytest.mark.parametrize(
    ("task", "better", "worse"), [(Classification(), 0.9, 0.8), (Regression(), 1.0, 1.5)]
)
def test_not_worse_uses_direction_of_metric(task, better: float, worse: float):
    assert task.not_worse(better, worse)
    assert not task.not_worse(worse, better)
    assert task.not_worse(worse, better, tolerance=abs(better - worse) + 1e-9)
    assert not task.not_worse(float("nan"), worse)
    assert not task.not_worse(better, float("nan"))


@pytest.mark.parametrize(("task", "metric"), [(Classification, "rmse"), (Regression, "accuracy")])
def test_unknown_primary_metric_is_refused_with_choices(task, metric: str):
    with pytest.raises(ValueError, match=f"no metric {metric!r}; choose one of {', '.join(task.metrics)}"):
        task(metric)


def test_agreement_compares_decisions_and_rounded_numbers():
    ours, theirs = np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([[0.9, 0.1], [0.9, 0.1]])
    assert Classification().agreement(ours, theirs) == 0.5
    assert Regression().agreement(np.array([[1000.0]]), np.array([[1000.05]])) == 1
    assert Regression().agreement(np.array([[1000.0]]), np.array([[1001.0]])) == 0
