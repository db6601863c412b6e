"""The contract that a model project implements.

A project says what its data is, when it is valid, how it becomes numbers and which Keras model learns from
it. The product does the rest: assets, checks, caching, tracking, export and registration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from jukebox_orch.contract.settings import Gates, Hyperparameters, Settings, Source

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from jukebox_orch.contract.dataset import Dataset, Validation
    from jukebox_orch.contract.features import Features
    from jukebox_orch.contract.tasks import Task


class ModelProject(ABC):
    """A model project. Subclass it, register the class under the entry point group `jukebox_orch.projects`.

    Class attributes:
        name: asset prefix, job prefix and default model name; lower-case letters, digits, underscores.
        description: one sentence for the UI and the model card.
        owners: e-mail addresses or `team:name`, shown on every asset.
        limitations: what the model must not be used for; goes into the model card.
        task: what is predicted and how it is judged, `Classification()` or `Regression()`.
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

    def drift_table(self, dataset: Dataset) -> pd.DataFrame:
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
