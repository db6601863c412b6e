"""The acme_orders project: predicts from text, a code and numbers whether an order is returned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field

from jukebox_orch.contract import (
    Categories,
    Classification,
    Columns,
    Dataset,
    Features,
    Finding,
    Gates,
    Hyperparameters,
    ModelProject,
    Normalization,
    ShareSplit,
    Source,
    Split,
    Validation,
    read_csv,
    split_by_share,
)

if TYPE_CHECKING:
    import keras

NUMBERS = ("amount", "items")
LABELS = ("kept", "returned")


class OrdersHyperparameters(Hyperparameters):
    """Settings of a small network with an embedding per category."""

    epochs: int = Field(default=60, ge=1, description="Maximum number of passes over the training orders")
    batch_size: int = Field(default=32, ge=1, description="Orders per gradient step")
    learning_rate: float = Field(default=0.01, gt=0, le=1, description="Step size of the optimizer")
    embedding: int = Field(default=4, ge=1, le=64, description="Numbers that stand for a category")


class OrdersGates(Gates):
    """Thresholds. Always predicting `kept` would be correct for about two thirds of the orders."""

    metric_floor: float | None = Field(
        default=0.75, ge=0, le=1, description="Minimum accuracy on the test split"
    )


class AcmeOrders(ModelProject):
    """Predicts whether an order is returned."""

    name = "acme_orders"
    description = "Predicts from country, product code, amount and items whether an order is returned."
    limitations = "Trained on made-up orders, to show text and codes beside numbers."
    task = Classification()
    tables = {"orders": ("customer", "country", "product", *NUMBERS, "returned")}
    rules = {
        "numbers": "Every amount and number of items is above 0.",
        "target": "Every order is kept or returned.",
    }
    hyperparameters = OrdersHyperparameters
    gates = OrdersGates

    def load(self, source: Source) -> Dataset:
        """Read CSV files with the columns of `tables`; without a location, the sample next to this file."""
        return {
            "orders": read_csv(
                source, Path(__file__).with_name("orders.csv"), dtype={"country": "str", "product": "str"}
            )
        }

    def validate(self, dataset: Dataset) -> Validation:
        """Quarantine orders without numbers or an unknown target. Countries and products need no rule."""
        orders = pd.DataFrame(dataset["orders"])
        problems = {"numbers": ~_numeric(orders), "target": ~orders["returned"].isin((0, 1))}
        texts = {"numbers": "amount or items is not a number above 0", "target": "returned is not 0 or 1"}
        findings = [Finding(rule, texts[rule], int(bad.sum())) for rule, bad in problems.items() if bad.any()]
        return Validation(len(orders), int((problems["numbers"] | problems["target"]).sum()), findings)

    def build_features(self, dataset: Dataset, split: ShareSplit, seed: int) -> Features:
        """Keep text and codes as they are: the model maps them, also those it does not know."""
        orders = pd.DataFrame(dataset["orders"])
        orders = orders[_numeric(orders) & orders["returned"].isin((0, 1))].reset_index(drop=True)
        customers = orders["customer"].astype(str).to_numpy(str)
        rows = split_by_share(customers, split.validation_share, split.test_share, seed)
        train = orders.loc[rows["train"]]
        country = Categories.of_train("country", train["country"].astype(str).to_numpy())
        product = Categories.of_train("product", train["product"].astype(str).to_numpy())
        numbers = orders[list(NUMBERS)].to_numpy("float32")
        x = {
            "country": country.codes(orders["country"].astype(str).to_numpy()),
            "product": product.codes(orders["product"].astype(str).to_numpy()),
            "numbers": numbers,
        }
        y = orders["returned"].to_numpy("int64")
        splits: dict[str, Any] = {
            name: Split.of_rows(
                {block: values[index] for block, values in x.items()}, y[index], customers[index]
            )
            for name, index in rows.items()
        }
        normalization = Normalization.standard(numbers[rows["train"]])
        return Features(
            **splits, inputs=(country, product, Columns("numbers", NUMBERS, normalization)), labels=LABELS
        )

    def build_model(self, features: Features, hyperparameters: OrdersHyperparameters) -> keras.Model:
        """Build one input per block, an embedding per category and a hidden layer."""
        import keras
        from keras import layers

        inputs, parts = [], []
        for block in features.blocks:
            if isinstance(block, Categories):
                inputs.append(keras.Input((1,), dtype="int32", name=block.name))
                parts.append(
                    layers.Flatten()(layers.Embedding(block.size, hyperparameters.embedding)(inputs[-1]))
                )
            else:
                inputs.append(keras.Input((len(NUMBERS),), name=block.name))
                parts.append(inputs[-1])
        hidden = layers.Dense(16, activation="relu")(layers.Concatenate()(parts))
        return keras.Model(inputs, layers.Dense(len(LABELS), activation="softmax")(hidden))


def _numeric(orders: pd.DataFrame) -> pd.Series:
    return (orders[list(NUMBERS)].apply(pd.to_numeric, errors="coerce") > 0).all(axis=1)
