"""The code location: a training graph and sensors for every installed model project. Only assembles them."""

import dagster as dg

from jukebox_orch import deployment
from jukebox_orch.assets import broken_project, build_training_graph
from jukebox_orch.plugins import discover, load_projects

found = discover() if deployment.leave_out_broken_projects() else load_projects()
triggers = deployment.triggers(found.projects)

defs = dg.Definitions.merge(
    *(build_training_graph(project) for project in found.projects.values()),
    *(broken_project(name, problem) for name, problem in found.problems.items()),
    dg.Definitions(
        sensors=[s for name in found.projects for s in deployment.sensors(name, triggers.get(name))],
        resources=deployment.resources(),
        executor=deployment.executor(),
    ),
)
