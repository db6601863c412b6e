"""Projects that each break the contract once, with the test of the suite that fails and its message."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from jukebox_orch.contract import (
    Dataset,
    Features,
    Finding,
    Gates,
    ModelProject,
    Normalization,
    Settings,
    Source,
    Split,
    Validation,
)
from jukebox_orch_tests.support.projects import Blobs, Rents

BROKEN: dict[type[ModelProject], tuple[str, str]] = {}


def caught_by(test: str, message: str) -> Any:
    """Record which test fails on a broken project, and its message (a regular expression)."""

    def record(project: type[ModelProject]) -> type[ModelProject]:
        BROKEN[project] = (test, message)
        return project

    return record


@caught_by("test_settings_are_valid_run_config", r"lacks build_model\(\)")
class LacksAMethod(Blobs):
    build_model = ModelProject.build_model  # abstract again


@caught_by("test_settings_are_valid_run_config", r"has load\(self\).*, expected load\(self, source\)")
class WrongSignature(Blobs):
    def load(self) -> Dataset:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {}


@caught_by("test_settings_are_valid_run_config", "illegal name 'My Blobs!'")
class IllegalName(Blobs):
    name = "My Blobs!"


class _Required(Settings):
    share: float = Field(description="Share of the test rows")


@caught_by("test_settings_are_valid_run_config", r"has no default for split\.share")
class SettingWithoutDefault(Blobs):
    split = _Required  # pyright: ignore[reportAssignmentType]


class _Undescribed(Blobs.split):
    shuffle: bool = True


@caught_by("test_settings_are_valid_run_config", r"shuffle: Field\(description")
class SettingWithoutDescription(Blobs):
    split = _Undescribed


class _MappingSetting(Blobs.split):
    weights: dict[str, float] = Field(default_factory=dict, description="Weight per class")


@caught_by("test_settings_are_valid_run_config", "no form field")
class SettingWithoutFormField(Blobs):
    split = _MappingSetting


class _NoError(Gates):
    metric_floor: float | None = Field(default=0.0, description="Highest error on the test rows")


@caught_by("test_metric_floor_is_reachable", "perfect predictions give rmse 0 .*lower is better")
class FloorThatIsACeiling(Rents):
    gates = _NoError  # pyright: ignore[reportAssignmentType]


class _Percent(Gates):
    metric_floor: float | None = Field(default=80, description="Lowest accuracy on the test rows, in percent")


@caught_by("test_metric_floor_is_reachable", "perfect predictions give accuracy 1 .*higher is better")
class FloorInPercent(Blobs):
    gates = _Percent  # pyright: ignore[reportAssignmentType]


@caught_by("test_default_source_needs_no_network", "opens a network connection")
class Downloads(Blobs):
    def generate(self) -> pd.DataFrame:
        with socket.socket() as connection, contextlib.suppress(ConnectionError):
            connection.connect(("127.0.0.1", 9))
        return super().generate()


@caught_by("test_dataset_matches_declared_tables", "tables declares")
class UndeclaredTable(Blobs):
    tables = {}


@caught_by("test_dataset_matches_declared_tables", r"lacks the declared columns \['weight'\]")
class MissingColumn(Blobs):
    tables = {"rows": ("height", "weight")}


@caught_by("test_loading_twice_gives_same_data", "returns different data each time")
class RandomData(Blobs):
    def generate(self) -> pd.DataFrame:
        return super().generate().sample(frac=1, random_state=secrets.randbits(32))


@caught_by("test_dataset_survives_storage", "Parquet|Error")
class UnstorableColumn(Blobs):
    def generate(self) -> pd.DataFrame:
        return super().generate().assign(extra=pd.Series([{1, 2}] * 300, dtype=object))


@caught_by("test_missing_source_is_refused", "DID NOT RAISE")
class FallsBackToTheSample(Blobs):
    def load(self, source: Source) -> Dataset:
        return super().load(Source())


@caught_by("test_changed_file_is_refused", "DID NOT RAISE")
class IgnoresDigests(Blobs):
    def load(self, source: Source) -> Dataset:
        files = [file.model_copy(update={"sha256": ""}) for file in source.files]
        return super().load(source.model_copy(update={"files": files}))


@caught_by("test_garbage_file_is_refused", "UnicodeDecodeError|ParserError")
class TracebackForGarbage(Blobs):
    def load(self, source: Source) -> Dataset:
        if source.location.endswith(("garbage.csv", "garbage.parquet")):
            return {"rows": pd.read_csv(source.location)}
        return super().load(source)


@caught_by("test_default_data_is_valid", "the default data is refused")
class RefusesItsOwnSample(Blobs):
    def validate(self, dataset: Dataset) -> Validation:
        return Validation(300, 300, [Finding("numbers", "never good enough", 300, fatal=True)])


@caught_by("test_default_data_is_valid", r"unknown rule 'shine'")
class UndeclaredRule(Blobs):
    def validate(self, dataset: Dataset) -> Validation:
        return Validation(300, 0, [Finding("shine", "dull", 0)])


@caught_by("test_validation_is_deterministic_and_alters_nothing", "alters the dataset")
class ValidationThatCleans(Blobs):
    def validate(self, dataset: Dataset) -> Validation:
        dataset["rows"] = pd.DataFrame(dataset["rows"]).iloc[1:]
        return super().validate(dataset)


@caught_by("test_bad_data_gives_finding_or_input_error", r"empty tables: validate\(\) raises")
class ValidationThatCrashes(Blobs):
    def validate(self, dataset: Dataset) -> Validation:
        pd.DataFrame(dataset["rows"])["height"].iloc[0]
        return super().validate(dataset)


class _Lenient(Blobs):
    def validate(self, dataset: Dataset) -> Validation:
        return Validation(len(dataset["rows"]), 0)


@caught_by("test_bad_data_gives_finding_or_input_error", r"accepted, and features\.train has NaN")
class LetsNanThrough(_Lenient):
    def numeric(self, rows: pd.DataFrame) -> pd.Series:
        return rows["color"].notna()


@caught_by(
    "test_bad_data_gives_finding_or_input_error", r"color unknown: build_features\(\) raises ValueError"
)
class TracebackForUnknownLabels(_Lenient):
    def known(self, rows: pd.DataFrame) -> pd.Series:
        return rows["color"].notna()


class _ChangesFeatures(Blobs):
    def build_features(self, dataset: Dataset, split: Any, seed: int) -> Features:
        return self.change(super().build_features(dataset, split, seed))

    def change(self, features: Features) -> Features:
        raise NotImplementedError


@caught_by("test_features_have_valid_shapes_and_types", "train.x is float64")
class DoublePrecision(_ChangesFeatures):
    def change(self, features: Features) -> Features:
        return replace(features, train=replace(features.train, x=features.train.x.astype(np.float64)))


@caught_by("test_features_have_valid_shapes_and_types", r"positions in `labels` are 0..1")
class MissingLabel(_ChangesFeatures):
    def change(self, features: Features) -> Features:
        return replace(features, labels=features.labels[:2])


@caught_by("test_features_have_valid_shapes_and_types", "2 input names for x of shape")
class UnnamedColumn(_ChangesFeatures):
    def change(self, features: Features) -> Features:
        return replace(features, inputs=features.inputs[:2])


@caught_by("test_features_have_valid_shapes_and_types", r"weight is float32 \(1,\): use float32")
class OneWeightForAll(_ChangesFeatures):
    def change(self, features: Features) -> Features:
        return replace(features, test=replace(features.test, weight=np.ones(1, np.float32)))


@caught_by("test_features_have_valid_shapes_and_types", "scale has values of 0 or below")
class ZeroScale(_ChangesFeatures):
    def change(self, features: Features) -> Features:
        zero = Normalization("standard", np.zeros(3), np.zeros(3))
        return replace(features, normalization=zero)


@caught_by("test_splits_do_not_overlap", "train and test share 60 keys")
class TestsOnTrainingRows(_ChangesFeatures):
    def change(self, features: Features) -> Features:
        both = [
            np.concatenate([getattr(p, f) for p in (features.train, features.test)])
            for f in ("x", "y", "keys")
        ]
        return replace(features, train=Split.of_rows(*both))


@caught_by("test_normalization_is_fitted_on_training_split", "not the mean of the training split")
class ConstantsFromAllRows(_ChangesFeatures):
    def change(self, features: Features) -> Features:
        x = np.concatenate([split.x for split in features.splits.values()])
        return replace(features, normalization=Normalization.standard(x))


@caught_by("test_same_seed_gives_same_features", "different features for the same seed")
class UnseededSplit(Blobs):
    def build_features(self, dataset: Dataset, split: Any, seed: int) -> Features:
        return super().build_features(dataset, split, secrets.randbits(31))


@caught_by("test_same_seed_gives_same_features", "alters the dataset")
class FeaturesThatAlterTheData(Blobs):
    def build_features(self, dataset: Dataset, split: Any, seed: int) -> Features:
        features = super().build_features(dataset, split, seed)
        dataset["rows"] = pd.DataFrame(dataset["rows"]).assign(height=0.0)
        return features


@caught_by("test_baselines_predict_test_split", r"\(3,\): use numbers of shape \(60, 3\)")
class BaselineForOneRow(Blobs):
    def baselines(self, features: Features) -> Mapping[str, np.ndarray]:
        return {"guess": np.full(3, 1 / 3)}


@caught_by("test_drift_columns_are_numeric", r"columns color are not numeric")
class MonitorsText(Blobs):
    def drift_table(self, dataset: Dataset) -> pd.DataFrame:
        return pd.DataFrame(dataset["rows"])


@caught_by("test_same_seed_gives_same_weights", "the same seed gives different weights")
class UnseededWeights(Blobs):
    def build_model(self, features: Features, hyperparameters: Any) -> Any:
        model = super().build_model(features, hyperparameters)
        random = np.random.default_rng(secrets.randbits(32))
        model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
        return model


@caught_by(
    "test_predictions_have_valid_shape_and_values", "not probabilities.*build_model.. with a softmax layer"
)
class Logits(Blobs):
    def build_model(self, features: Features, hyperparameters: Any) -> Any:
        import keras

        return keras.Sequential([keras.Input(features.shape), keras.layers.Dense(3)])


@caught_by("test_predictions_have_valid_shape_and_values", r"classification needs \(None, 3\)")
class WrongOutputShape(Blobs):
    def build_model(self, features: Features, hyperparameters: Any) -> Any:
        import keras

        return keras.Sequential([keras.Input(features.shape), keras.layers.Dense(4, activation="softmax")])


@caught_by("test_model_survives_storage", "is a Lambda layer")
class LambdaLayer(Blobs):
    def build_model(self, features: Features, hyperparameters: Any) -> Any:
        import keras

        double = keras.layers.Lambda(lambda x: 2 * x, output_shape=features.shape)
        last = keras.layers.Dense(3, activation="softmax")
        return keras.Sequential([keras.Input(features.shape), double, last])


@caught_by("test_onnx_output_equals_keras", "operator HashTableV2 of layer 'lookup'")
class NotConvertible(Blobs):
    def build_model(self, features: Features, hyperparameters: Any) -> Any:
        import keras

        codes = keras.layers.IntegerLookup(vocabulary=[1, 2, 3], name="lookup")
        hidden = [keras.layers.Embedding(4, 2), keras.layers.Flatten()]
        last = keras.layers.Dense(3, activation="softmax")
        return keras.Sequential([keras.Input(features.shape), codes, *hidden, last])


@caught_by("test_augmentation_keeps_shape_and_follows_seed", "ignores its seed")
class UnseededAugmentation(Blobs):
    def augment(self, x: Any, hyperparameters: Any, seed: Any) -> Any:
        import tensorflow as tf

        return x + tf.cast(np.random.default_rng(secrets.randbits(32)).normal(), x.dtype)


@caught_by("test_augmentation_keeps_shape_and_follows_seed", r"augment\(\) returns .*float16")
class AugmentationOfAnotherType(Blobs):
    def augment(self, x: Any, hyperparameters: Any, seed: Any) -> Any:
        import tensorflow as tf

        return tf.cast(x, tf.float16)


@caught_by("test_figures_are_matplotlib_figures", r"figures\(\): 'scatter' is bytes")
class PicturesAsBytes(Blobs):
    def figures(self, features: Features, prediction: np.ndarray) -> Any:
        return {"scatter": b"PNG"}
