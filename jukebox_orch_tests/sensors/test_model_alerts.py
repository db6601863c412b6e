"""The decision which alerts start a run: one per firing, with a cooldown; labels are only data."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jukebox_orch.sensors.model_alerts.decision import (
    RETENTION_SECONDS,
    Alert,
    ModelAlertsState,
    decide,
    rebuilt,
)
from jukebox_orch.sensors.trigger_types import Decision, StartedEvent

NOW = 1_700_000_000.0


def alert(fingerprint: str = "f1", starts_at: float = NOW - 60, state: str = "active", **labels) -> Alert:
    return Alert(fingerprint, starts_at, state, {"alertname": "ModelDrift", **labels})


def tick(
    alerts: list[Alert],
    state: ModelAlertsState | None = None,
    now: float = NOW,
    *,
    cooldown: float = 0,
    max_runs: int = 10,
    label_tags: tuple[str, ...] = ("alertname", "severity"),
) -> Decision[ModelAlertsState]:
    return decide(
        alerts,
        state or ModelAlertsState(),
        now,
        cooldown=cooldown,
        label_tags=label_tags,
        max_runs=max_runs,
    )


def test_long_firing_alert_starts_one_run():
    first = tick([alert()])
    (request,) = first.requests
    assert request.run_key == "model_alert:f1/2023-11-14T22:12:20.000+00:00"
    assert request.tags["jukebox/event"] == "model_alert"
    assert request.tags["jukebox/event_id"] == "f1/2023-11-14T22:12:20.000+00:00"
    assert request.tags["jukebox/alert_alertname"] == "ModelDrift"
    assert request.run_config == {}
    state = first.state
    for hour in range(1, 24 * 30):
        again = tick([alert()], state, now=NOW + hour * 3_600)
        assert again.requests == []
        state = again.state


def test_second_firing_is_new_event():
    state = tick([alert()]).state
    assert len(tick([alert(starts_at=NOW + 600)], state, now=NOW + 610).requests) == 1


@pytest.mark.parametrize(
    "inactive",
    [
        alert(state="resolved"),
        alert(state="suppressed"),
        alert(state="unprocessed"),
        Alert("f", NOW, "active", {}, silenced_by=["s"]),
        Alert("f", NOW, "active", {}, inhibited_by=["i"]),
    ],
    ids=["resolved", "suppressed", "unprocessed", "silenced", "inhibited"],
)
def test_inactive_alert_starts_no_run(inactive: Alert):
    decision = tick([inactive])
    assert decision.requests == []
    assert "1 alert silenced, inhibited or not active" in decision.reason(NOW)


def test_flapping_alert_starts_one_run_per_cooldown():
    state, runs = ModelAlertsState(), 0
    for minute in range(180):
        firing = [alert(starts_at=NOW + minute * 60)] if minute % 2 else []
        decision = tick(firing, state, now=NOW + minute * 60, cooldown=3_600)
        runs, state = runs + len(decision.requests), decision.state
    assert runs == 3


def test_alert_still_firing_after_cooldown_starts_run():
    state = tick([alert("f1")], cooldown=600).state
    both = [alert("f1"), alert("f2", NOW)]
    waiting = tick(both, state, now=NOW + 10, cooldown=600)
    assert waiting.requests == []
    assert "1 alert waiting for the cooldown (590 s left): 'ModelDrift'" in waiting.reason(NOW)
    assert len(tick(both, waiting.state, now=NOW + 601, cooldown=600).requests) == 1
    assert tick([alert("f1")], waiting.state, now=NOW + 601, cooldown=600).requests == []


def test_simultaneous_alerts_all_start_oldest_first():
    alerts = [alert(f"f{i}", NOW - i) for i in range(5)]
    state, started = ModelAlertsState(), []
    for second in range(4):
        decision = tick(alerts, state, now=NOW + second, max_runs=2)
        started += [request.tags["jukebox/event_id"].split("/")[0] for request in decision.requests]
        state = decision.state
    assert started == ["f4", "f3", "f2", "f1", "f0"]


def test_cooldown_allows_one_run_per_tick():
    assert len(tick([alert("f1"), alert("f2")], cooldown=60, max_runs=10).requests) == 1


def test_only_allowed_labels_become_cut_tags():
    hostile = alert(severity="{{ env.HOME }}$(id)\n" + "x" * 999, version="9.9.9", source="s3://evil/")
    (request,) = tick([hostile]).requests
    assert request.run_config == {}
    assert set(request.tags) == {
        "jukebox/event",
        "jukebox/event_id",
        "jukebox/alert_alertname",
        "jukebox/alert_severity",
    }
    severity = request.tags["jukebox/alert_severity"]
    assert severity.startswith("{{ env.HOME }}$(id)x")
    assert severity.isprintable()
    assert len(severity) == 200


def test_state_keeps_recent_alerts_only():
    state = ModelAlertsState()
    for day in range(60):
        now = NOW + day * 86_400
        state = tick([alert(f"f{day}-{i}", now) for i in range(10)], state, now=now).state
    assert len(state.started) <= 10 * (RETENTION_SECONDS / 86_400 + 1)


def test_rebuilt_cursor_keeps_cooldown_of_last_run():
    runs = [
        StartedEvent(request.tags["jukebox/event_id"], request.tags, {}, NOW)
        for request in tick([alert()]).requests
    ]
    state = rebuilt(runs, NOW + 10)
    decision = tick([alert(), alert("f2")], state, now=NOW + 10, cooldown=600)
    assert decision.requests == []
    assert decision.state.last_request == NOW


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=6),
            st.integers(1, 90),
            st.booleans(),
        ),
        max_size=30,
    ),
    st.sampled_from([0, 100]),
    st.integers(1, 3),
)
def test_firing_starts_at_most_one_run_and_cooldown_holds(ticks, cooldown, max_runs):
    state, now, runs, times = ModelAlertsState(), NOW, [], []
    for firing, seconds, committed in ticks:
        now += seconds
        decision = tick(
            [alert(name, NOW + start) for name, start in firing],
            state,
            now,
            cooldown=cooldown,
            max_runs=max_runs,
        )
        if committed:
            state = decision.state
            runs += [request.run_key for request in decision.requests]
            times += [now] * len(decision.requests)
    assert len(runs) == len(set(runs))
    assert all(later - earlier >= cooldown for earlier, later in itertools.pairwise(times))
