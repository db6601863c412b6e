"""The values that assets pass to each other, in addition to the `Dataset` of the contract."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import keras

    from jukebox_orch.contract import Block, Dataset, Features

# Operator set of ONNX files: the newest one that tf2onnx 1.17 writes; onnxruntime reads it since 1.14.
OPSET = 18


class Report(BaseModel):
    """Base class of the reports: typed, stored as JSON, immutable."""

    # defer_build: build validators in the step that first uses them, not when the graph is defined.
    # ser_json_inf_nan: pydantic would write NaN and infinity as null, which a float field cannot read back.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, ser_json_inf_nan="constants")


class DataOrigin(Report):
    """Where a dataset comes from.

    Attributes:
        name: dataset name of the run; only versions with the same name compete.
        source: where it was read, without user, password and query.
        sample: whether it is the project's embedded sample.
    """

    name: str
    source: str
    sample: bool


class ComparisonBasis(Report):
    """What must be equal for a version to replace another one as champion without a person's decision."""

    dataset_name: str
    split_kind: str
    primary_metric: str

    def difference(self, other: ComparisonBasis) -> str:
        """Return what differs from `other`, as in "dataset 'a' instead of 'b'"; empty if nothing does."""
        names = {"dataset_name": "dataset", "split_kind": "split", "primary_metric": "primary metric"}
        return ", ".join(
            f"{text} {getattr(other, field)!r} instead of {getattr(self, field)!r}"
            for field, text in names.items()
            if getattr(self, field) != getattr(other, field)
        )


class RuleFinding(Report):
    """One finding of validation, see `jukebox_orch.contract.Finding`."""

    rule: str
    message: str
    count: int
    fatal: bool
    examples: list[dict[str, Any]]


class ValidationReport(Report):
    """Value of `validated_data`: the validation result of the dataset with this digest.

    Attributes:
        max_invalid_share: largest allowed share of invalid rows.
    """

    dataset_digest: str
    rows: int
    invalid_rows: int
    max_invalid_share: float
    findings: list[RuleFinding]

    @property
    def invalid_share(self) -> float:
        """Share of unusable rows, 0..1; 1 for an empty dataset."""
        return self.invalid_rows / self.rows if self.rows else 1.0


class Scores(Report):
    """Metrics of one predictor by name, and the number of source rows they were computed on."""

    name: str
    rows: int
    metrics: dict[str, float]


class ChampionScores(Report):
    """The registered version that the new model was compared with, and its metrics on the same test split."""

    model_name: str
    version: str
    sha256: str
    metrics: dict[str, float]


class EvaluationReport(Report):
    """Value of `evaluation`: metrics of the model on the untouched test split.

    Attributes:
        metric_floor, champion_tolerance: thresholds of the checks, in the unit of the primary metric.
        slices: the same metrics on named subsets of the test split.
        baselines: the same metrics of simple rules.
        champion: scores of the base that the run names, otherwise of the current champion; None without either.
        champion_problem: why the current champion is not compared; in that case only a person may replace it.
        basis: what a champion must have in common with this model to be compared; None in reports of older versions.
        collapsed: classes in the test split that the model never predicts.
        details: tables of the task: per class, confusion matrix, calibration, residuals.
    """

    task: str
    primary_metric: str
    higher_is_better: bool
    metric_floor: float | None
    champion_tolerance: float
    model_digest: str
    features_digest: str
    dataset_digest: str
    test: Scores
    slices: list[Scores]
    baselines: list[Scores]
    champion: ChampionScores | None
    champion_problem: str = ""
    collapsed: list[str]
    details: dict[str, Any]
    basis: ComparisonBasis | None = None


class OnnxReport(Report):
    """Measurements of an ONNX file, see `jukebox_orch.ml.onnx_export`.

    Attributes:
        max_abs_difference: largest difference from Keras on the test split.
        single_row_difference: largest difference between a row predicted alone and in a batch. Both differences
            are relative to the largest output if that is above 1.
        agreement: share of the test split with the same decision as Keras.
    """

    sha256: str
    bytes: int
    opset: int
    ir_version: int
    inputs: dict[str, list[str | int]]
    outputs: dict[str, list[str | int]]
    metadata: dict[str, str]
    test_rows: int
    max_abs_difference: float
    agreement: float
    single_row_difference: float
    external_data: bool
    checker_error: str = ""


class RegisteredModel(Report):
    """Value of `registered_model`: where the model is stored, and its version and aliases at registration."""

    model_name: str
    version: str
    label: str
    uri: str
    store_path: str
    sha256: str
    aliases: list[str]
    metrics: dict[str, float]
    adopted: bool
    mlflow_run_id: str


@dataclass(frozen=True)
class LoadedVersion:
    """A registered version with the verified bytes of its ONNX file, or the reason why it cannot be used.

    Attributes:
        basis: what it was judged by; None if an older version of the product registered it.
    """

    model_name: str
    version: str
    sha256: str
    content: bytes
    problem: str = ""
    basis: ComparisonBasis | None = None


@dataclass(frozen=True)
class TrainingReport:
    """How a model was trained.

    Attributes:
        hyperparameters: the values that were used.
        history: `loss`, `val_loss` and the Keras metrics per epoch; those of a refit are named `refit_loss`, ….
        validation, baseline: metrics of the model and of the task's baseline on the validation split; computed
            before a refit, because a refit trains on that split.
        model_digest: sha256 over architecture and weights.
        seconds: wall time of the fit, and of the refit.
    """

    features_digest: str
    dataset_digest: str
    seed: int
    hyperparameters: Mapping[str, Any]
    history: Mapping[str, list[float]]
    validation: Mapping[str, float]
    train: Mapping[str, float]
    baseline: Mapping[str, float]
    baseline_name: str
    model_digest: str
    seconds: float


@dataclass(frozen=True)
class KerasFile:
    """A `.keras` file and the sha256 that it had when its artifact was verified."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class TrainedModel:
    """Value of `trained_model`. Reads the Keras file only when the network is used.

    Attributes:
        report: how it was trained.
        source: the Keras model in memory, or its stored file.
    """

    report: TrainingReport
    source: keras.Model | KerasFile

    @cached_property
    def keras_model(self) -> keras.Model:
        """The Keras model that maps raw inputs to outputs.

        Raises:
            UnsafeFileError: the file was changed, is not a `.keras` archive or holds code (Lambda layers).
        """
        if isinstance(self.source, KerasFile):
            from jukebox_orch.ml.keras_runtime import load_verified_keras

            return load_verified_keras(self.source.path, self.source.sha256)
        return self.source


@dataclass(frozen=True)
class OnnxModel:
    """Value of `onnx_model`: the bytes of the file and its measurements."""

    content: bytes
    report: OnnxReport


@dataclass(frozen=True)
class SourcedDataset:
    """Value of `dataset`: the tables and arrays, and where they come from.

    Attributes:
        origin: None if an older version of the product stored it.
    """

    tables: Dataset
    origin: DataOrigin | None


@dataclass(frozen=True)
class StoredFeatures:
    """Value of `features`: the splits, and the dataset that they were built from.

    Attributes:
        profile: distribution of the dataset's monitored columns, see `jukebox_orch.ml.drift`.
        split_kind: how the test split was chosen, see `ModelProject.split_kind`.
        origin: where the dataset comes from; None if an older version of the product stored it. The digest does not
            contain it, so that the same data gives the same model wherever it lies.
    """

    features: Features
    dataset_digest: str
    profile: Mapping[str, Any]
    split_kind: str = ""
    origin: DataOrigin | None = None

    @cached_property
    def digest(self) -> str:
        """Sha256 over all arrays, names and constants."""
        import numpy as np

        from jukebox_orch.contract.memmap import array_digest

        features = self.features
        constants = {block.name: getattr(block, "normalization", None) for block in features.blocks}
        arrays: list[np.ndarray] = []
        for split in features.splits.values():
            arrays += [split.x[b] for b in constants] if isinstance(split.x, Mapping) else [split.x]
            arrays += [split.y, split.weight, split.keys.astype("U"), *split.slices.values()]
            arrays += [array for array in (split.loss_weight, split.times) if array is not None]
        for fitted in constants.values():
            arrays += [np.asarray(fitted.offset), np.asarray(fitted.scale)] if fitted else []
        names: list[Any] = [features.inputs, features.labels, self._normalization, self.profile]
        if not isinstance(features.inputs[0], str):
            names[:1] = [[describe_block(block) for block in features.blocks]]
        return hashlib.sha256(f"{array_digest(*arrays)}{json.dumps(names)}".encode()).hexdigest()

    @property
    def _normalization(self) -> str | None:
        constants = self.features.normalization
        return constants and constants.kind + ("" if constants.axis is None else f" {constants.axis}")


def describe_block(block: Block) -> dict[str, Any]:
    """Return a block as JSON, without the arrays of its constants."""
    fitted = getattr(block, "normalization", None)
    return {
        "block": type(block).__name__,
        **{key: value for key, value in vars(block).items() if key != "normalization"},
        **({"normalization": fitted.kind, "axis": fitted.axis} if fitted else {}),
    }
