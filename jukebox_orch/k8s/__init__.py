"""Runs on Kubernetes: the step executor and the run launcher."""
