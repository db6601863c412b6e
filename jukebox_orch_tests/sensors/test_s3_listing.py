"""Listing a bucket in pieces: nothing is left out, and the quick parser reads what botocore reads."""

import time
from itertools import pairwise

import botocore.session
import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jukebox_orch.sensors.decisions import SourceUnavailableError
from jukebox_orch.sensors.new_data.decision import NewDataState
from jukebox_orch.sensors.new_data.locations import open_location
from jukebox_orch.sensors.new_data.s3_listing import joined, parse_quickly, pieces, take_objects
from jukebox_orch.sensors.new_data.scan import scan
from jukebox_orch_tests.support.servers import Misbehaviour, s3_server

ODD_KEYS = ["a b&c<d>\"e'.csv", "100%+1=2;x.csv", "ü/ñ/日本.csv", "&amp;.csv", "plain.csv", "folder/"]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket `many` of 5,000 objects, below folders and not, reached by the environment."""
    folder = tmp_path_factory.mktemp("s3") / "data"
    for i in range(5_000):
        path = folder / "many" / f"{i // 700}" / f"{i:04}.csv" if i % 2 else folder / "many" / f"{i:04}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(i))
    with s3_server(folder) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        yield folder / "many"
        fsspec.filesystem("s3").clear_instance_cache()


def decided(*listings) -> NewDataState:
    files = {e.path: [e.size, e.token, e.path] for listing in listings for e in listing.entries}
    return NewDataState(files, sweep=listings[-1].sweep)


@pytest.fixture
def unhurried(monkeypatch):
    monkeypatch.setattr("jukebox_orch.sensors.new_data.locations.SWEEP_SECONDS", 60)


@given(st.lists(st.text("abc/é", min_size=1, max_size=6)), st.sampled_from(["", "b", "zzz"]))
def test_the_pieces_are_everything_after_the_last_look(known, sweep):
    newest, *rest = pieces(known, sweep)
    ranges = [*rest, newest]
    assert ranges[0][0] == sweep
    assert newest[1] is None
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert joined(ranges) == [(sweep, None)]


def test_a_piece_holds_about_an_answer_of_known_files():
    known = [f"{i:05}" for i in range(100_000)]
    newest, *rest = pieces(known, "")
    assert newest == ("99999", None)
    assert all(sum(after < path <= (upto or "~") for path in known) <= 1_000 for after, upto in rest[:3])
    assert len(rest) == 112


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_joined_ranges_cover_the_same_paths(bounds):
    ranges = [(str(a), str(b)) for a, b in pairwise(bounds) if a <= b]
    ranges = [r for i, r in enumerate(ranges) if all(r[1] <= q[0] or q[1] <= r[0] for q in ranges[:i])]

    def covered(found) -> set[str]:
        return {p for p in map(str, range(10)) for after, upto in found if after < p <= upto}

    assert covered(joined(ranges)) == covered(ranges)
    assert len(joined(ranges)) <= len(ranges)


def test_a_large_bucket_that_is_known_is_looked_at_whole(bucket, unhurried):
    location = open_location("s3://many")
    first = scan(location, NewDataState())
    assert len(first.entries) == 5_000
    state = decided(first)
    (bucket / "3" / "new.csv").write_text("new")
    (bucket / "0002.csv").unlink()
    second = scan(location, state)
    assert [entry.path for entry in second.entries] == ["3/new.csv"]
    assert second.unchanged == state.files.keys() - {"0002.csv"}
    assert list(second.covered) == [("", None)]
    (bucket / "3" / "new.csv").unlink()
    (bucket / "0002.csv").write_text("2")


def test_looks_without_time_still_get_everywhere_and_say_where_they_were(bucket, monkeypatch):
    monkeypatch.setattr("jukebox_orch.sensors.new_data.locations.SWEEP_SECONDS", 60)
    whole = {e.path for e in scan(open_location("s3://many"), NewDataState()).entries}
    monkeypatch.setattr("jukebox_orch.sensors.new_data.locations.SWEEP_SECONDS", 0)
    location, state, seen, looks = open_location("s3://many"), NewDataState(), set(), 0
    files: dict = {}
    while looks < 20:
        listing = scan(location, state)
        looks += 1
        paths = {e.path for e in listing.entries} | set(listing.unchanged)
        for path in paths | whole:
            is_covered = any(a < path and (u is None or path <= u) for a, u in listing.covered)
            assert is_covered == (path in paths)
        seen |= paths
        files |= {e.path: [e.size, e.token, e.path] for e in listing.entries}
        state = NewDataState(files, sweep=listing.sweep)
        if not listing.sweep:
            break
    assert seen == whole
    assert 2 < looks <= 7


@pytest.mark.parametrize("prefix", ["", "odd&/"])
def test_the_quick_parser_reads_what_botocore_reads(bucket, prefix):
    session = botocore.session.get_session()
    plain, quick = session.create_client("s3"), session.create_client("s3")
    parse_quickly(quick)
    plain.create_bucket(Bucket=f"odd-{len(prefix)}")
    for key in ODD_KEYS:
        plain.put_object(Bucket=f"odd-{len(prefix)}", Key=prefix + key, Body=b"" if key[-1] == "/" else b"x")
    for settings in (
        {},
        {"MaxKeys": 2},
        {"StartAfter": prefix + "plain"},
        {"Delimiter": "/"},
        {"Prefix": "0"},
    ):
        answers = [c.list_objects_v2(Bucket=f"odd-{len(prefix)}", **settings) for c in (plain, quick)]
        assert objects(answers[0]) == objects(answers[1])
        for name in ("IsTruncated", "KeyCount", "CommonPrefixes", "NextContinuationToken", "Prefix"):
            assert answers[0].get(name) == answers[1].get(name)
    assert {key for key, *_ in objects(quick.list_objects_v2(Bucket=f"odd-{len(prefix)}"))} == {
        prefix + key for key in ODD_KEYS
    }


def objects(answer) -> list[tuple]:
    return [(o["Key"], o["Size"], o["ETag"], o["LastModified"]) for o in answer.get("Contents", [])]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Error><Code>SlowDown</Code></Error>",
        b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>",
        b"<L><Contents><Key>a</Key></Contents></L>",
        b"<L><Contents a='1'><Key>a</Key><Size>1</Size><ETag>e</ETag></Contents></L>",
        b"<L><Contents><Key><![CDATA[a]]></Key><Size>1</Size><ETag>e</ETag><LastModified>x</LastModified></Contents></L>",
        b"<L><Contents><Key>a</Key><Size>1</Size><ETag>e</ETag><LastModified>yesterday</LastModified></Contents></L>",
        b"\xff<Contents><Key>a</Key></Contents>",
    ],
)
def test_an_answer_in_another_form_is_left_to_botocore(body):
    response, parsed = {"status_code": 200, "body": body}, {}
    take_objects(response_dict=response, customized_response_dict=parsed)
    assert response["body"] == body
    assert parsed == {}


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"<Contents><Key>a.csv</Key><Size>1</Size><ETag>e</ETag>"
        b"<LastModified>2023-12-15T10:00:00Z</LastModified></Contents>",
    ],
)
def test_a_store_that_says_more_without_end_is_a_reason(bucket, monkeypatch, contents):
    behaviour = Misbehaviour()
    behaviour.body = b"<ListBucketResult><IsTruncated>true</IsTruncated>" + contents + b"</ListBucketResult>"
    behaviour.headers = {"Content-Type": "application/xml"}
    with behaviour.serve() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        fsspec.filesystem("s3").clear_instance_cache()
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError, match="there are more objects and does not list them"):
            scan(open_location("s3://many"), NewDataState())
        assert time.monotonic() - began < 10
    fsspec.filesystem("s3").clear_instance_cache()
