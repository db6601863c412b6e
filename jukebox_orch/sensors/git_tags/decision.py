"""Decides which git tags start a training run. Pure: no Dagster, no clock, no git.

A tag is one event per (name, commit). Its version is the text after the pattern's prefix, ordered as in semver.org.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jukebox_orch.deployed_code import DIRTY, DeployedCode
from jukebox_orch.sensors.git_tags.versions import Version, parse_version
from jukebox_orch.sensors.trigger_types import (
    EVENT_ID_TAG,
    EVENT_TAG,
    Decision,
    RunEvent,
    StartedEvent,
    count,
    names,
)

EVENT = "git_tag"
TAG_TAG = "git/tag"
COMMIT_TAG = "git/commit"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class GitTagsState:
    """`tags`: name -> commit of every tag that needs no run: it had one, or it existed before."""

    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _TagEvent:
    name: str
    commit: str
    version: Version
    text: str
    moved_from: str | None


def decide(
    listing: Mapping[str, str],
    state: GitTagsState,
    *,
    pattern: str,
    deployed: DeployedCode,
    require_matching_code: bool,
    max_runs: int,
) -> Decision[GitTagsState]:
    """Request one run per new or moved tag, lowest version first.

    Args:
        listing: tag name -> commit (annotated tags peeled) of the whole repository.
        state: The sensor's state.
        pattern: A prefix and one `*`, such as `v*` or `jukebox/v*`.
        deployed: The deployed code.
        require_matching_code: Hold a tag back until the deployed code is the tag's.
        max_runs: Maximum number of requests of one tick; the next tick continues.
    """
    versions, refused = _versions(listing, pattern)
    events = sorted(
        (
            _TagEvent(name, listing[name], version, _text(name, pattern), state.tags.get(name))
            for name, version in versions.items()
            if state.tags.get(name) != listing[name]
        ),
        key=lambda event: (event.version.precedence, event.name),
    )
    ready = [event for event in events if not require_matching_code or _matches(event, deployed)]
    held = [event for event in events if require_matching_code and not _matches(event, deployed)]
    chosen = ready[:max_runs]
    warnings = [
        f"{event.name!r} moved from {event.moved_from[:12]} to {event.commit[:12]}: a tag should not move"
        for event in chosen
        if event.moved_from
    ]
    if refused:
        prefix = _prefix(pattern)
        warnings.append(
            f"refused (no version after {prefix!r}: use for example {prefix}1.2.3 or {prefix}1.2.3-rc.1, "
            f"see semver.org): {names(refused)}"
        )
    notes = [_waiting(held, deployed)] if held else []
    if left := len(ready) - len(chosen):
        notes.append(f"{count(left, 'tag')} left for the next tick")
    if not events and not refused:
        notes.append("nothing new")
    after = state
    if chosen:
        after = GitTagsState({**state.tags, **{event.name: event.commit for event in chosen}})
    requests = [_request(event, deployed) for event in chosen]
    return Decision(requests, after, f"{count(len(versions), 'tag')} match {pattern!r}", notes, warnings)


def rebuilt(
    listing: Mapping[str, str],
    started: Sequence[StartedEvent],
    *,
    pattern: str,
    deployed: DeployedCode,
    require_matching_code: bool,
) -> tuple[GitTagsState, str]:
    """Separate new tags from tags that existed before the first tick or before the cursor was lost.

    Versions above the highest one that has a run are new. If there are no runs: with `require_matching_code` the
    deployed version and those above it, else none.

    Returns:
        The state, and a note for the tick.
    """
    versions, _ = _versions(listing, pattern)
    had_run = {event.tags[TAG_TAG]: event.tags[COMMIT_TAG] for event in reversed(started)}
    run_versions = [version for name in had_run if (version := _version(name, pattern))]
    deployed_version = parse_version((deployed.version or "").removeprefix("v"))

    def is_new(version: Version) -> bool:
        if run_versions:
            return version.precedence > max(run.precedence for run in run_versions)
        if not require_matching_code or deployed_version is None:
            return False
        return version.precedence >= deployed_version.precedence

    before = {name: listing[name] for name, version in versions.items() if not is_new(version)}
    note = (
        f"first tick or lost cursor: {count(len(had_run), 'tag')} already had a run, "
        f"{count(len(before.keys() - had_run.keys()), 'tag')} recorded without one"
    )
    return GitTagsState({**before, **had_run}), note


def _request(event: _TagEvent, deployed: DeployedCode) -> RunEvent:
    tags = {
        EVENT_TAG: EVENT,
        EVENT_ID_TAG: f"{event.name}@{event.commit[:12]}",
        TAG_TAG: event.name,
        COMMIT_TAG: event.commit,
        "git/deployed_commit": deployed.commit or "unknown",
        "git/deployed_version": deployed.version or "unknown",
        "git/code_matches_tag": "yes" if _matches(event, deployed) else "no",
    }
    if event.moved_from:
        tags["git/moved_from"] = event.moved_from
    return RunEvent(f"{EVENT}:{event.name}:{event.commit}", tags, {"version": event.text})


def _waiting(held: Sequence[_TagEvent], deployed: DeployedCode) -> str:
    runs = f"v{deployed.version.removeprefix('v')}" if deployed.version else "of unknown version"
    if deployed.commit:
        runs += f" ({deployed.commit.removesuffix(DIRTY)[:12]}{DIRTY if deployed.is_dirty else ''})"
    newest = held[-1]
    more = f" and {count(len(held) - 1, 'lower tag')}" if len(held) > 1 else ""
    seen = f"{newest.name} ({newest.commit[:12]}){more} seen, this deployment is {runs}"
    if deployed.is_dirty:
        return f"{seen} with uncommitted changes: commit or remove them, and deploy the tag's commit"
    return f"{seen}: waiting for the roll-out"


def _matches(event: _TagEvent, deployed: DeployedCode) -> bool:
    """Compare by commit if the deployment's is known (full or at least 7 digits), else by version.

    A commit with uncommitted changes is not the tag's.
    """
    if deployed.commit:
        return len(deployed.commit) >= 7 and event.commit.startswith(deployed.commit.lower())
    return parse_version((deployed.version or "").removeprefix("v")) == event.version


def _versions(listing: Mapping[str, str], pattern: str) -> tuple[dict[str, Version], list[str]]:
    versions: dict[str, Version] = {}
    refused: list[str] = []
    prefix = _prefix(pattern)
    for name, commit in listing.items():
        if not name.startswith(prefix):
            continue
        version = _version(name, pattern)
        if version is None or not _COMMIT.fullmatch(commit):
            refused.append(name)
        else:
            versions[name] = version
    return versions, refused


def _version(name: str, pattern: str) -> Version | None:
    return parse_version(_text(name, pattern)) if name.startswith(_prefix(pattern)) else None


def _text(name: str, pattern: str) -> str:
    return name[len(_prefix(pattern)) :]


def _prefix(pattern: str) -> str:
    return pattern.removesuffix("*")
