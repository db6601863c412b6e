"""Types that all triggers share: a tick's decision with the runs to request, the new state and the reasons."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

State = TypeVar("State")

NAMES_SHOWN = 5
"""Maximum number of names in a reason, so that a tick stays readable in the UI; the rest is counted."""

EVENT_TAG = "jukebox/event"
EVENT_ID_TAG = "jukebox/event_id"


class SourceUnavailableError(Exception):
    """The watched source cannot be read. The tick shows the message, and the next tick tries again."""


@dataclass(frozen=True)
class RunEvent:
    """One run to start for one event.

    `run_key` depends only on the event's content, so that two requests give one run.
    """

    run_key: str
    tags: Mapping[str, str]
    run_config: Mapping[str, Any]


@dataclass(frozen=True)
class StartedEvent:
    """An event that already has a run. A lost cursor is rebuilt from these.

    `started_at` is in seconds since the epoch.
    """

    event_id: str
    tags: Mapping[str, str]
    run_config: Mapping[str, Any]
    started_at: float


@dataclass(frozen=True)
class Decision(Generic[State]):
    """Result of one tick: `requests` in order, the new `state`, and a summary of what was `seen`.

    `notes` explain what starts no run; `warnings` need a user's action.
    """

    requests: Sequence[RunEvent]
    state: State
    seen: str
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def reason(self, next_tick: float) -> str:
        """Return in one line what was seen, the reasons, and the time of the next tick (seconds since the epoch)."""
        at = datetime.fromtimestamp(next_tick, UTC).strftime("%H:%M:%S")
        return f"{'; '.join((self.seen, *self.warnings, *self.notes))}. Next tick at {at} UTC."


Evaluate = Callable[[Any], tuple[Decision[Any], str]]
"""One tick: Dagster's sensor context -> the decision and the new cursor."""


def explained(decision: Decision[State], problem: str | None, note: str | None = None) -> Decision[State]:
    """Return the decision with a warning about the cursor and a note about the first tick, if given."""
    return replace(
        decision,
        warnings=[*([problem] if problem else []), *decision.warnings],
        notes=[*decision.notes, *([note] if note else [])],
    )


def names(items: Iterable[str]) -> str:
    """Return at most `NAMES_SHOWN` names and the number of others. Names are untrusted: they are escaped and cut."""
    every = sorted(items)
    shown = ", ".join(repr(name if len(name) <= 120 else name[:117] + "...") for name in every[:NAMES_SHOWN])
    return shown if len(every) <= NAMES_SHOWN else f"{shown} and {len(every) - NAMES_SHOWN} more"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 file`, `2 files`, `10,000 entries`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
