"""The test suite for authors of model projects. Imports nothing: pytest loads `testing.pytest_plugin` everywhere."""
