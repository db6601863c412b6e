"""Reads a Dagster job into a `PipelineGraph`."""
