"""Settings of every session. Fixtures are in `support/fixtures.py`, which imports frameworks only when used."""

from hypothesis import HealthCheck, settings

from jukebox_orch.ml.keras_runtime import set_tensorflow

pytest_plugins = ["jukebox_orch_tests.support.parts", "jukebox_orch_tests.support.fixtures"]

# No deadline, because the time of an example depends on the load of the machine.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Before a test module imports Keras, because other settings change the last digits of predictions.
set_tensorflow()
