"""Sensors that start training runs: new data, git tags, model alerts; each event exactly once."""

from jukebox_orch.sensors.build import build_sensors
from jukebox_orch.sensors.git_tags import DeployedCode
from jukebox_orch.sensors.triggers import Triggers, load_triggers

__all__ = ["DeployedCode", "Triggers", "build_sensors", "load_triggers"]
