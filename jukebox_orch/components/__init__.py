"""Dagster components, for a `dg` project that wants a training graph beside its own assets."""

from jukebox_orch.components.training_pipeline import TrainingPipeline

__all__ = ["TrainingPipeline"]
