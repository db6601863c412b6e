"""Starts a run when new files arrive."""
