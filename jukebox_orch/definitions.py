"""The code location: every installed model project as a training graph. Assembles, nothing more."""

import dagster as dg

from jukebox_orch import deployment
from jukebox_orch.assets import build_training_graph
from jukebox_orch.registry import discover, load_projects

projects = discover().projects if deployment.leave_out_broken_projects() else load_projects()

defs = dg.Definitions.merge(
    *(build_training_graph(project) for project in projects.values()),
    dg.Definitions(resources=deployment.resources(), executor=deployment.executor()),
)
