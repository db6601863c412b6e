"""Jukebox Orchestrator: from raw data to a registered ONNX model that is ready to serve."""
