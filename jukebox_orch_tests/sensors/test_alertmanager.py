"""Reading alerts from a real Alertmanager and from a misbehaving server."""

import time

import dagster as dg
import pytest

from jukebox_orch.sensors.model_alerts.alertmanager import active_alerts
from jukebox_orch.sensors.model_alerts.decision import ModelAlertsState, decide
from jukebox_orch.sensors.trigger_types import SourceUnavailableError
from jukebox_orch_tests.support.servers import (
    ALERTMANAGER,
    Misbehaviour,
    alertmanager,
    built_with_go,
    self_signed_certificate,
)
from jukebox_orch_tests.support.waiting import free_port, wait_until

MATCHERS = [
    'name="a \\"b\\" \\\\ c"',
    'name=~"a .b. .* c"',
    'name = "a \\"b\\" \\\\ c"',
    'name=~"a \\"b\\" \\. c|a \\"b\\" \\\\\\\\ c"',
    'name!="x, y{}"',
]
"""Matchers with a plain name; each matches the label `name` with the value `a "b" \\ c`."""
QUOTED_NAMES = [
    '"service.name"="x"',
    '"service.name" =~ "x|\\\\."',
    '"l\\"abel é"="\\\\\\n"',
]
"""Matchers with a quoted name; each matches the alert of `QUOTED_LABELS`."""
QUOTED_LABELS = {"service.name": "x", 'l"abel é': "\\\n"}
BAD_MATCHERS = [
    "model",
    'model="a" or 1',
    'model="a\\nb"\n',
    "=",
    '{model="a"}',
    'model="a",x="b"',
    'model="a"b"',
    'model="a\\"',
    'service.name="x"',
    '"service.name"=~"a\\.b"',
    '"service.name=x"',
    '"a"b"="x"',
    '""="x"',
    "model='a'",
]
"""Matchers that are refused; most of them by every version of Alertmanager."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    with alertmanager(tmp_path_factory.mktemp("alertmanager")) as running:
        yield running


@pytest.fixture(scope="module")
def newer_prometheus(tmp_path_factory):
    with alertmanager(tmp_path_factory.mktemp("newer"), built_with_go(ALERTMANAGER)) as running:
        yield running


def test_only_matching_firing_alerts_are_returned(prometheus):
    prometheus.fire({"model": "jukebox"}, {"model": "other"}, {"model": "jukebox", "severity": "info"})
    prometheus.fire(
        {"model": "jukebox", "resolved": "yes"}, ends_at=time.time() - 1, starts_at=time.time() - 60
    )
    found = active_alerts(prometheus.url, ['model="jukebox"', 'severity!="info"'])
    assert [alert.labels for alert in found] == [{"alertname": "ModelDrift", "model": "jukebox"}]
    assert found[0].state == "active"
    assert abs(found[0].starts_at - time.time()) < 60


def test_firing_alert_keeps_its_start(prometheus):
    prometheus.fire({"model": "steady"})
    before = active_alerts(prometheus.url, ['model="steady"'])
    prometheus.fire({"model": "steady"}, starts_at=before[0].starts_at, ends_at=time.time() + 9_999)
    assert active_alerts(prometheus.url, ['model="steady"'])[0].event_id == before[0].event_id


def test_silenced_and_inhibited_alerts_are_not_returned(prometheus):
    prometheus.silence("model", "silenced")
    prometheus.fire({"model": "silenced"}, {"model": "inhibited", "role": "mutable"})
    prometheus.fire({"model": "inhibited", "role": "mute"})
    wait_until(
        lambda: not active_alerts(prometheus.url, ['model="silenced"']),
        10,
        "still not silenced",
    )
    assert [a.labels["role"] for a in active_alerts(prometheus.url, ['model="inhibited"'])] == ["mute"]


def test_hostile_label_is_returned_unchanged(prometheus):
    value = '{{ .Env }}"}]$(id)\u202e\n'
    prometheus.fire({"model": "forged", "version": value})
    assert active_alerts(prometheus.url, ['model="forged"'])[0].labels["version"] == value


@pytest.mark.parametrize("matcher", MATCHERS)
def test_escaped_value_matches(prometheus, matcher):
    labels = {"name": 'a "b" \\ c', "case": "escaped"}
    prometheus.fire(labels, {"name": "other", "case": "plain"})
    found = active_alerts(prometheus.url, [matcher, 'case="escaped"'])
    assert [alert.labels for alert in found] == [{"alertname": "ModelDrift", **labels}]


@pytest.mark.parametrize("matcher", QUOTED_NAMES)
def test_quoted_name_matches_and_becomes_tag(newer_prometheus, matcher):
    newer_prometheus.fire(QUOTED_LABELS, {"service.name": "other"})
    found = active_alerts(newer_prometheus.url, [matcher, 'alertname="ModelDrift"'])
    assert [alert.labels for alert in found] == [{"alertname": "ModelDrift", **QUOTED_LABELS}]
    decision = decide(
        found, ModelAlertsState(), time.time(), cooldown=0, label_tags=["service.name"], max_runs=1
    )
    (request,) = decision.requests
    assert dg.RunRequest(tags=dict(request.tags)).tags["jukebox/alert_service.name"] == "x"


@pytest.mark.parametrize("matcher", MATCHERS)
def test_escaped_value_matches_in_newer_version(newer_prometheus, matcher):
    newer_prometheus.fire({"name": 'a "b" \\ c'})
    (found,) = active_alerts(newer_prometheus.url, [matcher, 'name=~".+"'])
    assert found.labels["name"] == 'a "b" \\ c'


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (
            400,
            b'"bad matcher format: \\"service.name\\"=\\"x\\""\n',
            "a quoted label name needs Alertmanager 0.27; if it is that new, correct the regular expression",
        ),
        (500, b"overloaded", "answered 500: overloaded"),
        (200, b"<html>", "did not return a list of alerts"),
        (200, b'[{"fingerprint": "f1"', "did not return a list of alerts"),
        (200, b"[" * 100_000, "did not return a list of alerts"),
        (200, b'{"data": []}', "did not return a list of alerts: : Input should be a valid list"),
        (200, b'[{"fingerprint": "$(id)"}]', "0.fingerprint: String should match"),
        (200, b"\xff\xfe", "did not return a list of alerts"),
        (302, b"", "answered 302"),
    ],
)
def test_invalid_response_is_reported(status, body, reason):
    behaviour = Misbehaviour()
    behaviour.status, behaviour.body = status, body
    with behaviour.serve() as url, pytest.raises(SourceUnavailableError) as error:
        active_alerts(url, ['model="m"'])
    assert reason in str(error.value)


def test_down_slow_endless_and_untrusted_servers_are_reported(tmp_path, monkeypatch):
    with pytest.raises(SourceUnavailableError, match="cannot be reached"):
        active_alerts(f"http://127.0.0.1:{free_port()}", ['model="m"'])
    behaviour = Misbehaviour()
    behaviour.body, behaviour.delay = b"[]", 5
    with (
        behaviour.serve() as url,
        pytest.raises(SourceUnavailableError, match="did not answer within 1 s"),
    ):
        active_alerts(url, ['model="m"'], seconds=1)
    monkeypatch.setattr("jukebox_orch.sensors.model_alerts.alertmanager.MAX_BYTES", 1_000)
    behaviour.body, behaviour.delay = b"[" + b" " * 9_000, 0
    with behaviour.serve() as url, pytest.raises(SourceUnavailableError, match="more than 1,000 bytes"):
        active_alerts(url, ['model="m"'])
    with (
        behaviour.serve(self_signed_certificate(tmp_path)) as url,
        pytest.raises(SourceUnavailableError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        active_alerts(url, ['model="m"'])
