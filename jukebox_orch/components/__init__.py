"""Dagster components, for a `dg` project that adds a training graph to its own assets."""

from jukebox_orch.components.training_pipeline import TrainingPipeline

__all__ = ["TrainingPipeline"]
