"""Settings of a run: the data source, the hyperparameters and the thresholds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from jukebox_orch.contract.urls import common_folder

SAMPLE = "sample"
"""Dataset name of every embedded sample; the names of models trained on one end in `-sample`."""


class InputError(ValueError):
    """Bad input data or configuration. The message names the file or field, the value and what to do."""


class Settings(BaseModel):
    """Base class of all settings. Unknown names are refused; values cannot be changed after creation."""

    # Every comparison with NaN is false, so a threshold of NaN would accept every value or none.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourceFile(Settings):
    """One input file, pinned to its content."""

    url: str = Field(description="Path or fsspec URL of the file")
    sha256: str = Field(default="", description="Expected sha256 of the file; empty: not verified")


class PinnedFile(SourceFile):
    """One input file whose digest is known, for example pre-trained weights. Only such a file may be a hyperparameter.

    A result is reused if its hyperparameters are the same; so they must say what the file contains.
    """

    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Sha256 of the file, as sha256sum prints it")


class Source(Settings):
    """Where the data comes from. A project may subclass it to add fields."""

    location: str = Field(
        default="",
        description="Folder, file or fsspec URL (https://, s3://, …) of the data; empty: the embedded sample",
    )
    files: list[SourceFile] = Field(
        default_factory=list,
        description="Read exactly these files and verify their digests; set by the new-data sensor",
    )

    @property
    def is_sample(self) -> bool:
        """Whether the data is the project's embedded sample. Override it if other fields name the data."""
        return not self.location and not self.files

    @property
    def dataset_name(self) -> str:
        """Default name of the data: its folder or URL without user, password, query and file names.

        Override it together with `is_sample`. Only versions with the same dataset name compete.
        """
        return common_folder([self.location] if self.location else [file.url for file in self.files])


class ShareSplit(Settings):
    """How rows are split by shares, see `split_by_share` and `split_by_time`."""

    validation_share: float = Field(default=0.2, gt=0, lt=0.5, description="Share of the validation split")
    test_share: float = Field(default=0.2, gt=0, lt=0.5, description="Share of the test split")


Epochs = Annotated[int, Field(ge=1, le=10_000)]
"""Number of epochs within the bounds that every project has."""


class Hyperparameters(Settings):
    """Hyperparameters of every Keras training. A project subclasses it with its own defaults, bounds and fields."""

    epochs: Epochs = Field(default=50, description="Maximum number of passes over the training split")
    batch_size: int = Field(default=128, ge=1, le=65_536, description="Training rows per gradient step")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Initial step size of the optimizer")
    early_stopping_patience: int = Field(
        default=10,
        ge=0,
        le=10_000,
        description="Stop after this many epochs without a better validation loss; 0: never",
    )
    refit: bool = Field(
        default=False,
        description="Train again on the training and validation splits, for the best number of epochs",
    )


class Gates(Settings):
    """Thresholds that stop a run or warn. A project subclasses it with its own defaults."""

    max_invalid_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Validation fails when the share of unusable rows exceeds this",
    )
    metric_floor: float | None = Field(
        default=None,
        description="Evaluation fails when the primary metric on the test split is worse than this; null: no floor",
    )
    champion_tolerance: float = Field(
        default=0.01,
        ge=0,
        description="How much worse than the champion the primary metric may be on the same test split",
    )
    relative_champion_tolerance: bool | None = Field(
        default=None,
        description="Whether champion_tolerance is a share of the champion's metric, as in 0.01 for 1%; null: for a "
        "regression, whose metric has the unit of the target",
    )
    drift_warn: float = Field(
        default=0.1, gt=0, description="Warn when a feature's population stability index (PSI) reaches this"
    )
