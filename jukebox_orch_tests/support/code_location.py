"""A code location with the graphs of the test projects, configured by the environment like a deployment.

A test can kill the process: DIE_IN lists functions, "package.module:function", whose first call kills the process with
SIGKILL. DIE_ONCE is a folder with a file for each that was called, so that the next process is not killed.
"""

import importlib
import os
import signal
from pathlib import Path
from typing import Any

import dagster as dg

from jukebox_orch import deployment
from jukebox_orch.assets import build_training_graph
from jukebox_orch.project_settings import ProjectSettings
from jukebox_orch_tests.support.projects import Blobs, Rents


def _die_in(function: str, once: Path) -> None:
    module, name = function.split(":")

    def die(*arguments: Any, **named: Any) -> Any:
        if once.exists():
            return original(*arguments, **named)
        once.touch()
        return os.kill(os.getpid(), signal.SIGKILL)

    owner = importlib.import_module(module)
    original = getattr(owner, name)
    setattr(owner, name, die)


for _function in os.environ.get("DIE_IN", "").split():
    _die_in(_function, Path(os.environ["DIE_ONCE"], _function))

_settings = deployment.project_settings().get("blobs", ProjectSettings())
defs = dg.Definitions.merge(
    build_training_graph(Blobs(), defaults=_settings.defaults()),
    build_training_graph(Rents()),
    deployment.automation("blobs", Blobs(), _settings),
    dg.Definitions(
        sensors=[deployment.mlflow_run_status],
        resources=deployment.resources(),
        executor=deployment.executor(),
    ),
)


def blobs_training() -> dg.JobDefinition:
    return defs.resolve_job_def("blobs_training")
