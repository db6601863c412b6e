"""The contract that a model project implements.

A project defines its data, validation rules, features and Keras model. The product provides the rest: assets,
checks, caching, tracking, export and registration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from jukebox_orch.contract.settings import Gates, Hyperparameters, Settings, ShareSplit, Source

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from jukebox_orch.contract.dataset import Dataset, Validation
    from jukebox_orch.contract.features import Features
    from jukebox_orch.contract.task import Task


class ModelProject(ABC):
    """A model project. Subclass it and register the class in the entry point group `jukebox_orch.projects`.

    Class attributes:
        name: asset prefix, job prefix and default model name; lower-case letters, digits, underscores.
        description: one sentence for the UI and the model card.
        owners: e-mail addresses or `team:name`, shown on every asset.
        limitations: what the model must not be used for; shown in the model card.
        task: what is predicted and which metrics apply: `Classification()`, `MultiLabel()` or `Regression()`.
        tables: the dataset's tables and arrays: name -> required columns (empty for an array).
        rules: validation rule -> what it requires; each becomes a blocking check.
        source, split, hyperparameters, gates: the settings, as pydantic models with usable defaults.
        parity_tolerance: largest allowed difference between Keras and ONNX outputs, relative to the largest
            output if that is above 1.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    task: ClassVar[Task]
    tables: ClassVar[Mapping[str, Sequence[str]]]
    rules: ClassVar[Mapping[str, str]]
    owners: ClassVar[Sequence[str]] = ()
    limitations: ClassVar[str] = "Not stated by the project."
    source: ClassVar[type[Source]] = Source
    split: ClassVar[type[Settings]] = ShareSplit
    hyperparameters: ClassVar[type[Hyperparameters]] = Hyperparameters
    gates: ClassVar[type[Gates]] = Gates
    parity_tolerance: ClassVar[float] = 1e-5

    @abstractmethod
    def load(self, source: Any) -> Dataset:
        """Read the source (an instance of `source`) without changing it.

        Raises:
            InputError: a file is missing, unreadable or not of its declared format; the message names it.
        """

    @abstractmethod
    def validate(self, dataset: Dataset) -> Validation:
        """Check the dataset against `rules`. Report every problem as a finding; raise nothing."""

    @abstractmethod
    def build_features(self, dataset: Dataset, split: Any, seed: int) -> Features:
        """Drop unusable rows, build the numeric splits and fit the constants on the training split.

        Must be deterministic in its arguments. `split` is an instance of the project's `split`.
        """

    def split_kind(self, dataset: Dataset, split: Any) -> str:
        """Return how the test split of `dataset` is chosen; only versions with the same kind of split compete.

        Default: the values of the split's text and yes/no settings. Its numbers only set how large the splits are.
        """
        chosen = {k: v for k, v in split.model_dump(mode="json").items() if isinstance(v, str | bool)}
        return ", ".join(str(v) if k == "kind" else f"{k}={v}" for k, v in chosen.items()) or "by share"

    @abstractmethod
    def build_model(self, features: Features, hyperparameters: Any) -> keras.Model:
        """Build the Keras network that maps a normalised float32 batch (batch, *features.shape) to the outputs.

        With several blocks, the network has one input per block, with the block's name. Classification ends with a
        softmax over `features.labels`, several labels with a sigmoid, regression with linear units. The product adds
        the normalization in front.
        """

    def custom_objects(self) -> Mapping[str, type]:
        """Return the project's own Keras classes, such as layers, by name; the stored model file has no code.

        The module that defines them imports Keras, so import it in this method.
        """
        return {}

    def callbacks(self, hyperparameters: Any) -> Sequence[keras.callbacks.Callback]:
        """Return more Keras callbacks for the fit, new ones for each call."""
        return ()

    def loss(self, features: Features, hyperparameters: Any) -> Any:
        """Return the Keras loss: a name, a function or a `keras.losses.Loss`; default: that of the task."""
        return self.task.loss(features.train.y)

    def optimizer(self, hyperparameters: Any, steps: int) -> keras.optimizers.Optimizer:
        """Return the optimizer for `steps` gradient steps in total; default: Adam with the learning rate."""
        import keras

        return keras.optimizers.Adam(hyperparameters.learning_rate)

    def augment(self, x: Any, hyperparameters: Any, seed: Any) -> Any:
        """Change a raw training batch (batch, *shape) at random; not part of the exported model.

        `x` and the result are TensorFlow tensors of the features' dtype. `seed` is an int32 tensor (2,) that
        differs between batches: use it with the `stateless_…` operations of `tf.random` and `tf.image`, so that
        the same training seed gives the same model.
        """
        return x

    def baselines(self, features: Features) -> Mapping[str, np.ndarray]:
        """Return predictions of more baselines on the test split, by name. The task adds its own baseline."""
        return {}

    def drift_table(self, dataset: Dataset) -> pd.DataFrame:
        """Return the columns monitored for drift: numeric, one row per observation; default: of the longest table."""
        import pandas as pd

        tables = [table for table in dataset.values() if isinstance(table, pd.DataFrame)]
        longest = max(tables, key=len, default=pd.DataFrame())
        return longest.select_dtypes(["number", "bool"])

    def figures(self, features: Features, prediction: np.ndarray) -> Mapping[str, Figure]:
        """Return more matplotlib figures for the evaluation report, by name. The task adds its own figures.

        `prediction` (n, outputs) is the model's output on the test split.
        """
        return {}
