"""The code location: a training graph, sensors and schedule for every installed model project. Only assembles them."""

import dagster as dg

from jukebox_orch import deployment
from jukebox_orch.assets import broken_project, build_training_graph
from jukebox_orch.plugins import discover, load_projects
from jukebox_orch.project_settings import ProjectSettings

found = discover() if deployment.leave_out_broken_projects() else load_projects()
configured = deployment.project_settings(found.projects)
settings = {name: configured.get(name, ProjectSettings()) for name in found.projects}

with deployment.naming_projects_file():
    defs = dg.Definitions.merge(
        *(
            build_training_graph(project, defaults=settings[name].defaults())
            for name, project in found.projects.items()
        ),
        *(deployment.automation(name, project, settings[name]) for name, project in found.projects.items()),
        *(broken_project(name, problem) for name, problem in found.problems.items()),
        dg.Definitions(
            sensors=[deployment.mlflow_run_status],
            resources=deployment.resources(),
            executor=deployment.executor(),
        ),
    )
