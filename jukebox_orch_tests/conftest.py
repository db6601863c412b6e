"""Settings of every session. Fixtures are in `support/fixtures.py`, which imports what it needs when it is used."""

from hypothesis import HealthCheck, settings

from jukebox_orch.ml.keras_runtime import set_tensorflow

pytest_plugins = ["jukebox_orch_tests.support.parts", "jukebox_orch_tests.support.fixtures"]

# How long an example takes says how busy the machine is, nothing about the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Before a test module imports Keras: with other settings the same model predicts other last digits.
set_tensorflow()
