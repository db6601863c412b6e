"""Listing a bucket in ranges: no key is left out, and the fast parser gives the same result as botocore."""

import time
from itertools import pairwise

import botocore.session
import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jukebox_orch.sensors.new_data.decision import NewDataState
from jukebox_orch.sensors.new_data.locations import open_location
from jukebox_orch.sensors.new_data.s3_listing import join_ranges, parse_quickly, split_ranges, take_objects
from jukebox_orch.sensors.new_data.scan import scan
from jukebox_orch.sensors.trigger_types import SourceUnavailableError
from jukebox_orch_tests.support.servers import Misbehaviour, s3_server

ODD_KEYS = ["a b&c<d>\"e'.csv", "100%+1=2;x.csv", "ü/ñ/日本.csv", "&amp;.csv", "plain.csv", "folder/"]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """Serve a bucket `many` of 5,000 objects, with and without folders, configured by environment variables."""
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
def no_time_limit(monkeypatch):
    monkeypatch.setattr("jukebox_orch.sensors.new_data.locations.SWEEP_SECONDS", 60)


@given(st.lists(st.text("abc/é", min_size=1, max_size=6)), st.sampled_from(["", "b", "zzz"]))
def test_ranges_cover_everything_after_sweep(known, sweep):
    newest, *rest = split_ranges(known, sweep)
    ranges = [*rest, newest]
    assert ranges[0][0] == sweep
    assert newest[1] is None
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert join_ranges(ranges) == [(sweep, None)]


def test_range_has_about_one_response_of_known_files():
    known = [f"{i:05}" for i in range(100_000)]
    newest, *rest = split_ranges(known, "")
    assert newest == ("99999", None)
    assert all(sum(after < path <= (upto or "~") for path in known) <= 1_000 for after, upto in rest[:3])
    assert len(rest) == 112


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_joined_ranges_cover_same_paths(bounds):
    ranges = [(str(a), str(b)) for a, b in pairwise(bounds) if a <= b]
    ranges = [r for i, r in enumerate(ranges) if all(r[1] <= q[0] or q[1] <= r[0] for q in ranges[:i])]

    def covered(found) -> set[str]:
        return {p for p in map(str, range(10)) for after, upto in found if after < p <= upto}

    assert covered(join_ranges(ranges)) == covered(ranges)
    assert len(join_ranges(ranges)) <= len(ranges)


def test_known_large_bucket_is_listed_completely(bucket, no_time_limit):
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


def test_ticks_without_time_list_all_and_report_ranges(bucket, monkeypatch):
    monkeypatch.setattr("jukebox_orch.sensors.new_data.locations.SWEEP_SECONDS", 60)
    every_path = {e.path for e in scan(open_location("s3://many"), NewDataState()).entries}
    monkeypatch.setattr("jukebox_orch.sensors.new_data.locations.SWEEP_SECONDS", 0)
    location, state, seen, ticks = open_location("s3://many"), NewDataState(), set(), 0
    files: dict = {}
    while ticks < 20:
        listing = scan(location, state)
        ticks += 1
        paths = {e.path for e in listing.entries} | set(listing.unchanged)
        for path in paths | every_path:
            is_covered = any(a < path and (u is None or path <= u) for a, u in listing.covered)
            assert is_covered == (path in paths)
        seen |= paths
        files |= {e.path: [e.size, e.token, e.path] for e in listing.entries}
        state = NewDataState(files, sweep=listing.sweep)
        if not listing.sweep:
            break
    assert seen == every_path
    assert 2 < ticks <= 7


@pytest.mark.parametrize("prefix", ["", "odd&/"])
def test_fast_parser_gives_same_result_as_botocore(bucket, prefix):
    session = botocore.session.get_session()
    plain, fast = session.create_client("s3"), session.create_client("s3")
    parse_quickly(fast)
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
        answers = [c.list_objects_v2(Bucket=f"odd-{len(prefix)}", **settings) for c in (plain, fast)]
        assert objects(answers[0]) == objects(answers[1])
        for name in ("IsTruncated", "KeyCount", "CommonPrefixes", "NextContinuationToken", "Prefix"):
            assert answers[0].get(name) == answers[1].get(name)
    assert {key for key, *_ in objects(fast.list_objects_v2(Bucket=f"odd-{len(prefix)}"))} == {
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
def test_unusual_response_is_left_to_botocore(body):
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
def test_endless_listing_is_reported(bucket, monkeypatch, contents):
    behaviour = Misbehaviour()
    behaviour.body = b"<ListBucketResult><IsTruncated>true</IsTruncated>" + contents + b"</ListBucketResult>"
    behaviour.headers = {"Content-Type": "application/xml"}
    with behaviour.serve() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        fsspec.filesystem("s3").clear_instance_cache()
        began = time.monotonic()
        with pytest.raises(SourceUnavailableError, match="reports more objects but does not list them"):
            scan(open_location("s3://many"), NewDataState())
        assert time.monotonic() - began < 10
    fsspec.filesystem("s3").clear_instance_cache()
