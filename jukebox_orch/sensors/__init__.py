"""Sensors and schedules that start training runs: new data, git tags, model alerts, the clock; each event once."""

from jukebox_orch.sensors.factory import build_schedules, build_sensors
from jukebox_orch.sensors.settings import Triggers

__all__ = ["Triggers", "build_schedules", "build_sensors"]
