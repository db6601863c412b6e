"""Decides which active alerts start a training run. Pure: no Dagster, no clock, no HTTP.

An alert is one event per fingerprint and start. Labels are data and are never part of the run config.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from jukebox_orch.sensors.trigger_types import (
    EVENT_ID_TAG,
    EVENT_TAG,
    Decision,
    RunEvent,
    StartedEvent,
    count,
    names,
)

EVENT = "model_alert"
RETENTION_SECONDS = 7 * 24 * 3600
"""Time for which the state keeps an inactive alert; later its run key still prevents a second run."""


@dataclass(frozen=True)
class Alert:
    """One alert of Alertmanager; `starts_at` in seconds since the epoch."""

    fingerprint: str
    starts_at: float
    state: str
    labels: Mapping[str, str]
    silenced_by: Sequence[str] = ()
    inhibited_by: Sequence[str] = ()

    @property
    def event_id(self) -> str:
        """Fingerprint and start, which identify one firing of one alert."""
        at = datetime.fromtimestamp(self.starts_at, UTC).isoformat(timespec="milliseconds")
        return f"{self.fingerprint}/{at}"


@dataclass(frozen=True)
class ModelAlertsState:
    """`started`: event id -> when it was last active; `last_request`: when the last run was requested (s)."""

    started: Mapping[str, float] = field(default_factory=dict)
    last_request: float | None = None


def decide(
    alerts: Sequence[Alert],
    state: ModelAlertsState,
    now: float,
    *,
    cooldown: float,
    label_tags: Sequence[str],
    max_runs: int,
) -> Decision[ModelAlertsState]:
    """Request one run per new firing, oldest first, and not before the cooldown (s) after the last run.

    An alert that waits for the cooldown starts its run afterwards, if it is still active.
    """
    active = [a for a in alerts if a.state == "active" and not a.silenced_by and not a.inhibited_by]
    new = {alert.event_id: alert for alert in active if alert.event_id not in state.started}
    ordered = sorted(new.values(), key=lambda alert: (alert.starts_at, alert.fingerprint))
    wait = 0.0 if state.last_request is None else min(state.last_request + cooldown - now, cooldown)
    limit = 0 if wait > 0 else min(max_runs, 1 if cooldown else max_runs)
    chosen = ordered[:limit]
    notes: list[str] = []
    if inactive := len(alerts) - len(active):
        notes.append(f"{count(inactive, 'alert')} silenced, inhibited or not active")
    if known := len(active) - len(ordered):
        notes.append(f"{count(known, 'alert')} that already had a run")
    if left := len(ordered) - len(chosen):
        why = f"the cooldown ({wait if wait > 0 else cooldown:.0f} s left)" if cooldown else "the next tick"
        left_names = names({alert.labels.get("alertname", alert.fingerprint) for alert in ordered[limit:]})
        notes.append(f"{count(left, 'alert')} waiting for {why}: {left_names}")
    if not active and not notes:
        notes.append("no alert fires")
    after = _next_state(state, active, chosen, now)
    requests = [_request(alert, label_tags) for alert in chosen]
    return Decision(requests, after, f"{count(len(active), 'active alert')}", notes)


def rebuilt(started: Sequence[StartedEvent], now: float) -> ModelAlertsState:
    """Return the state in which every firing that already had a run is known, so that it starts no second run."""
    return ModelAlertsState(
        started={event.event_id: now for event in started},
        last_request=max((event.started_at for event in started), default=None),
    )


def _next_state(
    state: ModelAlertsState, active: Sequence[Alert], chosen: Sequence[Alert], now: float
) -> ModelAlertsState:
    """Add the chosen alerts and drop old ones. Return the same state if nothing changes, so that a tick is cheap."""
    firing = {alert.event_id for alert in active}
    stale = {
        event: now if event in firing else last
        for event, last in state.started.items()
        if now - last > RETENTION_SECONDS / 2
    }
    if not chosen and not stale:
        return state
    started = {**state.started, **stale, **{alert.event_id: now for alert in chosen}}
    kept = {event: last for event, last in started.items() if now - last <= RETENTION_SECONDS}
    return ModelAlertsState(kept, now if chosen else state.last_request)


def _request(alert: Alert, label_tags: Sequence[str]) -> RunEvent:
    tags = {EVENT_TAG: EVENT, EVENT_ID_TAG: alert.event_id}
    for label in label_tags:
        if value := alert.labels.get(label):
            tags[f"jukebox/alert_{label}"] = "".join(c for c in value if c.isprintable())[:200]
    return RunEvent(f"{EVENT}:{alert.event_id}", tags, {})
