"""A small code location with the real sensors and a small job that has the run config of training jobs.

The files `projects.yaml` and `commit` in the folder SENSOR_TEST_FOLDER replace a deployment's configuration. The job
reads every file of its run config, and fails if one has another digest.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec
import pydantic

from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.project_settings import ProjectSettings, load_project_settings
from jukebox_orch.sensors import Triggers, build_sensors

FOLDER = Path(os.environ["SENSOR_TEST_FOLDER"])


class File(dg.Config):
    url: str
    sha256: str


class Source(dg.Config):
    location: str = ""
    files: list[File] = pydantic.Field(default_factory=list)


class TrainConfig(dg.Config):
    source: Source = Source()
    version: str = ""


@dg.op
def train(context: dg.OpExecutionContext, config: TrainConfig) -> None:
    for file in config.source.files:
        with fsspec.open(file.url, "rb") as stream:
            digest = hashlib.sha256(stream.read()).hexdigest()  # pyright: ignore[reportAttributeAccessIssue]
        if digest != file.sha256:
            raise dg.Failure(f"{file.url} changed after the sensor read it", allow_retries=False)


def _nested_config(config: dict[str, Any]) -> dict[str, Any]:
    return {"ops": {"train": {"config": config}}}


_FILES = dg.Field([{"url": str, "sha256": str}], is_required=False)


@dg.job(
    executor_def=dg.in_process_executor,
    config=dg.ConfigMapping(
        config_fn=_nested_config,
        config_schema={
            "source": dg.Field(
                {"location": dg.Field(str, is_required=False), "files": _FILES}, is_required=False
            ),
            "version": dg.Field(str, is_required=False),
        },
    ),
)
def toy_training():
    train()


def _deployed() -> DeployedCode:
    commit = FOLDER / "commit"
    return DeployedCode(commit.read_text().strip() if commit.exists() else None, "1.0.5")


defs = dg.Definitions(
    jobs=[toy_training],
    sensors=build_sensors(
        "toy",
        toy_training,
        Triggers.model_validate(
            load_project_settings(FOLDER / "projects.yaml").get("toy", ProjectSettings()).triggers
        ),
        deployed=_deployed,
        state_root=str(FOLDER / "sensors"),
    ),
)
