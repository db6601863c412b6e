"""The decision which files start a run: one per content, only for complete files, never for unsafe entries."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jukebox_orch.sensors.new_data.decision import (
    Contents,
    Decision,
    Entry,
    Limits,
    Listing,
    NewDataState,
    decide,
    rebuilt,
    select,
)
from jukebox_orch.sensors.trigger_types import StartedEvent

NOW = 1_000_000.0
OLD = NOW - 3_600
LIMITS = Limits(patterns=["*"], quiet_seconds=30)


def sha(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def file(path: str, content: str = "a", changed_at: float = OLD, **fields) -> Entry:
    return Entry(path, fields.pop("size", len(content)), f"{changed_at}:{content}", changed_at, **fields)


def tick(
    entries: list[Entry] | Listing,
    state: NewDataState | None = None,
    now: float = NOW,
    limits: Limits = LIMITS,
    started: frozenset[str] = frozenset(),
) -> Decision[NewDataState]:
    """Run a tick that reads every selected file; the end of a file's token is its content."""
    listing = entries if isinstance(entries, Listing) else Listing(entries)
    state = state or NewDataState()
    selection = select(listing, state, now, limits)
    digests = {e.path: sha(e.token.split(":", 1)[1]) for e in selection.ready[: limits.max_files_per_run]}
    return decide(
        listing,
        state,
        selection,
        Contents(digests),
        location="/landing/",
        limits=limits,
        started=started,
    )


def files_of(decision: Decision[NewDataState]) -> list[dict[str, str]]:
    return [file for request in decision.requests for file in request.run_config["source"]["files"]]


def test_files_of_tick_start_one_run_with_their_digests():
    decision = tick([file("b.csv", "b"), file("2023/a.csv", "a")])
    (request,) = decision.requests
    assert request.run_config == {
        "source": {
            "location": "/landing/",
            "files": [
                {"url": "/landing/2023/a.csv", "sha256": sha("a")},
                {"url": "/landing/b.csv", "sha256": sha("b")},
            ],
        }
    }
    assert request.tags["jukebox/event"] == "new_data"
    assert request.tags["jukebox/file_count"] == "2"
    assert set(request.tags["jukebox/file_digests"].split(",")) == {sha("a")[:12], sha("b")[:12]}


def test_run_key_depends_only_on_contents():
    one = tick([file("a.csv", "a"), file("b.csv", "b")]).requests[0]
    other = tick([file("x/1.csv", "b"), file("y/2.csv", "a")], now=NOW + 5).requests[0]
    assert one.run_key == other.run_key
    assert one.run_key != tick([file("a.csv", "a")]).requests[0].run_key


@pytest.mark.parametrize(
    "again",
    [
        [file("a.csv", "a")],
        [file("renamed.csv", "a")],
        [file("a.csv", "a", changed_at=OLD + 60)],
        [file("a.csv", "a"), file("copy.csv", "a")],
    ],
    ids=["listed again", "renamed", "touched", "copied"],
)
def test_content_with_run_starts_no_second_run(again: list[Entry]):
    first = tick([file("a.csv", "a")])
    second = tick(again, first.state)
    assert len(first.requests) == 1
    assert second.requests == []


def test_deleted_content_that_returns_starts_no_second_run():
    state = tick([file("a.csv", "a")]).state
    state = tick([], state).state
    replaced = tick([file("a.csv", "b")], state)
    assert [f["sha256"] for f in files_of(replaced)] == [sha("b")]
    assert tick([file("a.csv", "a", changed_at=OLD + 9)], replaced.state).requests == []


def test_overwritten_content_that_returns_starts_no_second_run():
    state = tick([file("a.csv", "a")]).state
    state = tick([file("a.csv", "b")], state).state
    assert tick([file("a.csv", "a", changed_at=OLD + 9)], state).requests == []


def test_growing_file_waits_until_unchanged():
    growing = tick([file("a.csv", "a", changed_at=NOW - 1)])
    assert growing.requests == []
    assert "1 file not complete yet: 'a.csv'" in growing.reason(NOW + 30)
    grown = tick([file("a.csv", "ab", changed_at=NOW + 28)], growing.state, now=NOW + 30)
    assert grown.requests == []
    quiet = tick([file("a.csv", "ab", changed_at=NOW + 28)], grown.state, now=NOW + 60)
    assert [f["sha256"] for f in files_of(quiet)] == [sha("ab")]


def test_file_with_future_time_becomes_ready():
    entry = file("a.csv", "a", changed_at=NOW + 9_999)
    first = tick([entry])
    assert first.requests == []
    assert len(tick([entry], first.state, now=NOW + 31).requests) == 1


def test_file_newer_than_success_marker_waits():
    limits = replace(LIMITS, complete_when="success_marker")
    unmarked = tick([file("d/a.csv"), file("_SUCCESS", "x")], limits=limits)
    assert unmarked.requests == []
    marked = [
        file("d/a.csv"),
        file("d/_SUCCESS", "", changed_at=OLD + 1),
        file("d/late.csv", "l", changed_at=NOW),
    ]
    decision = tick(marked, unmarked.state, limits=limits)
    assert [f["url"] for f in files_of(decision)] == ["/landing/d/a.csv"]
    assert "'d/late.csv'" in decision.reason(NOW)


def test_only_files_that_match_manifest_start_run():
    limits = replace(LIMITS, complete_when="manifest")
    listing = Listing(
        [file("d/a.csv", "a"), file("d/b.csv", "half"), file("d/c.csv", "c"), file("d/SHA256SUMS", "m")],
        manifests={"d": {"a.csv": sha("a"), "b.csv": sha("complete")}},
    )
    decision = tick(listing, limits=limits)
    assert [f["url"] for f in files_of(decision)] == ["/landing/d/a.csv"]
    reason = decision.reason(NOW)
    assert "not read (its content does not match SHA256SUMS): 'd/b.csv'" in reason
    assert "1 file not complete yet: 'd/c.csv'" in reason


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (file("link.csv", kind="symlink"), "symbolic link"),
        (file("pipe.csv", kind="special"), "neither a file nor a folder"),
        (file("../etc/passwd"), "path with `..` or empty parts"),
        (file("a/../../b.csv"), "path with `..` or empty parts"),
        (file("a//b.csv"), "path with `..` or empty parts"),
        (file(".hidden.csv"), "hidden"),
        (file("_temporary/0/part.csv"), "hidden"),
        (file("simplecache::s3:/x"), "unsafe name"),
        (file("*.csv"), "unsafe name"),
        (file("a\nb.csv"), "unsafe name"),
        (file("a\x1b[31m.csv"), "unsafe name"),
        (file("a\\b.csv"), "unsafe name"),
        (file("$(id).csv"), "unsafe name"),
        (file("{{ x }}.csv"), "unsafe name"),
        (file("\udcff.csv"), "unsafe name"),
        (file("x" * 2_000), "unsafe name"),
        (file("empty.csv", "", size=0), "empty"),
        (file("big.csv", size=3 * 1024**3), "larger than max_file_bytes"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_unsafe_entry_starts_no_run_and_is_named(entry: Entry, problem: str):
    decision = tick([entry, file("good.csv", "g")])
    assert [f["url"] for f in files_of(decision)] == ["/landing/good.csv"]
    reason = decision.reason(NOW)
    assert f"refused ({problem}" in reason
    assert reason.isprintable()
    assert len(reason) < 500


def test_ordinary_file_names_are_accepted():
    names = ["2023-12-15T10:00:00.csv", "Größe 5,5 (2).csv", "a+b=c@d~1.parquet", "deep/er/file.csv"]
    assert len(files_of(tick([file(name, name) for name in names]))) == len(names)


def test_files_outside_patterns_are_ignored():
    decision = tick([file("a.csv"), file("b.tmp", "b")], limits=replace(LIMITS, patterns=["*.csv"]))
    assert [f["url"] for f in files_of(decision)] == ["/landing/a.csv"]


def test_files_over_limit_start_runs_in_later_ticks():
    entries = [file(f"{i:03}.csv", str(i)) for i in range(25)]
    limits = replace(LIMITS, max_files_per_run=10)
    state, sizes = NewDataState(), []
    for _ in range(4):
        decision = tick(entries, state, limits=limits)
        sizes.append(len(files_of(decision)))
        state = decision.state
        if len(sizes) == 1:
            assert "15 files left for the next tick" in decision.reason(NOW)
    assert sizes == [10, 10, 5, 0]


def test_include_earlier_adds_existing_files_up_to_limit():
    limits = replace(LIMITS, include_earlier=True)
    state = tick([file("1.csv", "1"), file("2.csv", "2")], limits=limits).state
    decision = tick([file("1.csv", "1"), file("3.csv", "3")], state, limits=limits)
    assert [f["url"] for f in files_of(decision)] == ["/landing/1.csv", "/landing/3.csv"]
    many = {f"{i}.csv": [1, f"{OLD}:{i}", sha(str(i))] for i in range(10_000)}
    entries = [Entry(path, 1, known[1], OLD) for path, known in many.items()]
    crowded = tick([*entries, file("new.csv", "n")], NewDataState(many), limits=limits)
    urls = {f["url"] for f in files_of(crowded)}
    assert len(urls) == 10_000
    assert "/landing/new.csv" in urls
    assert "/landing/0.csv" not in urls
    assert "1 earlier file left out of the run" in crowded.reason(NOW)
    replaced = tick([*entries[1:], file("0.csv", "changed")], crowded.state, limits=limits)
    assert "/landing/0.csv" in {f["url"] for f in files_of(replaced)}
    after = tick([*entries[1:], file("0.csv", "changed"), file("z.csv", "z")], replaced.state, limits=limits)
    assert "/landing/0.csv" in {f["url"] for f in files_of(after)}


def test_include_earlier_omits_file_being_rewritten():
    limits = replace(LIMITS, include_earlier=True)
    state = tick([file("1.csv", "1"), file("2.csv", "2")], limits=limits).state
    entries = [file("1.csv", "1"), file("2.csv", "2+", changed_at=NOW - 1), file("3.csv", "3")]
    assert [f["url"] for f in files_of(tick(entries, state, limits=limits))] == [
        "/landing/1.csv",
        "/landing/3.csv",
    ]


def test_include_earlier_adds_all_files_after_lost_cursor():
    limits = replace(LIMITS, include_earlier=True)
    first = tick([file("1.csv", "1")], limits=limits)
    history = [StartedEvent("e", request.tags, request.run_config, NOW) for request in first.requests]
    decision = tick([file("1.csv", "1"), file("2.csv", "2")], rebuilt(history), limits=limits)
    assert [f["url"] for f in files_of(decision)] == ["/landing/1.csv", "/landing/2.csv"]


def test_unreadable_file_is_named_and_others_start_run():
    listing = Listing([file("a.csv", "a"), file("b.csv", "b")])
    selection = select(listing, NewDataState(), NOW, LIMITS)
    decision = decide(
        listing,
        NewDataState(),
        selection,
        Contents({"b.csv": sha("b")}, {"a.csv": "Permission denied"}),
        location="/landing/",
        limits=LIMITS,
    )
    assert [f["url"] for f in files_of(decision)] == ["/landing/b.csv"]
    assert "not read (Permission denied): 'a.csv'" in decision.reason(NOW)


def test_partial_listing_keeps_files_outside_its_range():
    state = tick([file("a.csv", "a"), file("m.csv", "m"), file("z.csv", "z")]).state
    partial = Listing([file("m.csv", "m")], covered=[("b", "n")], sweep="n")
    after = tick(partial, state).state
    assert set(after.files) == {"a.csv", "m.csv", "z.csv"}
    deleted = tick(Listing([], covered=[("b", "n")]), after).state
    assert set(deleted.files) == {"a.csv", "z.csv"}
    assert tick([file("m2.csv", "m")], deleted).requests == []


def test_reason_has_listing_and_time_of_next_tick():
    state = tick([file("a.csv")]).state
    reason = tick([file("a.csv")], state).reason(next_tick=86_399)
    assert reason == "1 entry listed in /landing/; nothing new. Next tick at 23:59:59 UTC."


def test_tick_without_changes_keeps_state_equal():
    state = tick([file(f"{i}.csv", str(i)) for i in range(50)]).state
    assert tick([file(f"{i}.csv", str(i)) for i in range(50)], state).state == state


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from("pqrs"), st.sampled_from(["a", "bb", "ccc", "dddd"])),
        st.tuples(st.just("delete"), st.sampled_from("pqrs"), st.just("")),
        st.tuples(st.just("rename"), st.sampled_from("pqrs"), st.sampled_from("pqrs")),
        st.tuples(st.sampled_from(["tick", "crash", "lose cursor"]), st.just(""), st.just("")),
        st.tuples(
            st.just("partial tick"), st.sampled_from(["", "p", "q"]), st.sampled_from(["q", "r", None])
        ),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(OPERATIONS)
def test_each_stable_content_starts_exactly_one_run(operations):
    """Writes, renames, deletions, complete and partial ticks, uncommitted and lost cursors, in any order."""
    clock, disk = NOW, {}
    state = NewDataState()
    runs: dict[str, StartedEvent] = {}

    def scan(commit: bool, beyond: str = "", upto: str | None = None) -> None:
        nonlocal state
        there = [file(path, *disk[path]) for path in sorted(disk) if beyond < path <= (upto or "~")]
        unchanged = {entry.path for entry in there if state.knows(entry.path, entry.size, entry.token)}
        entries = [entry for entry in there if entry.path not in unchanged]
        decision = tick(Listing(entries, unchanged, [(beyond, upto)]), state, clock)
        if not commit:
            return  # killed before the daemon reserved the run ids: neither cursor nor run exists
        for request in decision.requests:
            assert request.run_key not in runs
            runs[request.run_key] = StartedEvent(request.run_key, request.tags, request.run_config, clock)
        after = decision.state
        body = json.loads(
            json.dumps({"files": after.files, "waiting": after.waiting, "gone": sorted(after.gone)})
        )
        state = NewDataState(body["files"], body["waiting"], frozenset(body["gone"]))

    for operation, path, value in operations:
        clock += 20
        if operation == "write":
            disk[path] = (value, clock)
        elif operation == "delete":
            disk.pop(path, None)
        elif operation == "rename" and path in disk:
            content, _ = disk.pop(path)
            disk[value] = (content, clock)
        elif operation in ("tick", "crash"):
            scan(commit=operation == "tick")
        elif operation == "partial tick":
            scan(True, path, value)
        elif operation == "lose cursor":
            state = rebuilt(list(runs.values()))
    clock += 1_000
    scan(commit=True)
    trained = [f["sha256"] for run in runs.values() for f in run.run_config["source"]["files"]]
    assert len(trained) == len(set(trained))
    assert {sha(content) for content, _ in disk.values()} <= set(trained)
