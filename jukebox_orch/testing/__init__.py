"""The test suite for authors of model projects. Imports nothing, because every pytest session loads the plugin."""
