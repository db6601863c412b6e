"""Image classification: 32 x 32 colour images to one of the classes of their source."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from typing_extensions import override

from jukebox_orch.contract import (
    Classification,
    Dataset,
    Features,
    Gates,
    Hyperparameters,
    ModelProject,
    Normalization,
    Settings,
    Source,
    Split,
    Validation,
)

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

_SHIFT = 3


class ImageSource(Source):
    """A CIFAR-10 archive (binary version), NumPy archives, or a folder of images by class."""

    convert: bool = Field(
        default=False,
        description="Resize image files to 32 x 32 and turn them into RGB; off: other sizes and modes are refused",
    )


class ImageSplit(Settings):
    """How the images are divided; every class by the same shares, equal images never into two splits."""

    validation_share: float = Field(
        default=0.15, gt=0, le=0.4, description="Share of the images that stops training"
    )
    test_share: float = Field(
        default=0.2, gt=0, le=0.4, description="Share of the images that judges the model"
    )
    published_test: bool = Field(
        default=True,
        description="Judge on the images that the source marks as test images, where it marks any",
    )


class ImageHyperparameters(Hyperparameters):
    """Settings of the convolutional network."""

    epochs: int = Field(default=25, ge=1, le=10_000, description="Passes over the training split at most")
    batch_size: int = Field(default=64, ge=1, le=65_536, description="Images per gradient step")
    early_stopping_patience: int = Field(
        default=6,
        ge=0,
        le=10_000,
        description="Stop after this many epochs without a better validation loss; 0: never",
    )
    optimizer: Literal["adam", "rmsprop", "sgd"] = Field(
        default="adam", description="Rule of the gradient steps"
    )
    augmentation: Literal["none", "shift", "shift_and_flip"] = Field(
        default="none",
        description="Change training images at random: move by up to 3 pixels; also mirror left and right",
    )


class ImageGates(Gates):
    """Thresholds for image classification."""

    metric_floor: float | None = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Evaluation fails when the accuracy on the test images is lower than this",
    )


class ImageProcessor(ModelProject):
    """Which of the classes of its source a 32 x 32 colour image belongs to."""

    name = "image_processor"
    description = "Classifies 32 x 32 colour images with a convolutional network."
    limitations = (
        "Knows only the classes it was trained on and always answers with one of them. The embedded sample is "
        "scikit-learn's handwritten digits, enlarged from 8 x 8 grey to 32 x 32 RGB: it shows that the graph "
        "works and is not a model of photographs."
    )
    owners = ("team:image_processor",)
    task = Classification()
    tables = {"images": (), "samples": ("label", "file", "row", "test"), "classes": ("name",)}  # noqa: RUF012
    rules = {  # noqa: RUF012
        "images": "Every image is uint8, 32 x 32 x 3, and has a label.",
        "labels": "Every label is the number of a class.",
        "classes": "There are two classes or more, each with three different usable images or more.",
        "blank": "An image has more than one colour.",
        "contradictions": "The same image has the same label wherever it occurs.",
    }
    source = ImageSource
    split = ImageSplit
    hyperparameters = ImageHyperparameters
    gates = ImageGates
    # Sums over 3 x 3 x 64 values of a convolution differ by 3e-5 between the frameworks.
    parity_tolerance = 1e-4

    @override
    def load(self, source: ImageSource) -> Dataset:
        """Read `images` uint8 (n, 32, 32, 3), mapped from disk, `samples` (a line per image) and `classes`."""
        from jukebox_orch.projects.image_processor.sample import digits
        from jukebox_orch.projects.image_processor.sources import list_files, read_files

        if not source.location and not source.files:
            return digits()
        return read_files(source.files or list_files(source.location), source.convert)

    @override
    def validate(self, dataset: Dataset) -> Validation:
        from jukebox_orch.projects.image_processor.splits import validate_images

        return validate_images(dataset)

    @override
    def build_features(self, dataset: Dataset, split: ImageSplit, seed: int) -> Features:
        from jukebox_orch.projects.image_processor.splits import split_rows, tables
        from jukebox_orch.projects.image_processor.spool import select

        rows = split_rows(dataset, split.validation_share, split.test_share, split.published_test, seed)
        images, samples, names = tables(dataset)
        parts = {
            name: Split.of_rows(
                select(images, index), samples["label"].to_numpy()[index].astype("int64"), digests
            )
            for name, (index, digests) in rows.items()
        }
        return Features(
            **parts,
            inputs=("image",),
            labels=tuple(names),
            normalization=Normalization.unit(0, 255),
        )

    @override
    def build_model(self, features: Features, hyperparameters: ImageHyperparameters) -> keras.Model:
        import keras
        from keras import layers

        return keras.Sequential(
            [
                keras.Input(features.shape),
                layers.Conv2D(32, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(64, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(64, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(len(features.labels), activation="softmax"),
            ]
        )

    @override
    def optimizer(self, hyperparameters: ImageHyperparameters, steps: int) -> keras.optimizers.Optimizer:
        import keras

        rules = {
            "adam": keras.optimizers.Adam,
            "rmsprop": keras.optimizers.RMSprop,
            "sgd": partial(keras.optimizers.SGD, momentum=0.9),
        }
        return rules[hyperparameters.optimizer](hyperparameters.learning_rate)

    @override
    def augment(self, x: Any, hyperparameters: ImageHyperparameters, seed: Any) -> Any:
        import tensorflow as tf

        if hyperparameters.augmentation == "none":
            return x
        if hyperparameters.augmentation == "shift_and_flip":
            x = tf.image.stateless_random_flip_left_right(x, seed)
        # Every image moves on its own: cut 32 rows and columns, from a random one on, out of the padded image.
        padded = tf.pad(x, [[0, 0], [_SHIFT, _SHIFT], [_SHIFT, _SHIFT], [0, 0]], "SYMMETRIC")
        first = tf.random.stateless_uniform(
            tf.stack([2, tf.shape(x)[0], 1]), seed, 0, 2 * _SHIFT + 1, tf.int32
        )
        rows, columns = first[0] + tf.range(x.shape[1]), first[1] + tf.range(x.shape[2])
        return tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)

    @override
    def drift_table(self, dataset: Dataset) -> pd.DataFrame:
        """Label, brightness, contrast and mean of each colour per image."""
        from jukebox_orch.projects.image_processor.splits import color_statistics

        return color_statistics(dataset)

    @override
    def figures(self, features: Features, prediction: np.ndarray) -> Mapping[str, Figure]:
        from jukebox_orch.projects.image_processor.figures import mistakes

        figure = mistakes(features, prediction)
        return {"mistakes": figure} if figure else {}
