"""The Dagster sensors and the schedule of a project.

Each sensor lists its source, calls a pure decision function and stores the cursor.
"""

import time
from collections.abc import Callable
from typing import Any

import dagster as dg

from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.sensors.git_tags.tick import git_tags_tick
from jukebox_orch.sensors.model_alerts.tick import model_alerts_tick
from jukebox_orch.sensors.new_data.tick import new_data_tick
from jukebox_orch.sensors.settings import Triggers
from jukebox_orch.sensors.trigger_types import EVENT_TAG, Decision, Evaluate, SourceUnavailableError, count

_IDLE_SECONDS = 3_600


def build_sensors(
    project_name: str,
    job: Any,
    triggers: Triggers,
    *,
    deployed: Callable[[], DeployedCode],
    state_root: str,
    require_matching_code: bool = False,
    dataset_name: str = "",
) -> list[dg.SensorDefinition]:
    """Return the three sensors of a project. One without a trigger is stopped, and its tick says how to configure it.

    Args:
        project_name: Prefix of the sensors' names.
        job: The training job, or its name.
        triggers: The project's triggers.
        deployed: Returns the code that this deployment runs; called in every tick of git tags.
        state_root: Folder or fsspec URL for what does not fit into a cursor.
        require_matching_code: Default for git tags, if the trigger does not set it.
        dataset_name: Name of the data of the new-data trigger; empty: its location.
    """
    job_name = job if isinstance(job, str) else job.name
    root = f"{state_root.rstrip('/')}/{project_name}"
    data, tags, alerts = triggers.new_data, triggers.git_tags, triggers.model_alerts

    def sensor(
        kind: str, watches: str, interval: int | None, evaluate: Evaluate | None
    ) -> dg.SensorDefinition:
        return dg.SensorDefinition(
            name=f"{project_name}_{kind}",
            evaluation_fn=(
                _unconfigured(project_name, kind)
                if evaluate is None
                else _tick(evaluate, interval or _IDLE_SECONDS)
            ),
            description=f"{watches} start {job_name}, once per event.",
            minimum_interval_seconds=interval or _IDLE_SECONDS,
            default_status=dg.DefaultSensorStatus.STOPPED
            if evaluate is None
            else dg.DefaultSensorStatus.RUNNING,
            job=None if isinstance(job, str) else job,
            job_name=job if isinstance(job, str) else None,
        )

    return [
        sensor(
            "new_data",
            f"New files at {data.location}" if data else "New files",
            data and data.interval_seconds,
            new_data_tick(data, job_name, f"{root}/new_data", dataset_name) if data else None,
        ),
        sensor(
            "git_tags",
            f"New tags {tags.pattern} of {tags.repository}" if tags else "New version tags in git",
            tags and tags.interval_seconds,
            git_tags_tick(tags, job_name, f"{root}/git_tags", deployed, require_matching_code)
            if tags
            else None,
        ),
        sensor(
            "model_alerts",
            f"Firing alerts {{{', '.join(alerts.matchers)}}} of {alerts.url}" if alerts else "Firing alerts",
            alerts and alerts.interval_seconds,
            model_alerts_tick(alerts, job_name, f"{root}/model_alerts") if alerts else None,
        ),
    ]


def build_schedules(project_name: str, job_name: str, triggers: Triggers) -> list[dg.ScheduleDefinition]:
    """Return the schedule of a project's training job, which is on; none without a trigger."""
    trigger = triggers.schedule
    if trigger is None:
        return []
    return [
        dg.ScheduleDefinition(
            name=f"{project_name}_schedule",
            description=f"Starts {job_name} at {trigger.cron} ({trigger.timezone}).",
            job_name=job_name,
            cron_schedule=trigger.cron,
            execution_timezone=trigger.timezone,
            tags={EVENT_TAG: "schedule"},
            default_status=dg.DefaultScheduleStatus.RUNNING,
        )
    ]


def _tick(evaluate: Evaluate, interval: int) -> Callable[[dg.SensorEvaluationContext], dg.SensorResult]:
    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        next_tick = time.time() + interval
        try:
            decision, cursor = evaluate(context)
        except SourceUnavailableError as problem:
            nothing = Decision((), None, str(problem), ["nothing was decided"])
            return dg.SensorResult(skip_reason=nothing.reason(next_tick), cursor=context.cursor)
        if not decision.requests:
            return dg.SensorResult(skip_reason=decision.reason(next_tick), cursor=cursor)
        context.log.info(f"requests {count(len(decision.requests), 'run')}; {decision.reason(next_tick)}")
        requests = [
            dg.RunRequest(run_key=event.run_key, run_config=dict(event.run_config), tags=dict(event.tags))
            for event in decision.requests
        ]
        return dg.SensorResult(run_requests=requests, cursor=cursor)

    return tick


def _unconfigured(project_name: str, kind: str) -> Callable[[dg.SensorEvaluationContext], dg.SensorResult]:
    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return dg.SensorResult(
            skip_reason=f"Not configured: add `{kind}` to the triggers of `{project_name}` in the deployment's "
            "projects file (docs/sensors.md) and reload this code location."
        )

    return tick
