"""Writes a `PipelineGraph` as a KFP pipeline."""
