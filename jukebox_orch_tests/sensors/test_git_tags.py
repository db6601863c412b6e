"""The decision which tags start a run: one per (name, commit), in version order, with the tag's code."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.sensors.git_tags.decision import GitTagsState, decide, rebuilt
from jukebox_orch.sensors.trigger_types import Decision, StartedEvent

A, B, C = "a" * 40, "b" * 40, "c" * 40
UNKNOWN = DeployedCode(None, None)


def tick(
    listing: dict[str, str],
    known: dict[str, str] | None = None,
    *,
    pattern: str = "v*",
    deployed: DeployedCode = UNKNOWN,
    must_match: bool = False,
    max_runs: int = 10,
) -> Decision[GitTagsState]:
    return decide(
        listing,
        GitTagsState(known or {}),
        pattern=pattern,
        deployed=deployed,
        require_matching_code=must_match,
        max_runs=max_runs,
    )


def tags_of(decision: Decision[GitTagsState]) -> list[str]:
    return [request.tags["git/tag"] for request in decision.requests]


def test_new_tag_starts_run_with_version_tag_and_commit():
    decision = tick({"v1.2.0": A, "v1.3.0": B}, {"v1.2.0": A})
    (request,) = decision.requests
    assert request.run_key == f"git_tag:v1.3.0:{B}"
    assert request.run_config == {"version": "1.3.0"}
    assert request.tags["git/tag"] == "v1.3.0"
    assert request.tags["git/commit"] == B
    assert request.tags["jukebox/event"] == "git_tag"
    assert request.tags["jukebox/event_id"] == f"v1.3.0@{B[:12]}"
    assert tick({"v1.2.0": A, "v1.3.0": B}, dict(decision.state.tags)).requests == []


def test_tags_start_in_version_order():
    listing = {f"v{v}": A for v in ("1.10.0", "1.9.0", "2.0.0-rc.1", "2.0.0", "1.2.0")}
    assert tags_of(tick(listing)) == ["v1.2.0", "v1.9.0", "v1.10.0", "v2.0.0-rc.1", "v2.0.0"]


SEMVER_ORDER = [
    "v1.0.0-alpha",
    "v1.0.0-alpha.1",
    "v1.0.0-alpha.beta",
    "v1.0.0-beta",
    "v1.0.0-beta.2",
    "v1.0.0-beta.11",
    "v1.0.0-rc.1",
    "v1.0.0",
    "v1.1.0-9",
    "v1.1.0-10",
    "v1.1.0-SNAPSHOT",
    "v1.1.0-hotfix.1",
    "v1.1.0-rc.2",
    "v1.1.0-rc.10",
    "v1.1.0-rc-1.x",
    "v1.1.0",
    "v1.1.0+5",
    "v1.1.1-alpha.beta",
]
"""The example of semver.org section 11, and more of the same kinds."""


def test_prereleases_start_in_order_of_semantic_versioning():
    decision = tick(dict.fromkeys(reversed(SEMVER_ORDER), A), max_runs=99)
    assert tags_of(decision) == SEMVER_ORDER
    assert decision.warnings == []
    versions = [request.run_config["version"] for request in decision.requests]
    assert versions == [name.removeprefix("v") for name in SEMVER_ORDER]


def test_short_and_dated_versions_keep_their_order():
    listing = {f"v{v}": A for v in ("2", "1.10", "1.2", "1", "1.2.1", "2024.01.31", "2024.1.4", "1.2.1.1")}
    ordered = ["v1", "v1.2", "v1.2.1", "v1.2.1.1", "v1.10", "v2", "v2024.1.4", "v2024.01.31"]
    assert tags_of(tick(listing)) == ordered


def test_moved_tag_is_new_event_with_warning():
    decision = tick({"v1.0.0": B}, {"v1.0.0": A})
    assert decision.requests[0].run_key == f"git_tag:v1.0.0:{B}"
    assert decision.requests[0].tags["git/moved_from"] == A
    assert "'v1.0.0' moved from aaaaaaaaaaaa to bbbbbbbbbbbb" in decision.reason(0)


def test_deleted_and_restored_tag_starts_no_run():
    deleted = tick({}, {"v1.0.0": A})
    assert deleted.requests == []
    assert tick({"v1.0.0": A}, dict(deleted.state.tags)).requests == []


def test_pattern_selects_tags_of_one_project():
    listing = {"jukebox/v1.0.0": A, "digits/v2.0.0": B, "v3.0.0": C}
    decision = tick(listing, pattern="jukebox/v*")
    assert tags_of(decision) == ["jukebox/v1.0.0"]
    assert decision.requests[0].run_config == {"version": "1.0.0"}


@pytest.mark.parametrize(
    "name",
    [
        "v-x;$(id)",
        "v1.0.0;$(id)",
        "v--upload-pack=x",
        "vendor",
        "v1.0.0\n",
        "v1.0.0-rc.01",
        "v1.0.0-",
        "v1.0.0-rc..1",
        "v1.0.0+",
        "v1.0.0rc1",
        "v1.0.0.post1",
        "v\u0661.0.0",
        "v{{ 1 }}",
        "v" + "1" * 99,
        "v\udcff",
    ],
)
def test_tag_without_version_starts_no_run_and_is_named(name: str):
    decision = tick({name: A, "v1.0.0": B})
    assert tags_of(decision) == ["v1.0.0"]
    advice = "use for example v1.2.3 or v1.2.3-rc.1, see semver.org"
    assert f"refused (no version after 'v': {advice}): " in decision.reason(0)
    assert decision.reason(0).isprintable()


def test_tags_over_limit_start_in_later_ticks():
    listing = {f"v1.{i}.0": A for i in range(7)}
    known: dict[str, str] = {}
    started: list[str] = []
    for _ in range(4):
        decision = tick(listing, known, max_runs=3)
        started += tags_of(decision)
        known = dict(decision.state.tags)
        if len(started) == 3:
            assert "4 tags left for the next tick" in decision.reason(0)
    assert started == [f"v1.{i}.0" for i in range(7)]


def test_tag_waits_for_roll_out_of_its_code():
    old, new = DeployedCode(A, "1.2.1"), DeployedCode(B, "1.3.0")
    held = tick({"v1.2.1": A, "v1.3.0": B}, {"v1.2.1": A}, deployed=old, must_match=True)
    assert held.requests == []
    assert (
        "v1.3.0 (bbbbbbbbbbbb) seen, this deployment is v1.2.1 (aaaaaaaaaaaa): waiting for the roll-out"
        in held.reason(0)
    )
    released = tick({"v1.2.1": A, "v1.3.0": B}, dict(held.state.tags), deployed=new, must_match=True)
    assert tags_of(released) == ["v1.3.0"]
    assert released.requests[0].tags["git/code_matches_tag"] == "yes"


def test_code_matches_by_commit_or_version_without_commit():
    listing = {"v1.3.0": B}
    assert tick(listing, deployed=DeployedCode(A, "1.3.0"), must_match=True).requests == []
    assert tags_of(tick(listing, deployed=DeployedCode(B[:8], "9.9"), must_match=True)) == ["v1.3.0"]
    assert tags_of(tick(listing, deployed=DeployedCode(None, "v1.3.0"), must_match=True)) == ["v1.3.0"]
    assert tags_of(tick({"v1.3": B}, deployed=DeployedCode(None, "1.3.0"), must_match=True)) == ["v1.3"]
    other_build = tick({"v1.3.0+6": B}, deployed=DeployedCode(None, "1.3.0+5"), must_match=True)
    assert other_build.requests == []
    assert tick(listing, deployed=DeployedCode("b", None), must_match=True).requests == []
    assert tick(listing, deployed=UNKNOWN, must_match=True).requests == []


def test_allowed_code_mismatch_is_recorded_on_run():
    (request,) = tick({"v1.3.0": B}, deployed=DeployedCode(A, "1.2.1")).requests
    assert request.tags["git/code_matches_tag"] == "no"
    assert request.tags["git/deployed_commit"] == A
    assert request.tags["git/deployed_version"] == "1.2.1"


def test_dirty_commit_of_tag_is_a_code_mismatch():
    dirty = DeployedCode(f"{B}-dirty", "1.3.0")
    (request,) = tick({"v1.3.0": B}, deployed=dirty).requests
    assert request.tags["git/code_matches_tag"] == "no"
    assert request.tags["git/deployed_commit"] == f"{B}-dirty"
    assert tick({"v1.3.0": B}, deployed=dirty, must_match=True).requests == []
    short = DeployedCode(f"{B[:7]}-dirty", None)
    assert tick({"v1.3.0": B}, deployed=short, must_match=True).requests == []


def started(*pairs: tuple[str, str]) -> list[StartedEvent]:
    return [StartedEvent(name, {"git/tag": name, "git/commit": commit}, {}, 0) for name, commit in pairs]


def first_tick(listing, history=(), deployed=UNKNOWN, must_match=False):
    return rebuilt(
        listing,
        started(*history),
        pattern="v*",
        deployed=deployed,
        require_matching_code=must_match,
    )


def test_first_tick_starts_no_run_for_existing_tags():
    state, note = first_tick({"v1.0.0": A, "v1.1.0": B})
    assert state.tags == {"v1.0.0": A, "v1.1.0": B}
    assert note == "first tick or lost cursor: 0 tags already had a run, 2 tags recorded without one"


def test_matching_code_first_tick_keeps_deployed_and_higher_tags():
    state, _ = first_tick(
        {"v1.0.0": A, "v1.1.0": B, "v1.2.0": C}, deployed=DeployedCode(B, "1.1.0"), must_match=True
    )
    assert state.tags == {"v1.0.0": A}


def test_rebuilt_cursor_starts_only_moved_and_higher_tags():
    listing = {"v1.0.0": A, "v1.1.0": C, "v1.2.0": B}
    state, note = first_tick(listing, history=[("v1.1.0", B)])
    assert state.tags == {"v1.0.0": A, "v1.1.0": B}
    assert "1 tag already had a run, 1 tag recorded without one" in note
    assert tags_of(tick(listing, dict(state.tags))) == ["v1.1.0", "v1.2.0"]


def test_lost_cursor_takes_prereleases_above_last_run():
    listing = {"v1.1.0-SNAPSHOT": A, "v1.1.0-hotfix.1": A, "v1.1.0-rc.2": A, "v1.1.0-rc.10": B, "v1.1.0+5": C}
    state, _ = first_tick(listing, history=[("v1.1.0-rc.2", A)])
    assert tags_of(tick(listing, dict(state.tags))) == ["v1.1.0-rc.10", "v1.1.0+5"]


COMMITS = st.sampled_from([A, B, C])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("tag"), st.sampled_from(["v1.0.0", "v1.1.0", "v2.0.0-rc.1", "v2.0.0"]), COMMITS),
        st.tuples(st.just("delete"), st.sampled_from(["v1.0.0", "v2.0.0"]), st.just("")),
        st.tuples(st.just("deploy"), st.just(""), COMMITS),
        st.tuples(st.sampled_from(["tick", "crash"]), st.just(""), st.just("")),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.booleans(), st.integers(1, 3))
def test_tag_commit_starts_at_most_one_run_with_its_code(steps, must_match, max_runs):
    listing: dict[str, str] = {}
    known: dict[str, str] = {}
    code = DeployedCode(A, None)
    last_run: dict[str, str] = {}
    for step, name, commit in [*steps, *[("tick", "", "")] * 4]:
        if step == "tag":
            listing[name] = commit
        elif step == "delete":
            listing.pop(name, None)
        elif step == "deploy":
            code = DeployedCode(commit, None)
        else:
            decision = tick(listing, known, deployed=code, must_match=must_match, max_runs=max_runs)
            assert len(decision.requests) <= max_runs
            if step == "tick":
                known = dict(decision.state.tags)
                for request in decision.requests:
                    tag, at = request.tags["git/tag"], request.tags["git/commit"]
                    assert last_run.get(tag) != at
                    assert not must_match or at == code.commit
                    last_run[tag] = at
    for name, commit in listing.items():
        assert last_run.get(name) == commit or (must_match and commit != code.commit)
