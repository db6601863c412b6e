"""Tries every Keras layer in a small model: stored, loaded, converted to ONNX and compared.

Usage: `python -m jukebox_orch_tests.support.layer_table` prints docs/layers.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jukebox_orch.contract import (
    Features,
    Hyperparameters,
    InputError,
    ModelProject,
    Regression,
    Settings,
    Split,
    Tensor,
)

HEAD = """\
# Keras layers

A project's network may use every layer of Keras with a `yes`: it is stored, loaded and converted to ONNX with the
initial weights before the fit, and both give the same outputs. Those with a `no` are refused then, in seconds.
This table is the output of `python -m jukebox_orch_tests.support.layer_table`; a test compares them.

| layer | in ONNX |
|---|---|
"""
_ROWS = 40


@dataclass(frozen=True)
class Case:
    """One layer, or an activation, and an input that suits it."""

    name: str
    x: np.ndarray
    build: Callable[[Any], Any]


class _Tried(ModelProject):
    name = "tried"
    description = "One layer."
    task = Regression()
    tables = {"rows": ()}
    rules = {}
    split = Settings

    def __init__(self, case: Case) -> None:
        self._case = case

    def load(self, source: Any) -> Any:
        raise NotImplementedError

    def validate(self, dataset: Any) -> Any:
        raise NotImplementedError

    def build_features(self, dataset: Any, split: Any, seed: int) -> Features:
        x = self._case.x
        part = Split.of_rows(x, np.zeros(len(x), np.float32), np.arange(len(x)))
        return Features(part, part, part, inputs=(Tensor("x"),))

    def build_model(self, features: Features, hyperparameters: Any) -> Any:
        import keras

        raw = keras.Input(features.shape)
        hidden = keras.layers.Flatten(name="flattened")(self._case.build(raw))
        return keras.Model(raw, keras.layers.Dense(1, name="last")(hidden))


def result(case: Case) -> str:
    """Return `yes`, or what the refusal says."""
    from jukebox_orch.ml.keras_runtime import project_keras
    from jukebox_orch.ml.network import serving_model
    from jukebox_orch.ml.onnx_export import try_export

    project = _Tried(case)
    features = project.build_features(None, None, 0)
    with project_keras(project, seed=0):
        try:
            try_export(project, serving_model(project, features, Hyperparameters()), features)
        except InputError as error:
            return "no: " + str(error).removeprefix("tried: build_model(): ").partition(": use another")[0]
    return "yes"


def cases() -> Iterator[Case]:
    """Yield a case for every layer and activation of the table."""
    from jukebox_orch.ml.keras_runtime import import_keras

    keras = import_keras()
    layers = keras.layers
    random = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        return random.normal(size=(_ROWS, *shape)).astype(np.float32)

    vector, sequence, image, volume = numbers(6), numbers(8, 3), numbers(8, 8, 3), numbers(4, 6, 6, 2)
    codes = random.integers(0, 10, (_ROWS, 6)).astype(np.uint8)

    for name in (
        "relu", "leaky_relu", "relu6", "elu", "selu", "celu", "gelu", "swish", "mish", "tanh", "sigmoid",
        "hard_sigmoid", "hard_swish", "hard_tanh", "softplus", "softsign", "softmax", "log_softmax", "log_sigmoid",
        "exponential", "squareplus", "sparse_plus", "sparsemax", "soft_shrink", "hard_shrink", "tanh_shrink",
    ):  # fmt: skip
        yield Case(f"Activation {name}", vector, layers.Activation(name))
    one = {
        "Dense": layers.Dense(4), "EinsumDense": layers.EinsumDense("ab,bc->ac", 5), "Dropout": layers.Dropout(0.5),
        "GaussianNoise": layers.GaussianNoise(0.1), "GaussianDropout": layers.GaussianDropout(0.1),
        "AlphaDropout": layers.AlphaDropout(0.1), "PReLU": layers.PReLU(), "Rescaling": layers.Rescaling(2.0),
        "Discretization": layers.Discretization([-1.0, 0.0, 1.0], output_mode="multi_hot"),
        "Normalization": layers.Normalization(mean=0.0, variance=2.0),
        "ActivityRegularization": layers.ActivityRegularization(0.1), "Identity": layers.Identity(),
        "ReLU": layers.ReLU(), "ELU": layers.ELU(), "LeakyReLU": layers.LeakyReLU(), "Softmax": layers.Softmax(),
        "RepeatVector": layers.RepeatVector(2), "Flatten": layers.Flatten(),
    }  # fmt: skip
    of_sequence = {
        "LSTM": layers.LSTM(4), "GRU": layers.GRU(4), "SimpleRNN": layers.SimpleRNN(4),
        "Bidirectional LSTM": layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
        "Bidirectional GRU": layers.Bidirectional(layers.GRU(4)), "Conv1D": layers.Conv1D(4, 3),
        "Conv1DTranspose": layers.Conv1DTranspose(4, 3), "SeparableConv1D": layers.SeparableConv1D(4, 3),
        "DepthwiseConv1D": layers.DepthwiseConv1D(3), "TimeDistributed": layers.TimeDistributed(layers.Dense(3)),
        "MaxPooling1D": layers.MaxPooling1D(), "AveragePooling1D": layers.AveragePooling1D(2),
        "GlobalMaxPooling1D": layers.GlobalMaxPooling1D(), "GlobalAveragePooling1D": layers.GlobalAveragePooling1D(),
        "Masking": layers.Masking(0.0), "UpSampling1D": layers.UpSampling1D(), "ZeroPadding1D": layers.ZeroPadding1D(),
        "Cropping1D": layers.Cropping1D(), "SpatialDropout1D": layers.SpatialDropout1D(0.5),
        "AdaptiveAveragePooling1D": layers.AdaptiveAveragePooling1D(2),
        "AdaptiveMaxPooling1D": layers.AdaptiveMaxPooling1D(2),
        "RNN LSTMCell": layers.RNN(layers.LSTMCell(4)),
        "StackedRNNCells GRUCell SimpleRNNCell": layers.RNN(
            layers.StackedRNNCells([layers.GRUCell(3), layers.SimpleRNNCell(2)])
        ),
    }  # fmt: skip
    of_image = {
        "Conv2D": layers.Conv2D(4, 3), "Conv2DTranspose": layers.Conv2DTranspose(4, 3, strides=2),
        "SeparableConv2D": layers.SeparableConv2D(4, 3), "DepthwiseConv2D": layers.DepthwiseConv2D(3),
        "BatchNormalization": layers.BatchNormalization(), "LayerNormalization": layers.LayerNormalization(),
        "GroupNormalization": layers.GroupNormalization(3), "UnitNormalization": layers.UnitNormalization(),
        "RMSNormalization": layers.RMSNormalization(),
        "SpectralNormalization": layers.SpectralNormalization(layers.Conv2D(4, 3)),
        "MaxPooling2D": layers.MaxPooling2D(), "AveragePooling2D": layers.AveragePooling2D(2),
        "GlobalAveragePooling2D": layers.GlobalAveragePooling2D(), "GlobalMaxPooling2D": layers.GlobalMaxPooling2D(),
        "UpSampling2D nearest": layers.UpSampling2D(),
        "UpSampling2D bilinear": layers.UpSampling2D(interpolation="bilinear"),
        "ZeroPadding2D": layers.ZeroPadding2D(), "Cropping2D": layers.Cropping2D(1),
        "Resizing bilinear": layers.Resizing(4, 4), "Resizing nearest": layers.Resizing(4, 4, interpolation="nearest"),
        "CenterCrop": layers.CenterCrop(4, 4), "RandomFlip": layers.RandomFlip(),
        "RandomRotation": layers.RandomRotation(0.1), "RandomZoom": layers.RandomZoom(0.1),
        "RandomTranslation": layers.RandomTranslation(0.1, 0.1), "RandomContrast": layers.RandomContrast(0.1),
        "SpatialDropout2D": layers.SpatialDropout2D(0.5), "Permute": layers.Permute((3, 1, 2)),
        "Reshape": layers.Reshape((64, 3)), "AdaptiveAveragePooling2D": layers.AdaptiveAveragePooling2D(2),
        "AdaptiveMaxPooling2D": layers.AdaptiveMaxPooling2D(2), "RandomCrop": layers.RandomCrop(4, 4),
        **{name: getattr(layers, name)(0.2) for name in (
            "RandomBrightness", "RandomColorDegeneration", "RandomErasing", "RandomGaussianBlur",
            "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomSaturation", "RandomSharpness",
        )},
        **{name: getattr(layers, name)() for name in (
            "AugMix", "AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization", "CutMix", "Equalization", "MixUp",
            "RandAugment", "RandomColorJitter", "RandomElasticTransform", "RandomShear", "Solarization",
        )},
        "RandomPosterization": layers.RandomPosterization(4),
    }  # fmt: skip
    of_volume = {
        "Conv3D": layers.Conv3D(2, 3), "Conv3DTranspose": layers.Conv3DTranspose(2, 3),
        "MaxPooling3D": layers.MaxPooling3D(), "GlobalAveragePooling3D": layers.GlobalAveragePooling3D(),
        "UpSampling3D": layers.UpSampling3D(), "ConvLSTM2D": layers.ConvLSTM2D(2, 3),
        "GlobalMaxPooling3D": layers.GlobalMaxPooling3D(), "AveragePooling3D": layers.AveragePooling3D(2),
        "Cropping3D": layers.Cropping3D(1), "ZeroPadding3D": layers.ZeroPadding3D(),
        "SpatialDropout3D": layers.SpatialDropout3D(0.5),
        "AdaptiveAveragePooling3D": layers.AdaptiveAveragePooling3D(2),
        "AdaptiveMaxPooling3D": layers.AdaptiveMaxPooling3D(2),
    }  # fmt: skip
    of_codes = {
        "Embedding": layers.Embedding(256, 4),
        "CategoryEncoding one_hot": layers.CategoryEncoding(256, output_mode="one_hot"),
        "CategoryEncoding multi_hot": layers.CategoryEncoding(256, output_mode="multi_hot"),
        "IntegerLookup": layers.IntegerLookup(vocabulary=[1, 2, 3], output_mode="multi_hot"),
        "Hashing": layers.Hashing(8, output_mode="multi_hot"),
        "ReversibleEmbedding": layers.ReversibleEmbedding(256, 4),
    }  # fmt: skip
    groups = (
        (vector, one),
        (sequence, of_sequence),
        (image, of_image),
        (volume, of_volume),
        (codes, of_codes),
    )
    for x, group in groups:
        for name, layer in group.items():
            yield Case(name, x, layer)
    yield Case("ConvLSTM1D", numbers(4, 6, 2), layers.ConvLSTM1D(2, 3))
    attention = layers.MultiHeadAttention(2, 4)
    yield Case("MultiHeadAttention", sequence, lambda x: attention(x, x))
    grouped = layers.GroupQueryAttention(4, 4, 2)
    yield Case("GroupQueryAttention", sequence, lambda x: grouped(x, x))
    plain, additive = layers.Attention(), layers.AdditiveAttention()
    yield Case("Attention", sequence, lambda x: plain([x, x]))
    yield Case("AdditiveAttention", sequence, lambda x: additive([x, x]))
    for name in ("Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract"):
        layer = layers.Dot(axes=1) if name == "Dot" else getattr(layers, name)()
        yield Case(name, vector, lambda x, layer=layer: layer([x, x[:, ::-1]]))
    crossing = layers.HashedCrossing(8, output_mode="one_hot")
    yield Case(
        "HashedCrossing",
        codes,
        lambda x: crossing([keras.ops.cast(part, "int32") for part in (x[:, :1], x[:, 1:2])]),
    )
    wave = numbers(512, 1)
    yield Case("STFTSpectrogram", wave, layers.STFTSpectrogram(frame_length=64, frame_step=32, fft_length=64))
    yield Case(
        "MelSpectrogram",
        numbers(512),
        layers.MelSpectrogram(fft_length=64, sequence_stride=32, max_freq=None),
    )
    yield Case("ConvLSTM3D", numbers(3, 4, 4, 4, 2), layers.ConvLSTM3D(2, 3))
    nested = keras.Sequential([layers.Dense(4), layers.Dense(3)])
    yield Case("a model as a layer", vector, nested)
    yield Case("Lambda", vector, layers.Lambda(lambda x: 2 * x, output_shape=(6,)))


NOT_TRIED = {
    "InputLayer": "every network has one",
    "Wrapper": "a base class",
    "MaxNumBoundingBoxes": "takes bounding boxes, not arrays",
    "Pipeline": "a list of other layers",
    "StringLookup": "takes text: use Categories",
    "TextVectorization": "takes text: use the bytes of a text, see `jukebox-orch new --kind text`",
    "FlaxLayer": "not Keras",
    "JaxLayer": "not Keras",
    "TFSMLayer": "not Keras",
    "TorchModuleWrapper": "not Keras",
}
"""Layers without a row, and why."""


def table() -> str:
    """Return docs/layers.md."""
    rows = [(case.name, result(case)) for case in cases()]
    rows += [(name, f"not tried: {reason}") for name, reason in NOT_TRIED.items()]
    return HEAD + "".join(f"| {name} | {text} |\n" for name, text in rows)


if __name__ == "__main__":
    print(table(), end="")
