"""The image_processor project: classifies colour or grey images of one size."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from typing_extensions import override

from jukebox_orch.contract import (
    Classification,
    Dataset,
    Epochs,
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
from jukebox_orch.projects.image_processor.shapes import CHANNELS, Shape

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

_SHIFT = 3
_HALVED_SIDE = 8


class ImageSource(Source):
    """A CIFAR-10 archive (binary version), NumPy archives, or a folder of images by class."""

    height: int = Field(default=32, ge=8, le=512, description="Height of every image in pixels")
    width: int = Field(default=32, ge=8, le=512, description="Width of every image in pixels")
    color: Literal["rgb", "grey"] = Field(default="rgb", description="Whether images are colour or grey")
    convert: bool = Field(
        default=False,
        description="Resize image files to width and height and convert them to color; off: others are refused",
    )

    @property
    def shape(self) -> Shape:
        """Height, width and channels of every image."""
        return self.height, self.width, CHANNELS[self.color]


class ImageSplit(Settings):
    """How the images are split: every class by the same shares; equal images stay in one split."""

    validation_share: float = Field(
        default=0.15, gt=0, le=0.4, description="Share of images in the validation split"
    )
    test_share: float = Field(default=0.2, gt=0, le=0.4, description="Share of images in the test split")
    published_test: bool = Field(
        default=True,
        description="Use the images that the source marks as test images, if any, as the test split",
    )


class ImageHyperparameters(Hyperparameters):
    """Settings of the convolutional network."""

    epochs: Epochs = Field(default=25, description="Maximum number of passes over the training split")
    batch_size: int = Field(default=64, ge=1, le=65_536, description="Images per gradient step")
    early_stopping_patience: int = Field(
        default=6,
        ge=0,
        le=10_000,
        description="Stop after this many epochs without a better validation loss; 0: never",
    )
    optimizer: Literal["adam", "rmsprop", "sgd"] = Field(
        default="adam", description="Optimizer of the training"
    )
    augmentation: Literal["none", "shift", "shift_and_flip"] = Field(
        default="none",
        description="Random changes of training images: shift by up to 3 pixels; also flip left and right",
    )


class ImageGates(Gates):
    """Thresholds for image classification."""

    metric_floor: float | None = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Evaluation fails when the accuracy on the test split is below this",
    )


class ImageProcessor(ModelProject):
    """Predicts which class of its source an image belongs to."""

    name = "image_processor"
    description = "Classifies colour or grey images of one size with a convolutional network."
    limitations = (
        "Always predicts one of the classes it was trained on. The embedded sample is scikit-learn's handwritten "
        "digits, resized from 8 x 8: it shows that the graph works and is not a model of photographs."
    )
    owners = ("team:image_processor",)
    task = Classification()
    tables = {"images": (), "samples": ("label", "file", "row", "test"), "classes": ("name",)}  # noqa: RUF012
    rules = {  # noqa: RUF012
        "images": "Every image is uint8, of one height and width, with 1 or 3 channels, and has a label.",
        "labels": "Every label is the number of a class.",
        "classes": "There are at least two classes, each with at least three different usable images.",
        "blank": "An image has more than one colour.",
        "contradictions": "Equal images have the same label.",
    }
    source = ImageSource
    split = ImageSplit
    hyperparameters = ImageHyperparameters
    gates = ImageGates
    # Convolution sums over 3 x 3 x 64 values differ by 3e-5 between the frameworks.
    parity_tolerance = 1e-4

    @override
    def load(self, source: ImageSource) -> Dataset:
        """Read `images` uint8 (n, height, width, channels), `samples` (one row per image) and `classes`."""
        from jukebox_orch.projects.image_processor.sample import digits
        from jukebox_orch.projects.image_processor.sources import list_files, read_files

        if not source.location and not source.files:
            return digits(source.shape)
        return read_files(source.files or list_files(source.location), source.shape, source.convert)

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
        splits = {
            name: Split.of_rows(
                select(images, index), samples["label"].to_numpy()[index].astype("int64"), digests
            )
            for name, (index, digests) in rows.items()
        }
        return Features(
            **splits,
            inputs=("image",),
            labels=tuple(names),
            normalization=Normalization.unit(0, 255),
        )

    @override
    def split_kind(self, dataset: Dataset, split: ImageSplit) -> str:
        from jukebox_orch.projects.image_processor.splits import has_published_test

        return "published test images" if has_published_test(dataset, split.published_test) else "by share"

    @override
    def build_model(self, features: Features, hyperparameters: ImageHyperparameters) -> keras.Model:
        import keras
        from keras import layers

        stages = [keras.Input(features.shape), layers.Conv2D(32, 3, activation="relu")]
        side = min(features.shape[:2]) - 2
        # Halve the feature map until its smaller side has 2 to 7 pixels, so that the dense layer stays small for
        # large images: two times for 32 x 32 images, six times for 512 x 512.
        while side >= _HALVED_SIDE:
            stages += [layers.MaxPooling2D(), layers.Conv2D(64, 3, activation="relu")]
            side = side // 2 - 2
        return keras.Sequential(
            [
                *stages,
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(len(features.labels), activation="softmax"),
            ]
        )

    @override
    def optimizer(self, hyperparameters: ImageHyperparameters, steps: int) -> keras.optimizers.Optimizer:
        import keras

        optimizers = {
            "adam": keras.optimizers.Adam,
            "rmsprop": keras.optimizers.RMSprop,
            "sgd": partial(keras.optimizers.SGD, momentum=0.9),
        }
        return optimizers[hyperparameters.optimizer](hyperparameters.learning_rate)

    @override
    def augment(self, x: Any, hyperparameters: ImageHyperparameters, seed: Any) -> Any:
        import tensorflow as tf

        if hyperparameters.augmentation == "none":
            return x
        if hyperparameters.augmentation == "shift_and_flip":
            x = tf.image.stateless_random_flip_left_right(x, seed)
        # Crop each padded image to its size, starting at a random row and column per image.
        padded = tf.pad(x, [[0, 0], [_SHIFT, _SHIFT], [_SHIFT, _SHIFT], [0, 0]], "SYMMETRIC")
        first = tf.random.stateless_uniform(
            tf.stack([2, tf.shape(x)[0], 1]), seed, 0, 2 * _SHIFT + 1, tf.int32
        )
        rows, columns = first[0] + tf.range(x.shape[1]), first[1] + tf.range(x.shape[2])
        return tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)

    @override
    def drift_table(self, dataset: Dataset) -> pd.DataFrame:
        """Return label, brightness, contrast and mean of each colour per image."""
        from jukebox_orch.projects.image_processor.splits import color_statistics

        return color_statistics(dataset)

    @override
    def figures(self, features: Features, prediction: np.ndarray) -> Mapping[str, Figure]:
        from jukebox_orch.projects.image_processor.figures import mistakes

        figure = mistakes(features, prediction)
        return {"mistakes": figure} if figure else {}
