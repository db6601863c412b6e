"""Starts a run when an alert about the model fires."""
