"""The values that pass between assets, beside the `Dataset` of the contract."""

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

    from jukebox_orch.contract import Features

# Operator set of ONNX files: the newest that tf2onnx 1.17 writes and every onnxruntime since 1.14 reads.
OPSET = 18


class Report(BaseModel):
    """Base of the reports: typed, stored as JSON, never changed after creation."""

    # Validators are built in the step that first uses them, not when the graph is defined. JSON has no NaN and no
    # infinity; pydantic would write them as null, which no field of type float reads back.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, ser_json_inf_nan="constants")


class RuleFinding(Report):
    """One finding of validation, see `jukebox_orch.contract.Finding`."""

    rule: str
    message: str
    count: int
    fatal: bool
    examples: list[dict[str, Any]]


class ValidationReport(Report):
    """Value of `validated_data`: what validation found in one dataset, named by its digest.

    Attributes:
        max_invalid_share: largest share of invalid rows that passes.
    """

    dataset_digest: str
    rows: int
    invalid_rows: int
    max_invalid_share: float
    findings: list[RuleFinding]

    @property
    def invalid_share(self) -> float:
        """Share of the rows that cannot be used, 0..1; 1 for an empty dataset."""
        return self.invalid_rows / self.rows if self.rows else 1.0


class Scores(Report):
    """Metrics of one predictor, by metric name, on a number of source rows."""

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
        metric_floor, champion_tolerance: thresholds of the checks.
        slices: the same metrics on named subsets of the test split.
        baselines: the same metrics of simple rules.
        champion: scores of the base that the run names, else of the current champion; None when there is neither.
        champion_problem: why an existing champion could not be compared; then no version may replace it.
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


class OnnxReport(Report):
    """What was measured on an ONNX file, see `jukebox_orch.ml.onnx_export`.

    Attributes:
        max_abs_difference: largest difference to Keras on the test split; single_row_difference: of one row
            alone to the same row in a batch. Both as a share of the largest output where that is above 1.
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
    """A registered version with the verified bytes of its ONNX file, or the problem with it."""

    model_name: str
    version: str
    sha256: str
    content: bytes
    problem: str = ""


@dataclass(frozen=True)
class TrainingReport:
    """How a model was trained.

    Attributes:
        hyperparameters: as they were used.
        history: per epoch: `loss`, `val_loss` and the metrics Keras computed; of a refit `refit_loss`, ….
        validation, baseline: metrics on the validation split, of the model (before a refit, which trains on that
            split) and of the task's baseline.
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
class TrainedModel:
    """Value of `trained_model`. Reads its Keras file only when the network itself is needed.

    Attributes:
        report: how it was trained.
        source: the Keras model in memory, or the verified `.keras` file that holds it.
    """

    report: TrainingReport
    source: keras.Model | Path

    @cached_property
    def keras_model(self) -> keras.Model:
        """The network from raw inputs to outputs.

        Raises:
            UnsafeFileError: the file is not a `.keras` archive or holds code (Lambda layers).
        """
        if isinstance(self.source, Path):
            from jukebox_orch.ml.keras_runtime import load_keras

            return load_keras(self.source)
        return self.source


@dataclass(frozen=True)
class OnnxModel:
    """Value of `onnx_model`: the bytes of the file and what was measured on it."""

    content: bytes
    report: OnnxReport


@dataclass(frozen=True)
class StoredFeatures:
    """Value of `features`: the splits, with the digest of the dataset that they were made from.

    Attributes:
        profile: distribution of the dataset's monitored columns, see `jukebox_orch.ml.drift`.
    """

    features: Features
    dataset_digest: str
    profile: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """Sha256 over every array, name and constant."""
        import numpy as np

        from jukebox_orch.contract.memmap import array_digest

        features = self.features
        arrays = [
            array
            for split in features.splits.values()
            for array in (split.x, split.y, split.weight, split.keys.astype("U"), *split.slices.values())
        ]
        names = json.dumps([features.inputs, features.labels, features.normalization.kind, self.profile])
        constants = (np.asarray(features.normalization.offset), np.asarray(features.normalization.scale))
        return hashlib.sha256(f"{array_digest(*arrays, *constants)}{names}".encode()).hexdigest()
