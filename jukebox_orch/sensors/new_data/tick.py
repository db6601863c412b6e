"""One tick of the new-data trigger: read the cursor, scan the location, decide, write the cursor."""

import time
from dataclasses import replace
from itertools import islice
from typing import Any

import dagster as dg

from jukebox_orch.sensors.cursor import CursorCodec, with_head
from jukebox_orch.sensors.new_data.decision import (
    EVENT,
    Limits,
    NewDataState,
    decide,
    rebuilt,
    select,
    started_digests,
)
from jukebox_orch.sensors.run_history import started_events
from jukebox_orch.sensors.settings import NewDataTrigger
from jukebox_orch.sensors.trigger_types import Decision, Evaluate, explained

RECENT_RUNS, RECENT_FILES = 200, 50_000
"""Runs to check before new files start one: Dagster drops an interrupted tick after a day, but its run may exist.

It is the newest run, or among the newest if runs were repeated. Fewer are checked when each names many files."""


def new_data_tick(
    trigger: NewDataTrigger, job_name: str, state_root: str, dataset_name: str = ""
) -> Evaluate:
    """Return the tick that finds new files; its runs name the data `dataset_name`, if it is given."""
    codec = CursorCodec(EVENT, trigger.location, state_root)
    limits = Limits(**trigger.model_dump(include=set(Limits.__dataclass_fields__)))

    def evaluate(context: dg.SensorEvaluationContext) -> tuple[Decision[NewDataState], str]:
        from jukebox_orch.sensors.new_data.locations import open_location
        from jukebox_orch.sensors.new_data.scan import read_digests, scan

        known, problem = codec.decode_or_none(context.cursor, _state)
        state = known or rebuilt(started_events(context.instance, job_name, EVENT))
        location = open_location(trigger.location)
        listing = scan(location, state, with_manifests=limits.complete_when == "manifest")
        selection = select(listing, state, time.time(), limits)
        contents = read_digests(location, selection.ready, limits.max_files_per_run)
        recent = _recent_digests(context.instance, job_name) if contents.digests else set()
        decision = decide(
            listing,
            state,
            selection,
            contents,
            location=location.prefix,
            limits=limits,
            started=recent,
        )
        if dataset_name:
            named = [
                replace(request, run_config={**request.run_config, "dataset_name": dataset_name})
                for request in decision.requests
            ]
            decision = replace(decision, requests=named)
        after = decision.state
        head = {"sweep": after.sweep}
        if context.cursor and known and replace(after, sweep=known.sweep) == known:
            return decision, context.cursor if after.sweep == known.sweep else with_head(context.cursor, head)
        body = {
            "files": after.files,
            "waiting": after.waiting,
            "gone": sorted(after.gone),
            "markers": after.markers,
        }
        return explained(decision, problem), codec.encode(head, body, context.cursor)

    return evaluate


def _recent_digests(instance: dg.DagsterInstance, job_name: str) -> set[str]:
    digests: set[str] = set()
    files = 0
    for event in islice(started_events(instance, job_name, EVENT), RECENT_RUNS):
        of_run = started_digests([event])
        digests |= of_run
        files += len(of_run)
        if files >= RECENT_FILES:
            break
    return digests


def _state(head: dict[str, Any], body: dict[str, Any]) -> NewDataState:
    return NewDataState(
        body["files"], body["waiting"], frozenset(body["gone"]), body["markers"], head.get("sweep", "")
    )
