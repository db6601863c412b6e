"""From the sound of a song to the country whose charts it is in."""

from jukebox_orch.projects.jukebox.project import Jukebox
from jukebox_orch.projects.jukebox.settings import JukeboxGates, JukeboxHyperparameters, JukeboxSplit

__all__ = ["Jukebox", "JukeboxGates", "JukeboxHyperparameters", "JukeboxSplit"]
