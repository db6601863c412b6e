"""Finds, in the Dagster instance, the events that already started a run."""

from collections.abc import Iterator

from dagster import DagsterInstance, RunsFilter

from jukebox_orch.sensors.trigger_types import EVENT_ID_TAG, EVENT_TAG, StartedEvent

_PAGE = 10
"""Runs read at once: the run config of one may name 10,000 files."""


def started_events(instance: DagsterInstance, job_name: str, event: str) -> Iterator[StartedEvent]:
    """Yield the events of one kind that have a run of this job, newest first, without holding all of them."""
    filters = RunsFilter(job_name=job_name, tags={EVENT_TAG: event})
    cursor: str | None = None
    while True:
        records = instance.get_run_records(filters, limit=_PAGE, cursor=cursor)
        for record in records:
            run = record.dagster_run
            if event_id := run.tags.get(EVENT_ID_TAG):
                started_at = record.create_timestamp.timestamp()
                yield StartedEvent(event_id, run.tags, run.run_config, started_at)
        if len(records) < _PAGE:
            return
        cursor = records[-1].dagster_run.run_id
