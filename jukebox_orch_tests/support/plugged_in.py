"""Projects of every kind that the contract knows: categories, several inputs, own layers, several outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jukebox_orch.contract import (
    Categories,
    Classification,
    Columns,
    Dataset,
    Features,
    ModelProject,
    MultiLabel,
    Normalization,
    Regression,
    ShareSplit,
    Split,
    Tensor,
    Validation,
    split_by_share,
    split_by_time,
)
from jukebox_orch_tests.support.projects import GeneratedSource, ShortTraining

if TYPE_CHECKING:
    import keras

ROWS = 600


class Generated(ModelProject):
    """Data from a fixed seed; subclasses say which."""

    tables = {"rows": ()}
    rules = {"rows": "There are rows."}
    source = GeneratedSource
    hyperparameters = ShortTraining

    def load(self, source: Any) -> Dataset:
        return {"rows": self.generate(np.random.default_rng(5))}

    def generate(self, random: np.random.Generator) -> pd.DataFrame:
        raise NotImplementedError

    def validate(self, dataset: Dataset) -> Validation:
        return Validation(len(dataset["rows"]), 0)

    def parts(self, table: pd.DataFrame, split: ShareSplit, seed: int) -> dict[str, np.ndarray]:
        keys = np.arange(len(table))
        return split_by_share(keys, split.validation_share, split.test_share, seed)


class Orders(Generated):
    """Text and integer categories beside numbers give a class."""

    name = "orders"
    description = "Classifies orders by country, product code, amount and weight."
    task = Classification()
    tables = {"rows": ("country", "product", "amount", "weight", "returned")}

    def generate(self, random: np.random.Generator) -> pd.DataFrame:
        country = random.choice(["DE", "FR", "naïve $x$", "日本"], ROWS)
        product = random.choice([10, 20, 7000], ROWS)
        amount, weight = random.gamma(2, 50, ROWS), random.gamma(2, 1, ROWS)
        risk = (country == "FR") * 1.5 + (product == 7000) - amount / 200 + random.normal(0, 0.2, ROWS)
        return pd.DataFrame(
            {
                "country": country,
                "product": product,
                "amount": amount,
                "weight": weight,
                "returned": risk > 0.4,
            }
        )

    def build_features(self, dataset: Dataset, split: ShareSplit, seed: int) -> Features:
        table = pd.DataFrame(dataset["rows"])
        parts = self.parts(table, split, seed)
        train = table.iloc[parts["train"]]
        country = Categories.of_train("country", train["country"].to_numpy())
        product = Categories.of_train("product", train["product"].to_numpy())
        numbers = table[["amount", "weight"]].to_numpy(np.float32)
        x = {
            "country": country.codes(table["country"].to_numpy()),
            "product": product.codes(table["product"].to_numpy()),
            "numbers": numbers,
        }
        y = table["returned"].to_numpy(np.int64)
        splits: dict[str, Any] = {
            name: Split.of_rows({block: values[rows] for block, values in x.items()}, y[rows], rows)
            for name, rows in parts.items()
        }
        return Features(
            **splits,
            inputs=(
                country,
                product,
                Columns("numbers", ("amount", "weight"), Normalization.standard(numbers[parts["train"]])),
            ),
            labels=("kept $5", "returned <b>_x_^2</b> 😀"),
        )

    def build_model(self, features: Features, hyperparameters: Any) -> keras.Model:
        import keras

        inputs, parts = [], []
        for block, array in zip(features.blocks, features.arrays(features.train).values(), strict=True):
            tensor = keras.Input(
                array.shape[1:], name=block.name, dtype="int32" if array.dtype == np.int32 else None
            )
            inputs.append(tensor)
            if isinstance(block, Categories):
                tensor = keras.layers.Flatten()(keras.layers.Embedding(block.size, 3)(tensor))
            parts.append(tensor)
        hidden = keras.layers.Dense(16, "gelu")(keras.layers.Concatenate()(parts))
        return keras.Model(inputs, keras.layers.Dense(2, "softmax")(hidden))


class Tags(Generated):
    """Several labels at once, with an own layer and weights of the loss."""

    name = "tags"
    description = "Says which of three tags apply to a point."
    task = MultiLabel()
    tables = {"rows": ("a", "b", "round", "tall", "rare")}

    def generate(self, random: np.random.Generator) -> pd.DataFrame:
        a, b = random.normal(size=ROWS), random.normal(size=ROWS)
        return pd.DataFrame({"a": a, "b": b, "round": a > 0, "tall": b > 0.3, "rare": a + b > 1.5})

    def build_features(self, dataset: Dataset, split: ShareSplit, seed: int) -> Features:
        table = pd.DataFrame(dataset["rows"])
        parts = self.parts(table, split, seed)
        x = table[["a", "b"]].to_numpy(np.float32)
        y = table[["round", "tall", "rare"]].to_numpy(np.float32)
        weight = np.where(y[:, 2] > 0, 3, 1).astype(np.float32)
        splits = {}
        for name, rows in parts.items():
            plain = Split.of_rows(x[rows], y[rows], rows)
            splits[name] = Split(plain.x, plain.y, plain.weight, plain.keys, loss_weight=weight[rows])
        normalization = Normalization.standard(x[parts["train"]])
        labels = ("round", "tall", "rare")
        return Features(**splits, inputs=("a", "b"), labels=labels, normalization=normalization)

    def custom_objects(self) -> Mapping[str, type]:
        from jukebox_orch_tests.support.own_layers import Swirl

        return {"Swirl": Swirl}

    def build_model(self, features: Features, hyperparameters: Any) -> keras.Model:
        import keras

        from jukebox_orch_tests.support.own_layers import Swirl

        layers = [keras.layers.Dense(16), Swirl(1.5), keras.layers.Dense(3, "sigmoid")]
        return keras.Sequential([keras.Input(features.shape), *layers])


class Pairs(Generated):
    """An image and numbers give two numbers, in mixed precision, with inputs beyond the range of float16."""

    name = "pairs"
    description = "Predicts two numbers from a small image and two numbers."
    task = Regression()
    tables = {"rows": ("x", "y")}
    parity_tolerance = 2e-2

    def generate(self, random: np.random.Generator) -> pd.DataFrame:
        return pd.DataFrame({"x": random.uniform(1e5, 3e5, ROWS), "y": random.uniform(-2e6, 0, ROWS)})

    def build_features(self, dataset: Dataset, split: ShareSplit, seed: int) -> Features:
        table = pd.DataFrame(dataset["rows"])
        parts = self.parts(table, split, seed)
        numbers = table.to_numpy(np.float32)
        random = np.random.default_rng(1)
        bright = random.uniform(0, 200, (len(table), 1, 1, 1))
        image = (bright + random.integers(0, 50, (len(table), 4, 4, 2))).astype(np.uint8)
        scaled = (numbers - numbers.mean(0)) / numbers.std(0)
        light = (image.mean(axis=(1, 2, 3)) - 125) / 60
        y = np.stack([scaled[:, 0] + light / 10, light - scaled[:, 1] / 10], 1)
        y = (y + random.normal(0, 0.1, y.shape)).astype(np.float32)
        train = parts["train"]
        splits: dict[str, Any] = {
            name: Split.of_rows({"image": image[rows], "numbers": numbers[rows]}, y[rows], rows)
            for name, rows in parts.items()
        }
        return Features(
            **splits,
            inputs=(
                Tensor("image", Normalization.standard(image[train], axis=-1)),
                Columns("numbers", ("x", "y"), Normalization.standard(numbers[train])),
            ),
            labels=("first", "second"),
        )

    def build_model(self, features: Features, hyperparameters: Any) -> keras.Model:
        import keras

        keras.config.set_dtype_policy("mixed_float16")
        image, numbers = keras.Input((4, 4, 2), name="image"), keras.Input((2,), name="numbers")
        flat = keras.layers.Flatten()(image)
        hidden = keras.layers.Dense(32, "relu")(keras.layers.Concatenate()([flat, numbers]))
        return keras.Model({"numbers": numbers, "image": image}, keras.layers.Dense(2)(hidden))


class Windows(Generated):
    """A window of a series gives the next value; split by time."""

    name = "windows"
    description = "Predicts the next value of a series from the last eight."
    task = Regression()
    tables = {"rows": ("value",)}

    def generate(self, random: np.random.Generator) -> pd.DataFrame:
        return pd.DataFrame({"value": 10 + 5 * np.sin(np.arange(ROWS) / 5) + random.normal(0, 0.1, ROWS)})

    def loss(self, features: Features, hyperparameters: Any) -> Any:
        import keras

        return keras.losses.Huber()

    def callbacks(self, hyperparameters: Any) -> Any:
        import keras

        return [keras.callbacks.ReduceLROnPlateau(patience=3)]

    def build_features(self, dataset: Dataset, split: ShareSplit, seed: int) -> Features:
        values = pd.DataFrame(dataset["rows"])["value"].to_numpy(np.float32)
        x = np.lib.stride_tricks.sliding_window_view(values, 8)[:-1, :, None].copy()
        y, times = values[8:], np.arange(8, len(values))
        parts = split_by_time(times, split.validation_share, split.test_share, gap=8)
        splits: dict[str, Any] = {
            name: Split(
                x[rows], y[rows], np.ones(len(rows), np.float32), times[rows].astype("U"), times=times[rows]
            )
            for name, rows in parts.items()
        }
        return Features(
            **splits, inputs=("window",), normalization=Normalization.standard(x[parts["train"]], axis=-1)
        )

    def build_model(self, features: Features, hyperparameters: Any) -> keras.Model:
        import keras

        last = [keras.layers.Dense(1), keras.layers.Rescaling(5.0, 10.0)]
        return keras.Sequential([keras.Input(features.shape), keras.layers.GRU(8), *last])
