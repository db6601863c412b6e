"""Jukebox features: splits without leaks and lossless aggregation; the network that is trained on them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from jukebox_orch.contract import Dataset, Features, InputError, Normalization
from jukebox_orch.projects.jukebox import Jukebox, JukeboxHyperparameters, JukeboxSplit, sample
from jukebox_orch.projects.jukebox.features import aggregate
from jukebox_orch.projects.jukebox.schema import COUNTRIES, FEATURES
from jukebox_orch_tests.support.jukebox_files import load
from jukebox_orch_tests.support.parts import real_data

PROJECT = Jukebox()
BY_DATE, BY_SONG = JukeboxSplit(), JukeboxSplit(kind="by_song")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return sample.generate(days=4)


def frame(dataset: Dataset, table: str) -> pd.DataFrame:
    found = dataset[table]
    assert isinstance(found, pd.DataFrame)
    return found


def assert_equal(ours: Features, theirs: Features) -> None:
    for name, split in ours.splits.items():
        for field in ("x", "y", "weight", "keys"):
            assert_array_equal(getattr(split, field), getattr(theirs.splits[name], field))


# --- splits ---


def test_by_date_holds_out_last_two_days(dataset: Dataset) -> None:
    features = PROJECT.build_features(dataset, BY_DATE, 0)
    assert features.train.keys.tolist() == ["2023-12-16", "2023-12-17"]
    assert features.validation.keys.tolist() == ["2023-12-18"]
    assert features.test.keys.tolist() == ["2023-12-19"]


@pytest.mark.parametrize(
    ("train_days", "first"), [(1, "2023-12-17"), (2, "2023-12-16"), (9, "2023-12-16"), (0, "2023-12-16")]
)
def test_by_date_trains_on_latest_days(dataset: Dataset, train_days: int, first: str) -> None:
    features = PROJECT.build_features(dataset, JukeboxSplit(train_days=train_days), 0)
    assert features.train.keys[[0, -1]].tolist() == [first, "2023-12-17"]
    assert features.validation.keys.tolist() == ["2023-12-18"]


def stray(dataset: Dataset, rows: slice, day: str) -> Dataset:
    """Return the dataset with the date of some rankings of the last day mistyped."""
    rankings = frame(dataset, "rankings").copy()
    last = rankings.index[rankings["snapshot_date"] == "2023-12-19"][rows]
    rankings.loc[last, "snapshot_date"] = pd.Timestamp(day)
    return {**dataset, "rankings": rankings}


@pytest.mark.parametrize("day", ["2031-01-01", "2023-12-20"])
def test_stray_future_day_is_not_test_day(dataset: Dataset, day: str) -> None:
    features = PROJECT.build_features(stray(dataset, slice(0, 1), day), BY_DATE, 0)
    assert features.test.keys.tolist() == ["2023-12-19"]
    assert features.validation.keys.tolist() == ["2023-12-18"]
    assert features.train.keys.tolist() == ["2023-12-16", "2023-12-17"]
    clean = PROJECT.build_features(dataset, BY_DATE, 0)
    assert_equal(replace(features, test=clean.test), clean)  # the stray row is not in training either
    assert features.test.weight.sum() == clean.test.weight.sum() - 1


def test_many_stray_days_do_not_become_usual(dataset: Dataset) -> None:
    for row in range(40):
        dataset = stray(dataset, slice(row, row + 1), f"20{50 + row}-01-01")
    assert PROJECT.build_features(dataset, BY_DATE, 0).test.keys.tolist() == ["2023-12-19"]


@pytest.mark.parametrize(
    ("rows", "share", "expected"),
    [
        (1, 0.5, ("2023-12-18", "2023-12-19")),
        (3_000, 0.9, ("2023-12-17", "2023-12-18")),  # neither the stray nor the last day has 0.9 of the usual
        (1, 0.0, ("2023-12-19", "2031-01-01")),
    ],
)
def test_min_day_share_decides_test_and_validation_day(
    dataset: Dataset, rows: int, share: float, expected: tuple[str, str]
) -> None:
    split = JukeboxSplit(min_day_share=share)
    features = PROJECT.build_features(stray(dataset, slice(0, rows), "2031-01-01"), split, 0)
    assert (*features.validation.keys, *features.test.keys) == expected
    assert max(features.train.keys) < expected[0]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_min_day_share_out_of_bounds_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="min_day_share"):
        JukeboxSplit(min_day_share=share)


def test_too_few_full_days_are_refused_with_counts() -> None:
    data = stray(sample.generate(days=2), slice(0, 2), "2031-01-01")
    with pytest.raises(
        InputError, match=r"3 days .*2031-01-01 \(2\).*0\.5 \(split\.min_day_share\) of the usual 3,"
    ):
        PROJECT.build_features(data, BY_DATE, 0)


def test_by_date_slices_known_and_unseen_songs(dataset: Dataset) -> None:
    features = PROJECT.build_features(dataset, BY_DATE, 0)
    known, unseen = features.test.slices["known_songs"], features.test.slices["unseen_songs"]
    assert_array_equal(known, ~unseen)
    seen = {row.tobytes() for split in (features.train, features.validation) for row in split.x}
    assert_array_equal(known, [row.tobytes() in seen for row in features.test.x])
    assert 0 < unseen.sum() < known.sum()


@pytest.mark.parametrize("days", [1, 2])
def test_by_date_with_too_few_days_is_refused(days: int) -> None:
    with pytest.raises(InputError, match=f"usable rankings of {days} days .*2023-12-19.*at least 3.*by_song"):
        PROJECT.build_features(sample.generate(days=days), BY_DATE, 0)


def test_data_without_usable_rows_is_refused(dataset: Dataset) -> None:
    unusable = frame(dataset, "rankings").assign(daily_rank=0)
    with pytest.raises(InputError, match="no usable rows"):
        PROJECT.build_features({**dataset, "rankings": unusable}, BY_DATE, 0)


def test_by_song_keeps_song_in_one_split(dataset: Dataset) -> None:
    features = PROJECT.build_features(dataset, BY_SONG, 0)
    keys = [set(split.keys) for split in features.splits.values()]
    assert len(set.union(*keys)) == sum(len(k) for k in keys)
    assert [len(split) for split in features.splits.values()] == [len(k) for k in keys]
    shares = np.array([len(k) for k in keys]) / sum(len(k) for k in keys)
    assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.03)
    assert features.test.slices["unseen_songs"].all()
    assert "known_songs" not in features.test.slices


def test_by_song_split_depends_on_seed(dataset: Dataset) -> None:
    assert_equal(PROJECT.build_features(dataset, BY_SONG, 3), PROJECT.build_features(dataset, BY_SONG, 3))
    one, other = (PROJECT.build_features(dataset, BY_SONG, seed) for seed in (3, 4))
    assert set(one.test.keys) != set(other.test.keys)


def test_by_song_keeps_splits_when_data_is_added(dataset: Dataset) -> None:
    rankings = frame(dataset, "rankings")
    first = PROJECT.build_features({**dataset, "rankings": rankings[: len(rankings) // 3]}, BY_SONG, 0)
    later = PROJECT.build_features(dataset, BY_SONG, 0)
    for name, split in first.splits.items():
        assert set(split.keys) <= set(later.splits[name].keys)


def test_by_song_with_too_few_songs_is_refused(dataset: Dataset) -> None:
    few = frame(dataset, "rankings")
    few = few[few["spotify_id"].isin(few["spotify_id"].astype("str").unique()[:2])]
    with pytest.raises(InputError, match=r"2 usable songs leave none for \w+ in split by_song"):
        PROJECT.build_features({**dataset, "rankings": few}, BY_SONG, 0)


def test_shares_without_training_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="leave less than"):
        JukeboxSplit(kind="by_song", validation_share=0.45, test_share=0.45)


@pytest.mark.parametrize("split", [BY_DATE, BY_SONG], ids=lambda split: split.kind)
def test_features_do_not_depend_on_row_order(dataset: Dataset, split: JukeboxSplit) -> None:
    shuffled: Dataset = {
        # Some rankings are duplicates: the result must not depend on which of them is left out.
        name: frame(dataset, name).sample(frac=1, random_state=1).reset_index(drop=True)
        for name in dataset
    }
    assert_equal(PROJECT.build_features(dataset, split, 0), PROJECT.build_features(shuffled, split, 0))


def test_dataset_is_not_altered(dataset: Dataset) -> None:
    before = {name: frame(dataset, name).copy() for name in dataset}
    PROJECT.validate(dataset)
    PROJECT.build_features(dataset, BY_DATE, 0)
    for name, table in before.items():
        pd.testing.assert_frame_equal(frame(dataset, name), table)


# --- entries ---


def test_entries_have_raw_features_and_label_shares(dataset: Dataset) -> None:
    features = PROJECT.build_features(dataset, BY_DATE, 0)
    assert features.inputs == FEATURES
    assert features.labels == COUNTRIES
    assert features.input_names == FEATURES
    songs = frame(dataset, "songs")
    for split in features.splits.values():
        assert (split.x.dtype, split.y.dtype, split.weight.dtype) == (np.float32, np.float32, np.float32)
        assert split.x.shape == (len(split), 13)
        assert split.y.shape == (len(split), 72)
        assert_allclose(split.y.sum(axis=1), 1, atol=1e-6)
        assert np.isfinite(split.x).all()
        assert set(split.x[:, 1]) <= set(songs["duration_ms"].astype("f4"))


def test_entry_counts_rankings_per_country() -> None:
    songs = frame(sample.generate(), "songs").iloc[[100, 101]].assign(spotify_id=["b", "a"])
    rows = [("a", "DE", day, 1) for day in (1, 2, 3, 4)]
    rows += [("a", "US", day, 1) for day in (1, 3, 4)] + [("b", "ZA", 2, 2), ("a", None, 1, 1)]
    rankings = pd.DataFrame(rows, columns=["spotify_id", "country", "snapshot_date", "daily_rank"])
    rankings["snapshot_date"] = pd.to_datetime(rankings["snapshot_date"], unit="D")
    train = PROJECT.build_features({"songs": songs, "rankings": rankings}, BY_DATE, 0).train
    assert_array_equal(train.weight, [3, 1])  # a, then b; rows of the worldwide chart are not counted
    assert_allclose(train.y[0, [COUNTRIES.index("DE"), COUNTRIES.index("US")]], [2 / 3, 1 / 3])
    assert train.y[1, COUNTRIES.index("ZA")] == 1
    assert_allclose(train.x[:, 1], songs["duration_ms"].to_numpy()[::-1])


rows_of_songs = st.integers(1, 200).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, n, elements=st.integers(0, 30)),
        hnp.arrays(np.int64, n, elements=st.integers(0, 6)),
    )
)


@given(rows_of_songs)
def test_aggregation_preserves_row_counts(rows: tuple[np.ndarray, np.ndarray]) -> None:
    song, country = rows
    distinct, y, weight = aggregate(song, country, 7)
    counts = pd.crosstab(song, country).reindex(columns=range(7), fill_value=0)
    assert_array_equal(distinct, counts.index)
    assert_allclose(y * weight[:, None], counts, rtol=1e-6)
    assert weight.sum() == len(song)


@given(rows_of_songs, st.randoms(use_true_random=False))
def test_aggregation_does_not_depend_on_row_order(rows: tuple[np.ndarray, np.ndarray], random) -> None:
    song, country = rows
    order = list(range(len(song)))
    random.shuffle(order)
    for ours, theirs in zip(
        aggregate(song, country, 7), aggregate(song[order], country[order], 7), strict=True
    ):
        assert_array_equal(ours, theirs)


@given(
    hnp.arrays(
        np.int64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=40),
        elements=st.integers(-(2**23), 2**23),
    )
)
def test_normalised_training_split_has_unit_variance(sixty_fourths: np.ndarray) -> None:
    x = (sixty_fourths / 64).astype(np.float32)
    scaled = Normalization.standard(x).apply(x).astype(np.float64)
    assert np.isfinite(scaled).all()
    assert_allclose(scaled.mean(axis=0), 0, atol=1e-3)
    constant = np.ptp(x, axis=0) == 0
    assert_array_equal(scaled[:, constant], 0)
    spread = scaled[:, ~constant].std(axis=0)
    assert_allclose(spread, 1, atol=1e-3)


def test_constants_are_fitted_on_training_split(dataset: Dataset) -> None:
    features = PROJECT.build_features(dataset, BY_SONG, 0)
    assert features.normalization
    assert_allclose(features.normalization.offset, features.train.x.astype("f8").mean(axis=0))
    assert_allclose(features.normalization.scale, features.train.x.astype("f8").std(axis=0))


# --- baseline and network ---


def test_song_lookup_predicts_earlier_shares(dataset: Dataset) -> None:
    features = PROJECT.build_features(dataset, BY_DATE, 0)
    prediction = PROJECT.baselines(features)["song_lookup"]
    assert prediction.shape == features.test.y.shape
    counts: dict[bytes, Any] = {}
    for split in (features.train, features.validation):
        for row, y, weight in zip(split.x, split.y, split.weight, strict=True):
            counts[row.tobytes()] = counts.get(row.tobytes(), 0) + y * weight
    prior = np.sum(list(counts.values()), axis=0)
    found = [counts.get(row.tobytes(), prior) for row in features.test.x]
    expected = [row / row.sum() for row in found]
    assert_allclose(prediction, expected, atol=1e-5)


def test_network_follows_hyperparameters(dataset: Dataset) -> None:
    features = PROJECT.build_features(dataset, BY_DATE, 0)
    hyperparameters = JukeboxHyperparameters(hidden_layers=3, hidden_units=16)
    model = PROJECT.build_model(features, hyperparameters)
    assert [layer.units for layer in model.layers] == [16, 16, 16, 72]
    assert model.input_shape == (None, 13)
    output = np.asarray(model(np.zeros((2, 13), dtype="f4")))
    assert_allclose(output.sum(axis=1), 1, atol=1e-5)


def test_learning_rate_falls_to_zero(dataset: Dataset) -> None:
    optimizer = PROJECT.optimizer(JukeboxHyperparameters(learning_rate=0.01), steps=100)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 50, 100)]
    assert_allclose(rates, [0.01, 0.005, 0.0], atol=1e-8)


def test_aggregated_loss_and_gradients_equal_row_by_row(dataset: Dataset) -> None:
    import keras
    import tensorflow as tf

    random = np.random.default_rng(0)
    song, country = random.integers(0, 40, 500), random.integers(0, 72, 500)
    x = random.normal(size=(40, 13)).astype("f4")
    entries, y, weight = aggregate(song, country, 72)
    features = PROJECT.build_features(dataset, BY_DATE, 0)
    keras.utils.set_random_seed(1)
    model = PROJECT.build_model(features, JukeboxHyperparameters(hidden_units=16))

    def loss_and_gradients(inputs, targets, weights):
        with tf.GradientTape() as tape:
            losses = keras.losses.categorical_crossentropy(targets, model(inputs))
            loss = tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)
        return loss, tape.gradient(loss, model.trainable_variables)

    one_hot = np.eye(72, dtype="f4")[country]
    loss, gradients = loss_and_gradients(x[entries], y, weight)
    loss_by_row, gradients_by_row = loss_and_gradients(x[song], one_hot, np.ones(500, dtype="f4"))
    assert_allclose(loss, loss_by_row, rtol=1e-6)
    for ours, theirs in zip(gradients, gradients_by_row, strict=True):
        assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-7)


@pytest.mark.slow
def test_defaults_reach_target_accuracy_on_real_data() -> None:
    import keras

    features = PROJECT.build_features(load(real_data()), BY_DATE, 42)
    assert features.test.weight.sum() == 3_600
    hyperparameters = JukeboxHyperparameters()
    keras.utils.set_random_seed(42)
    model = PROJECT.build_model(features, hyperparameters)
    steps = hyperparameters.epochs * -(-len(features.train) // hyperparameters.batch_size)
    model.compile(
        PROJECT.optimizer(hyperparameters, steps), "categorical_crossentropy", steps_per_execution=16
    )
    assert features.normalization
    normalise = features.normalization.apply
    model.fit(
        normalise(features.train.x),
        features.train.y,
        sample_weight=features.train.weight / features.train.weight.mean(),
        epochs=hyperparameters.epochs,
        batch_size=hyperparameters.batch_size,
        verbose=0,  # pyright: ignore[reportArgumentType] - annotated as str, documented as int
    )
    prediction = model.predict(normalise(features.test.x), verbose=0)  # pyright: ignore[reportArgumentType]
    score = PROJECT.task.score(features.test, prediction)
    assert score["accuracy"] >= 0.45
    assert score["top_5_accuracy"] >= 0.65
