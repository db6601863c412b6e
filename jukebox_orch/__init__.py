"""Jukebox Orchestrator: a Keras model from raw data to a registered, served-ready ONNX model."""
