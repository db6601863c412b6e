"""Predicts from audio features in which countries' charts a song is."""

from jukebox_orch.projects.jukebox.project import Jukebox
from jukebox_orch.projects.jukebox.settings import (
    JukeboxGates,
    JukeboxHyperparameters,
    JukeboxSource,
    JukeboxSplit,
)

__all__ = ["Jukebox", "JukeboxGates", "JukeboxHyperparameters", "JukeboxSource", "JukeboxSplit"]
