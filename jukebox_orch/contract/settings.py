"""What a user can set for a run: where the data is, how the model is trained, and what is good enough."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


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
