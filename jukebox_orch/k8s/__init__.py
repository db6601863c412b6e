"""Runs on Kubernetes: the executor of steps and the run launcher."""
