"""Builds the value of `features`: a project's splits with the digest and the profile of their dataset."""

from __future__ import annotations

from typing import Any

from jukebox_orch.contract import Dataset, ModelProject
from jukebox_orch.ml import drift
from jukebox_orch.ml.artifacts import StoredFeatures


def make_features(
    project: ModelProject, dataset: Dataset, dataset_digest: str, split: Any, seed: int
) -> StoredFeatures:
    """The project's features for the settings `split`, and the distribution of the columns it monitors.

    Raises:
        InputError: the data does not suit the split.
    """
    features = project.build_features(dataset, split, seed)
    return StoredFeatures(features, dataset_digest, drift.profile(project.drift_table(dataset)))
