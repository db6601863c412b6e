"""What every trigger's decision hands to its sensor: runs to request, the new state, and the reasons."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

State = TypeVar("State")

NAMES_SHOWN = 5
"""How many names a reason lists before it only counts: a tick must stay readable in the UI."""

EVENT_TAG = "jukebox/event"
EVENT_ID_TAG = "jukebox/event_id"


class SourceUnavailableError(Exception):
    """The watched source did not answer usefully; the message is for the tick, the next tick tries again."""


@dataclass(frozen=True)
class RunEvent:
    """One run to start for one event.

    `run_key` is derived from the event's content alone, so that asking twice gives one run.
    """

    run_key: str
    tags: Mapping[str, str]
    run_config: Mapping[str, Any]


@dataclass(frozen=True)
class StartedEvent:
    """An event that already has a run: what a lost cursor is rebuilt from.

    `started_at` is in seconds since the epoch.
    """

    event_id: str
    tags: Mapping[str, str]
    run_config: Mapping[str, Any]
    started_at: float


@dataclass(frozen=True)
class Decision(Generic[State]):
    """What one tick decided: `requests` in order, the `state` to remember, what was `seen`, and why.

    `notes` explain what starts nothing; `warnings` need a person.
    """

    requests: Sequence[RunEvent]
    state: State
    seen: str
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def reason(self, next_look: float) -> str:
        """Say in one line what was seen, why, and when the next look is (seconds since the epoch)."""
        at = datetime.fromtimestamp(next_look, UTC).strftime("%H:%M:%S")
        return f"{'; '.join((self.seen, *self.warnings, *self.notes))}. Next look at {at} UTC."


Evaluate = Callable[[Any], tuple[Decision[Any], str]]
"""One tick: Dagster's sensor context -> the decision and the new cursor."""


def explained(decision: Decision[State], problem: str | None, note: str | None = None) -> Decision[State]:
    """The decision with a warning about the cursor and a note about the first tick, where there are any."""
    return replace(
        decision,
        warnings=[*([problem] if problem else []), *decision.warnings],
        notes=[*decision.notes, *([note] if note else [])],
    )


def names(items: Iterable[str]) -> str:
    """List at most `NAMES_SHOWN` names, escaped and cut, then count the rest: names come from outside."""
    every = sorted(items)
    shown = ", ".join(repr(name if len(name) <= 120 else name[:117] + "...") for name in every[:NAMES_SHOWN])
    return shown if len(every) <= NAMES_SHOWN else f"{shown} and {len(every) - NAMES_SHOWN} more"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 file`, `2 files`, `10,000 entries`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
