"""Builds the value of `features`: a project's splits with the digest and profile of the dataset."""

from __future__ import annotations

from typing import Any

from jukebox_orch.contract import Dataset, ModelProject
from jukebox_orch.ml import drift
from jukebox_orch.ml.artifacts import StoredFeatures


def make_features(
    project: ModelProject, dataset: Dataset, dataset_digest: str, split: Any, seed: int
) -> StoredFeatures:
    """Build the project's features with the settings `split`, and the profile of the monitored columns.

    Raises:
        InputError: the data cannot be split by these settings.
    """
    features = project.build_features(dataset, split, seed)
    return StoredFeatures(features, dataset_digest, drift.profile(project.drift_table(dataset)))
