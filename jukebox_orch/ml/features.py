"""Builds the value of `features`: a project's splits with the digest and profile of the dataset."""

from __future__ import annotations

from typing import Any

from jukebox_orch.contract import ModelProject
from jukebox_orch.ml import drift, project_calls
from jukebox_orch.ml.artifacts import SourcedDataset, StoredFeatures


def make_features(
    project: ModelProject, dataset: SourcedDataset, dataset_digest: str, split: Any, seed: int
) -> StoredFeatures:
    """Build the project's features with the settings `split`, and the profile of the monitored columns.

    Raises:
        InputError: the data cannot be split by these settings, or the features break the contract.
    """
    tables = dataset.tables
    features = project_calls.build_features(project, tables, split, seed)
    profile = drift.profile(project_calls.drift_table(project, tables))
    kind = project_calls.split_kind(project, tables, split)
    return StoredFeatures(features, dataset_digest, profile, kind, dataset.origin)
