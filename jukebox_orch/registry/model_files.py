"""Side files of `model.onnx` in the model store: card, labels, inputs, metrics, example, profile, manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import yaml

from jukebox_orch.contract import ModelProject
from jukebox_orch.ml.artifacts import EvaluationReport, OnnxModel, StoredFeatures
from jukebox_orch.ml.onnx_predictor import OnnxPredictor
from jukebox_orch.registry import tracking
from jukebox_orch.registry.kserve import inference_service
from jukebox_orch.registry.model_card import model_card
from jukebox_orch.storage.model_store import ModelStore

_EXAMPLE_ROWS = 2


@dataclass(frozen=True)
class ModelFiles:
    """The data for the side files of a model.

    Attributes:
        label: version label of the run; may be empty.
        lineage: digests, runs and commit that the model comes from, name -> value.
    """

    project: ModelProject
    model_name: str
    label: str
    onnx: OnnxModel
    evaluation: EvaluationReport
    features: StoredFeatures
    lineage: Mapping[str, str]

    @cached_property
    def example(self) -> dict[str, dict[str, Any]]:
        """The first rows of the test split with the prediction of the ONNX file."""
        predictor = OnnxPredictor(self.onnx.content)
        raw = self.example_inputs
        output = next(iter(self.onnx.report.outputs))
        return {
            "inputs": {name: value.tolist() for name, value in raw.items()},
            "outputs": {output: predictor.predict(raw).tolist()},
        }

    @property
    def example_inputs(self) -> dict[str, np.ndarray]:
        """The inputs of the example as arrays, by input name."""
        features = self.features.features
        return {
            name: np.array(values)
            for name, values in features.raw(features.test, slice(_EXAMPLE_ROWS)).items()
        }

    def side_files(self, store: ModelStore, number: str) -> dict[str, bytes]:
        """Return file name -> content for the version with this number."""
        report = self.onnx.report
        lineage = {**self.lineage, "onnx_sha256": report.sha256}
        card = model_card(
            self.project,
            title=f"{self.model_name} version {number}" + (f" ({self.label})" if self.label else ""),
            report=self.evaluation,
            onnx=report,
            stored=self.features,
            lineage=lineage,
        )
        documents: dict[str, Any] = {
            "labels.json": list(self.features.features.labels),
            "features.json": {"inputs": report.inputs, "outputs": report.outputs},
            "metrics.json": self.evaluation.test.metrics,
            "example.json": self.example,
            "profile.json": self.features.profile,
            "lineage.json": lineage,
        }
        manifest = inference_service(store, self.model_name, number)
        return {
            **{name: json.dumps(content, indent=1).encode() for name, content in documents.items()},
            "requirements.txt": "".join(f"{line}\n" for line in tracking.requirements()).encode(),
            "README.md": card.encode(),
            "inferenceservice.yaml": yaml.safe_dump(manifest, sort_keys=False).encode(),
        }
