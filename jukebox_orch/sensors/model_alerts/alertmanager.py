"""Reads the active alerts of an Alertmanager through its v2 API."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import httpx
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from jukebox_orch.sensors.model_alerts.decision import Alert
from jukebox_orch.sensors.trigger_types import SourceUnavailableError

SECONDS = 10.0
MAX_BYTES = 32 * 1024**2


class _Status(BaseModel):
    state: str
    silencedBy: list[str]  # noqa: N815 - names of the API
    inhibitedBy: list[str]  # noqa: N815


class _Alert(BaseModel):
    """The fields of a `gettableAlert` that are used (api/v2/openapi.yaml of Alertmanager)."""

    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
    startsAt: AwareDatetime  # noqa: N815
    labels: dict[str, str]
    status: _Status


_ALERTS = TypeAdapter(list[_Alert])


def active_alerts(url: str, matchers: Sequence[str], seconds: float = SECONDS) -> list[Alert]:
    """Return the alerts that match all matchers and are neither silenced nor inhibited.

    Raises:
        SourceUnavailableError: No connection, an invalid certificate, no complete response within `seconds`, an HTTP
            error, or a response that is not a list of alerts.
    """
    query: list[tuple[str, str | int | float | bool | None]] = [
        ("active", "true"),
        ("silenced", "false"),
        ("inhibited", "false"),
    ]
    query += [("filter", matcher) for matcher in matchers]
    body = _get(f"{url}/api/v2/alerts", httpx.QueryParams(query), seconds)
    try:
        found = _ALERTS.validate_python(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise SourceUnavailableError(
            f"Alertmanager {url} did not return a list of alerts: {_error_text(error)}"
        ) from error
    return [
        Alert(
            fingerprint=alert.fingerprint,
            starts_at=_seconds(alert.startsAt),
            state=alert.status.state,
            labels=alert.labels,
            silenced_by=alert.status.silencedBy,
            inhibited_by=alert.status.inhibitedBy,
        )
        for alert in found
    ]


def _get(url: str, query: httpx.QueryParams, seconds: float) -> bytes:
    body = b""
    deadline = datetime.now().timestamp() + seconds
    try:
        with httpx.Client(timeout=httpx.Timeout(seconds, connect=5)) as client:
            with client.stream("GET", url, params=query, headers={"accept": "application/json"}) as response:
                for chunk in response.iter_bytes(64 * 1024):
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise SourceUnavailableError(f"Alertmanager {url} sent more than {MAX_BYTES:,} bytes")
                    if datetime.now().timestamp() > deadline:
                        raise SourceUnavailableError(
                            f"Alertmanager {url} did not finish within {seconds:.0f} s"
                        )
            if response.status_code != httpx.codes.OK:
                text = body[:200].decode(errors="replace").strip()
                raise SourceUnavailableError(
                    f"Alertmanager {url} answered {response.status_code}: {text}{_advice(text)}"
                )
    except httpx.TimeoutException as error:
        raise SourceUnavailableError(f"Alertmanager {url} did not answer within {seconds:.0f} s") from error
    except httpx.HTTPError as error:
        raise SourceUnavailableError(f"Alertmanager {url} cannot be reached: {error}") from error
    return body


def _advice(error: str) -> str:
    if error.startswith('"bad matcher format: \\"'):  # its name is quoted
        return (
            "; a quoted label name needs Alertmanager 0.27; if it is that new, correct the regular expression"
        )
    return ""


def _seconds(moment: datetime) -> float:
    return round(moment.timestamp(), 3)


def _error_text(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)[:200]
