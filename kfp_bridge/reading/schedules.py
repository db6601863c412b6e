"""Reads schedules as recurring runs, and reports sensors with the command that replaces them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from kfp_bridge.pipeline_graph import MappingRow, Parameter, Schedule
from kfp_bridge.reading.run_config import parameter_values

# A Monday, a leap day and a Sunday at a month's end: a run config that depends on the tick differs on one of them.
_TICKS = (
    datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 13, 7, tzinfo=UTC),
    datetime(2027, 10, 31, tzinfo=UTC),
)


def read_schedules(
    defs: dg.Definitions, job: dg.JobDefinition, parameters: Sequence[Parameter]
) -> tuple[tuple[Schedule, ...], list[MappingRow]]:
    """Return the job's schedules and report rows; one whose run request depends on the tick is `unmapped`."""
    schedules, rows = [], []
    for name in sorted(schedule.name for schedule in defs.schedules or ()):
        schedule = defs.resolve_schedule_def(name)
        if schedule.job_name != job.name:
            continue
        try:
            schedules.append(_read(schedule, parameters))
            rows.append(MappingRow(f"schedule {name}", "cron", f"recurring run {schedule.cron_schedule}"))
        except _NotExportableError as error:
            rows.append(MappingRow(f"schedule {name}", "run request", str(error), "unmapped"))
    return tuple(schedules), rows


def read_sensors(defs: dg.Definitions, job: dg.JobDefinition) -> list[MappingRow]:
    """Return a row per sensor with the command that starts a run instead, as KFP has no sensors."""
    rows = []
    for sensor in sorted(defs.sensors or (), key=lambda sensor: sensor.name):
        targets = _targets(sensor)
        if targets is not None and job.name not in targets:
            continue
        command = (
            "KFP has no sensors: let the event's source call `kfp-bridge submit PIPELINE.yaml -p NAME=VALUE`"
        )
        rows.append(MappingRow(f"sensor {sensor.name}", "sensor", command, "not exported"))
    return rows


def _targets(sensor: dg.SensorDefinition) -> set[str | None] | None:
    """Return the names of the jobs that the sensor starts; None if it may start any, or does not list them."""
    try:
        return {sensor.job_name}
    except dg.DagsterInvalidDefinitionError:  # no job, or several
        try:
            return {target.name for target in sensor.jobs}
        except dg.DagsterInvalidDefinitionError:
            return None


class _NotExportableError(Exception):
    pass


def _read(schedule: dg.ScheduleDefinition, parameters: Sequence[Parameter]) -> Schedule:
    requests = [_request(schedule, tick) for tick in _TICKS]
    first = requests[0]
    if any((r.run_config, r.partition_key) != (first.run_config, first.partition_key) for r in requests):
        raise _NotExportableError(
            "its run config or partition depends on the tick; KFP sends the same values every time"
        )
    if first.partition_key is not None:
        raise _NotExportableError("it requests a partition; KFP sends the same parameters every time")
    try:
        values = parameter_values(parameters, first.run_config)
    except KeyError as error:
        raise _NotExportableError(
            f"its run config sets {error}, which is not a pipeline parameter"
        ) from error
    cron = schedule.cron_schedule
    return Schedule(
        name=schedule.name,
        cron=(cron,) if isinstance(cron, str) else tuple(cron),
        timezone=schedule.execution_timezone or "UTC",
        running=schedule.default_status is dg.DefaultScheduleStatus.RUNNING,
        parameters=values,
    )


def _request(schedule: dg.ScheduleDefinition, tick: datetime) -> Any:
    context = dg.build_schedule_context(scheduled_execution_time=tick)
    try:
        requests = schedule.evaluate_tick(context).run_requests
    except Exception as error:
        raise _NotExportableError(f"evaluating it failed: {type(error).__name__}: {error}") from error
    if not requests or len(requests) != 1:
        raise _NotExportableError(f"it requests {len(requests or ())} runs on a tick; KFP starts exactly one")
    return requests[0]
