"""One tick of the git-tags trigger: read the cursor, list the tags, decide, write the cursor."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.sensors.cursor import CursorCodec
from jukebox_orch.sensors.git_tags.decision import EVENT, GitTagsState, decide, rebuilt
from jukebox_orch.sensors.git_tags.remote import list_tags
from jukebox_orch.sensors.run_history import started_events
from jukebox_orch.sensors.settings import GitTagsTrigger
from jukebox_orch.sensors.trigger_types import Decision, Evaluate, explained


def git_tags_tick(
    trigger: GitTagsTrigger,
    job_name: str,
    state_root: str,
    deployed: Callable[[], DeployedCode],
    require_matching_code: bool,
) -> Evaluate:
    """Return the tick that finds new tags; `require_matching_code` is the default if the trigger does not set it."""
    codec = CursorCodec(EVENT, f"{trigger.repository} {trigger.pattern}", state_root)
    if trigger.require_matching_code is not None:
        require_matching_code = trigger.require_matching_code

    def evaluate(context: dg.SensorEvaluationContext) -> tuple[Decision[GitTagsState], str]:
        known, problem = codec.decode_or_none(context.cursor, _state)
        listing = list_tags(
            trigger.repository, trigger.credentials_file, trigger.ssh_key_file, trigger.known_hosts_file
        )
        code = deployed()
        state, note = (
            (known, None)
            if known
            else rebuilt(
                listing,
                list(started_events(context.instance, job_name, EVENT)),
                pattern=trigger.pattern,
                deployed=code,
                require_matching_code=require_matching_code,
            )
        )
        decision = decide(
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
        return explained(decision, problem, note), codec.encode({}, body, context.cursor)

    return evaluate


def _state(head: dict[str, Any], body: dict[str, Any]) -> GitTagsState:
    return GitTagsState(dict(body["tags"]))
