"""Sensors that start training runs: new data, git tags, model alerts; each event exactly once."""

from jukebox_orch.sensors.factory import build_sensors
from jukebox_orch.sensors.settings import Triggers, load_triggers

__all__ = ["Triggers", "build_sensors", "load_triggers"]
