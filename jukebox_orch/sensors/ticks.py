"""One tick of each trigger: read the cursor, look at the source, decide, write the cursor."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import dagster as dg

from jukebox_orch.sensors.cursor import CursorError, Memory, with_head
from jukebox_orch.sensors.decisions import Decision
from jukebox_orch.sensors.git_tags import decision as git_tags
from jukebox_orch.sensors.git_tags.decision import DeployedCode, GitTagsState
from jukebox_orch.sensors.git_tags.remote import list_tags
from jukebox_orch.sensors.model_alerts import decision as model_alerts
from jukebox_orch.sensors.model_alerts.decision import ModelAlertsState
from jukebox_orch.sensors.new_data import decision as new_data
from jukebox_orch.sensors.new_data.decision import Limits, NewDataState
from jukebox_orch.sensors.run_history import started_events
from jukebox_orch.sensors.settings import GitTagsTrigger, ModelAlertsTrigger, NewDataTrigger

RECENT_RUNS = 200
"""Runs looked up before new files start one: Dagster gives up an interrupted tick after a day, its run may exist."""

Evaluate = Callable[[dg.SensorEvaluationContext], tuple[Decision[Any], str]]
"""One tick: the decision and the new cursor."""

State = TypeVar("State")


def new_data_tick(trigger: NewDataTrigger, job_name: str, memory_root: str) -> Evaluate:
    """Return the tick that looks for new files."""
    memory = Memory(new_data.EVENT, trigger.location, memory_root)
    limits = Limits(**trigger.model_dump(include=set(Limits.__dataclass_fields__)))

    def evaluate(context: dg.SensorEvaluationContext) -> tuple[Decision[NewDataState], str]:
        from jukebox_orch.sensors.new_data.locations import open_location
        from jukebox_orch.sensors.new_data.scan import look, read_digests

        known, problem = _remembered(memory, context.cursor, _new_data_state)
        state = known or new_data.rebuilt(started_events(context.instance, job_name, new_data.EVENT))
        location = open_location(trigger.location)
        listing = look(location, state, with_manifests=limits.complete_when == "manifest")
        selection = new_data.select(listing, state, time.time(), limits)
        digests, failures = read_digests(location, selection.ready, limits.max_files_per_run)
        recent = started_events(context.instance, job_name, new_data.EVENT, RECENT_RUNS) if digests else []
        decision = new_data.decide(
            listing,
            state,
            selection,
            digests=digests,
            failures=failures,
            location=location.prefix,
            limits=limits,
            started=new_data.started_digests(recent),
        )
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
        return _explained(decision, problem), memory.encode(head, body, context.cursor)

    return evaluate


def git_tags_tick(
    trigger: GitTagsTrigger,
    job_name: str,
    memory_root: str,
    deployed: Callable[[], DeployedCode],
    require_matching_code: bool,
) -> Evaluate:
    """Return the tick that looks for new tags; `require_matching_code` holds where the trigger does not say."""
    memory = Memory(git_tags.EVENT, f"{trigger.repository} {trigger.pattern}", memory_root)
    if trigger.require_matching_code is not None:
        require_matching_code = trigger.require_matching_code

    def evaluate(context: dg.SensorEvaluationContext) -> tuple[Decision[GitTagsState], str]:
        known, problem = _remembered(memory, context.cursor, _git_tags_state)
        listing = list_tags(
            trigger.repository, trigger.credentials_file, trigger.ssh_key_file, trigger.known_hosts_file
        )
        code = deployed()
        state, note = (
            (known, None)
            if known
            else git_tags.rebuilt(
                listing,
                started_events(context.instance, job_name, git_tags.EVENT),
                pattern=trigger.pattern,
                deployed=code,
                require_matching_code=require_matching_code,
            )
        )
        decision = git_tags.decide(
            listing,
            state,
            pattern=trigger.pattern,
            deployed=code,
            require_matching_code=require_matching_code,
            max_runs=trigger.max_runs_per_tick,
        )
        if context.cursor and decision.state == known:
            return decision, context.cursor
        body = {"tags": dict(decision.state.tags)}
        return _explained(decision, problem, note), memory.encode({}, body, context.cursor)

    return evaluate


def model_alerts_tick(trigger: ModelAlertsTrigger, job_name: str, memory_root: str) -> Evaluate:
    """Return the tick that looks for firing alerts."""
    memory = Memory(model_alerts.EVENT, f"{trigger.url} {{{', '.join(trigger.matchers)}}}", memory_root)

    def evaluate(context: dg.SensorEvaluationContext) -> tuple[Decision[ModelAlertsState], str]:
        from jukebox_orch.sensors.model_alerts.alertmanager import active_alerts

        now = time.time()
        known, problem = _remembered(memory, context.cursor, _model_alerts_state)
        state = known or model_alerts.rebuilt(
            started_events(context.instance, job_name, model_alerts.EVENT), now
        )
        decision = model_alerts.decide(
            active_alerts(trigger.url, trigger.matchers),
            state,
            now,
            cooldown=trigger.cooldown_seconds,
            label_tags=trigger.label_tags,
            max_runs=trigger.max_runs_per_tick,
        )
        if context.cursor and decision.state == known:
            return decision, context.cursor
        body = {"started": dict(decision.state.started), "last_request": decision.state.last_request}
        return _explained(decision, problem), memory.encode({}, body, context.cursor)

    return evaluate


def _remembered(
    memory: Memory, cursor: str | None, state_of: Callable[[dict[str, Any], dict[str, Any]], State]
) -> tuple[State | None, str | None]:
    """Return the state in the cursor, None before the first look; or None and what is wrong with the cursor."""
    if not cursor:
        return None, None
    try:
        head, body = memory.decode(cursor)
        return state_of(head, body), None
    except CursorError as error:
        return None, f"the cursor could not be used ({error}) and was rebuilt from the runs that exist"
    except (KeyError, TypeError, AttributeError) as error:
        return None, f"the cursor holds no such state ({error!r}) and was rebuilt from the runs that exist"


def _new_data_state(head: dict[str, Any], body: dict[str, Any]) -> NewDataState:
    return NewDataState(
        body["files"], body["waiting"], frozenset(body["gone"]), body["markers"], head.get("sweep", "")
    )


def _git_tags_state(head: dict[str, Any], body: dict[str, Any]) -> GitTagsState:
    return GitTagsState(dict(body["tags"]))


def _model_alerts_state(head: dict[str, Any], body: dict[str, Any]) -> ModelAlertsState:
    return ModelAlertsState(dict(body["started"]), body["last_request"])


def _explained(decision: Decision[State], problem: str | None, note: str | None = None) -> Decision[State]:
    return replace(
        decision,
        warnings=[*([problem] if problem else []), *decision.warnings],
        notes=[*decision.notes, *([note] if note else [])],
    )
