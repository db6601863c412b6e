"""A sensor that tests evaluate directly."""

from pathlib import Path
from typing import Any

import dagster as dg

from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.sensors import Triggers, build_sensors


@dg.op
def nothing() -> None:
    """Do nothing: the tests start no run."""


@dg.job
def training():
    nothing()


class Sensor:
    """One sensor of a project, evaluated directly. Each tick gets the cursor of the previous one, as in the daemon."""

    def __init__(
        self, instance: dg.DagsterInstance, folder: Path, kind: str, dataset_name: str = "", **settings: Any
    ):
        sensors = build_sensors(
            "p",
            training,
            Triggers.model_validate({kind: settings} if settings else {}),
            deployed=lambda: DeployedCode(None, None),
            state_root=str(folder / "state"),
            dataset_name=dataset_name,
        )
        (self.definition,) = [sensor for sensor in sensors if sensor.name == f"p_{kind}"]
        self.cursor: str | None = None
        self._instance = instance

    def tick(self) -> dg.SensorResult:
        with dg.build_sensor_context(instance=self._instance, cursor=self.cursor) as context:
            result = self.definition(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        for request in result.run_requests or []:
            self._instance.add_run(
                dg.DagsterRun(job_name="training", run_config=request.run_config, tags=request.tags)
            )
        return result

    def reason(self) -> str:
        """Evaluate a tick that requests no run, and return its skip reason."""
        result = self.tick()
        assert not result.run_requests
        assert result.skip_reason
        return result.skip_reason.skip_message or ""
