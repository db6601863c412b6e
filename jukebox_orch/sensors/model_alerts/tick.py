"""One tick of the model-alerts trigger: read the cursor, list the active alerts, decide, write the cursor."""

import time
from typing import Any

import dagster as dg

from jukebox_orch.sensors.cursor import CursorCodec
from jukebox_orch.sensors.model_alerts.decision import EVENT, ModelAlertsState, decide, rebuilt
from jukebox_orch.sensors.run_history import started_events
from jukebox_orch.sensors.settings import ModelAlertsTrigger
from jukebox_orch.sensors.trigger_types import Decision, Evaluate, explained


def model_alerts_tick(trigger: ModelAlertsTrigger, job_name: str, state_root: str) -> Evaluate:
    """Return the tick that finds firing alerts."""
    codec = CursorCodec(EVENT, f"{trigger.url} {{{', '.join(trigger.matchers)}}}", state_root)

    def evaluate(context: dg.SensorEvaluationContext) -> tuple[Decision[ModelAlertsState], str]:
        from jukebox_orch.sensors.model_alerts.alertmanager import active_alerts

        now = time.time()
        known, problem = codec.decode_or_none(context.cursor, _state)
        state = known or rebuilt(list(started_events(context.instance, job_name, EVENT)), now)
        decision = decide(
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
        return explained(decision, problem), codec.encode({}, body, context.cursor)

    return evaluate


def _state(head: dict[str, Any], body: dict[str, Any]) -> ModelAlertsState:
    return ModelAlertsState(dict(body["started"]), body["last_request"])
