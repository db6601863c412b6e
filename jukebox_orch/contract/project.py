"""The contract a model project implements.

A project says what its data is, when it is valid, how it becomes numbers and which Keras model learns from
it. Everything around that (assets, checks, caching, tracking, export, registration) is the product's.
This module knows pandas and numpy, and loads them when a step runs; of Dagster, MLflow, KFP and Kubernetes
it knows nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from jukebox_orch.contract.tasks import Task

    Dataset = dict[str, pd.DataFrame | np.ndarray]
else:
    Dataset = dict
"""Named tables and arrays as the source holds them; values are never altered, only typed."""


class InputError(ValueError):
    """Bad input data or configuration. The message names the file or field, the value and what to do."""


class Settings(BaseModel):
    """Base of everything a user can set: unknown names are refused, values do not change after creation."""

    # No comparison with NaN holds, so a threshold or a bound of NaN would let everything or nothing pass.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourceFile(Settings):
    """One input file, pinned to its content."""

    url: str = Field(description="Path or fsspec URL of the file")
    sha256: str = Field(default="", description="Digest the file must have; empty: not verified")


class Source(Settings):
    """Where the data comes from. A project may subclass it to add fields."""

    location: str = Field(
        default="",
        description="Folder, file or fsspec URL (https://, s3://, …) of the data; empty: the embedded sample",
    )
    files: list[SourceFile] = Field(
        default_factory=list,
        description="Read exactly these files, verified by digest; what a new-data sensor hands to a run",
    )


class Hyperparameters(Settings):
    """What every Keras training takes. A project subclasses it with its own defaults, bounds and fields."""

    epochs: int = Field(default=50, ge=1, le=10_000, description="Passes over the training split at most")
    batch_size: int = Field(default=128, ge=1, le=65_536, description="Training rows per gradient step")
    learning_rate: float = Field(
        default=1e-3, gt=0, le=1, description="Step size of the optimizer at the start"
    )
    early_stopping_patience: int = Field(
        default=10,
        ge=0,
        le=10_000,
        description="Stop after this many epochs without a better validation loss; 0: never",
    )
    refit: bool = Field(
        default=False,
        description="Then train anew on the training and the validation split, for as many epochs as were best",
    )


class Gates(Settings):
    """The thresholds that stop a run or warn. A project subclasses it with its own defaults."""

    max_invalid_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Validation fails when more than this share of the rows is unusable",
    )
    metric_floor: float | None = Field(
        default=None,
        description="Evaluation fails when the primary metric on the test split is worse than this; null: no floor",
    )
    champion_tolerance: float = Field(
        default=0.01,
        ge=0,
        description="How much worse than the champion, on the same test split, still passes",
    )
    drift_warn: float = Field(
        default=0.1, gt=0, description="Warn when a feature's population stability index (PSI) reaches this"
    )


@dataclass(frozen=True)
class Finding:
    """What one validation rule found.

    Attributes:
        rule: name of the rule, one of the project's `rules`.
        message: what is wrong and what to do, for a person.
        count: rows concerned.
        fatal: True: the data cannot be used at all, the run stops. False: the rows are quarantined.
        examples: up to five of the offending rows, column -> value.
    """

    rule: str
    message: str
    count: int
    fatal: bool = False
    examples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Validation:
    """Verdict over a dataset: `rows` looked at, `invalid_rows` of them not usable, and why."""

    rows: int
    invalid_rows: int
    findings: Sequence[Finding] = ()


@dataclass(frozen=True)
class Normalization:
    """Constants of `(x - offset) / scale`, applied inside the model and its ONNX file.

    Attributes:
        kind: "standard": zero mean and unit variance per feature over the training split;
            "unit": a fixed range scaled to 0..1.
        offset, scale: float64 arrays that broadcast against one input of shape `x.shape[1:]`.
    """

    kind: Literal["standard", "unit"]
    offset: np.ndarray
    scale: np.ndarray

    @classmethod
    def standard(cls, x_train: np.ndarray) -> Normalization:
        """Fit mean and population standard deviation per feature; constant features keep their scale."""
        import numpy as np

        values = x_train.astype(np.float64, copy=False)
        deviation = values.std(axis=0)
        # Relative to the feature's own size: summation leaves dust where a column is constant.
        constant = deviation <= 1e-12 * np.maximum(np.abs(values).max(axis=0), 1.0)
        return cls("standard", values.mean(axis=0), np.where(constant, 1.0, deviation))

    @classmethod
    def unit(cls, low: float, high: float) -> Normalization:
        """Scale the known range low..high to 0..1, for example the 0..255 of an image."""
        import numpy as np

        return cls("unit", np.float64(low), np.float64(high - low))  # pyright: ignore[reportArgumentType]

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Normalise `x` (n, …) to float32 of the same shape."""
        return ((x.astype("float64", copy=False) - self.offset) / self.scale).astype("float32")


@dataclass(frozen=True)
class Part:
    """One of the three splits.

    Attributes:
        x: (n, …) numeric model inputs as a client would send them: float32, or uint8 for images.
        y: classification: (n, classes) float32 label distributions or (n,) integer classes;
            regression: (n,) float32.
        weight: (n,) float32, how many source rows each entry stands for.
        keys: what the split was made by (dates, songs, row numbers), as unique strings; no two splits
            may share one.
        slices: named subsets of the entries that evaluation reports on their own, (n,) bool each.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    keys: np.ndarray
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, x: np.ndarray, y: np.ndarray, keys: np.ndarray) -> Part:
        """A split whose every entry is one source row; `keys` may repeat and be of any type."""
        import numpy as np

        return cls(x, y, np.ones(len(x), np.float32), np.unique(keys).astype("U"))

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Features:
    """What the model learns from and is judged on.

    Attributes:
        train, validation, test: the splits.
        inputs: names of the model's inputs. As many as `x` has columns: each column is an input of its own
            with shape [batch, 1]; exactly one: the whole tensor is that input.
        labels: class names in the order of the model's outputs; empty for regression.
        normalization: the constants, fitted on the training split only.
    """

    train: Part
    validation: Part
    test: Part
    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    normalization: Normalization

    @property
    def parts(self) -> dict[str, Part]:
        """The splits by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one model input, without the batch dimension."""
        return self.train.x.shape[1:]

    @property
    def columns(self) -> bool:
        """Whether every column of `x` is an input of its own."""
        return self.train.x.ndim == 2 and len(self.inputs) == self.train.x.shape[1]


class ModelProject(ABC):
    """A model project. Subclass it, register the class under the entry point group `jukebox_orch.projects`.

    Class attributes:
        name: asset prefix, job prefix and default model name; lower-case letters, digits, underscores.
        description: one sentence for the UI and the model card.
        owners: e-mail addresses or `team:name`, shown on every asset.
        limitations: what the model must not be used for; goes into the model card.
        task: what is predicted and how it is judged, `jukebox_orch.contract.tasks.Classification()` or `Regression()`.
        tables: the dataset's tables and arrays: name -> columns it must have (none for an array).
        rules: validation rule -> what it demands; each becomes a blocking check.
        source, split, hyperparameters, gates: the settings, as pydantic models with defaults that work.
        parity_tolerance: largest difference allowed between Keras and ONNX outputs, as a share of the largest
            output where that is above 1.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    task: ClassVar[Task]
    tables: ClassVar[Mapping[str, Sequence[str]]]
    rules: ClassVar[Mapping[str, str]]
    owners: ClassVar[Sequence[str]] = ()
    limitations: ClassVar[str] = "Not stated by the project."
    source: ClassVar[type[Source]] = Source
    split: ClassVar[type[Settings]]
    hyperparameters: ClassVar[type[Hyperparameters]] = Hyperparameters
    gates: ClassVar[type[Gates]] = Gates
    parity_tolerance: ClassVar[float] = 1e-5

    @abstractmethod
    def load(self, source: Any) -> Dataset:
        """Read the source (an instance of `source`) without altering it.

        Raises:
            InputError: a file is missing, unreadable or not what it says; the message names it.
        """

    @abstractmethod
    def validate(self, dataset: Dataset) -> Validation:
        """Judge the dataset by `rules`. Raises nothing: everything wrong is a finding."""

    @abstractmethod
    def build_features(self, dataset: Dataset, split: Any, seed: int) -> Features:
        """Drop unusable rows, make the numeric splits and fit the constants on the training split.

        Deterministic in its arguments; `split` is an instance of the project's `split`.
        """

    @abstractmethod
    def build_model(self, features: Features, hyperparameters: Any) -> keras.Model:
        """The Keras network from one normalised float32 batch (batch, *features.shape) to its outputs.

        Classification ends in a softmax over `features.labels`, regression in one linear unit. Normalisation
        is put in front, and the loss chosen, by the product.
        """

    def optimizer(self, hyperparameters: Any, steps: int) -> keras.optimizers.Optimizer:
        """The optimizer for `steps` gradient steps in all; default: Adam at the learning rate."""
        import keras

        return keras.optimizers.Adam(hyperparameters.learning_rate)

    def augment(self, x: Any, hyperparameters: Any, seed: Any) -> Any:
        """Change a raw training batch (batch, *shape) at random; never part of the exported model.

        `x` and the result are TensorFlow tensors of the features' dtype. `seed` is an int32 tensor (2,),
        another one for every batch: use it with the `stateless_…` operations of `tf.random` and `tf.image`,
        so that the same training seed gives the same model.
        """
        return x

    def baselines(self, features: Features) -> Mapping[str, np.ndarray]:
        """Predictions of simple rules on the test split, to be beaten, by name; beside the task's own."""
        return {}

    def monitored(self, dataset: Dataset) -> pd.DataFrame:
        """One row per observation, numeric columns whose drift is watched; default: of the longest table."""
        import pandas as pd

        tables = [table for table in dataset.values() if isinstance(table, pd.DataFrame)]
        longest = max(tables, key=len, default=pd.DataFrame())
        return longest.select_dtypes(["number", "bool"])

    def figures(self, features: Features, prediction: np.ndarray) -> Mapping[str, Figure]:
        """More matplotlib figures for the evaluation report, by name, beside the task's own.

        `prediction` (n, outputs) is the model's output on the test split.
        """
        return {}
