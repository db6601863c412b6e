"""From the sound of a song to the country whose charts it is in."""

from jukebox_orch.projects.jukebox.features import JukeboxSplit
from jukebox_orch.projects.jukebox.project import Jukebox, JukeboxGates, JukeboxHyperparameters

__all__ = ["Jukebox", "JukeboxGates", "JukeboxHyperparameters", "JukeboxSplit"]
