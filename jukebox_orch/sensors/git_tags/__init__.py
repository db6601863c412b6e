"""Starts a run when a version tag is pushed."""
