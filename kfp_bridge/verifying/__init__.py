"""Compares an exported YAML with Dagster's graph."""
