"""Runs the tasks of an exported pipeline, in a container or on this machine."""
