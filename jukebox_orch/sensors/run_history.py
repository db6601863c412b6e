"""Finds, in the Dagster instance, the events that already started a run."""

from dagster import DagsterInstance, RunsFilter

from jukebox_orch.sensors.trigger_types import EVENT_ID_TAG, EVENT_TAG, StartedEvent

_PAGE = 500


def started_events(
    instance: DagsterInstance, job_name: str, event: str, limit: int | None = None
) -> list[StartedEvent]:
    """Return the events of one kind that have a run of this job, newest first; all of them without a limit."""
    filters = RunsFilter(job_name=job_name, tags={EVENT_TAG: event})
    events: list[StartedEvent] = []
    cursor: str | None = None
    while True:
        page = _PAGE if limit is None else min(_PAGE, limit - len(events))
        records = instance.get_run_records(filters, limit=page, cursor=cursor)
        for record in records:
            run = record.dagster_run
            if event_id := run.tags.get(EVENT_ID_TAG):
                started_at = record.create_timestamp.timestamp()
                events.append(StartedEvent(event_id, run.tags, run.run_config, started_at))
        if len(records) < page or len(events) == limit:
            return events
        cursor = records[-1].dagster_run.run_id
