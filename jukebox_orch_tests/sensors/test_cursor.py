"""Cursors are small and versioned, and a damaged one is distinguished from an empty one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jukebox_orch.sensors.cursor import CursorCodec, CursorError, SnapshotStore, with_head
from jukebox_orch.sensors.trigger_types import SourceUnavailableError

SMALL = {"tags": {"v1.0.0": "a" * 40}}
LARGE = {"files": {f"{os.urandom(16).hex()}.csv": [1, "t", os.urandom(32).hex()] for _ in range(5_000)}}


@pytest.fixture
def codec(tmp_path) -> CursorCodec:
    return CursorCodec("git_tag", "file:///r v*", str(tmp_path / "state"))


@pytest.mark.parametrize("body", [{}, SMALL, LARGE], ids=["empty", "small", "large"])
def test_cursor_decodes_to_its_state_and_stays_small(codec, tmp_path, body):
    cursor = codec.encode({"sweep": "k"}, body)
    assert len(cursor) <= 64 * 1024
    assert codec.decode(cursor) == ({"sweep": "k"}, body)
    new_codec = CursorCodec("git_tag", "file:///r v*", str(tmp_path / "state"))
    assert new_codec.decode(cursor) == ({"sweep": "k"}, body)


@given(st.dictionaries(st.text(), st.lists(st.integers() | st.text()), max_size=20))
def test_any_state_is_decoded_unchanged(tmp_path_factory, body):
    codec = CursorCodec("k", "s", str(tmp_path_factory.getbasetemp() / "any"))
    assert codec.decode(codec.encode({}, body))[1] == body


def test_new_head_values_keep_body(codec):
    cursor = with_head(codec.encode({"sweep": ""}, LARGE), {"sweep": "next"})
    assert codec.decode(cursor) == ({"sweep": "next"}, LARGE)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda c: "", "not JSON"),
        (lambda c: c[:-20], "not JSON"),
        (lambda c: "[]", "no format version"),
        (lambda c: "null", "no format version"),
        (lambda c: json.dumps({**json.loads(c), "version": 99}), "format version 99 is unknown"),
        (lambda c: json.dumps({**json.loads(c), "body": "AAAA"}), "body is damaged"),
        (lambda c: json.dumps({**json.loads(c), "body": 7}), "body is damaged"),
        (lambda c: json.dumps({**json.loads(c), "head": None}), "no head"),
        (lambda c: json.dumps({**json.loads(c), "kind": "new_data"}), "belongs to new_data"),
        (lambda c: json.dumps({**json.loads(c), "source": "other"}), "belongs to git_tag of other"),
        (lambda c: json.dumps({**json.loads(c), "snapshot": "0" * 64}), "snapshot 000000000000 is missing"),
    ],
)
def test_damaged_or_foreign_cursor_fails_with_reason(codec, damage, problem):
    with pytest.raises(CursorError, match=problem):
        codec.decode(damage(codec.encode({}, SMALL)))


def test_changed_snapshot_is_refused(codec, tmp_path):
    cursor = codec.encode({}, LARGE)
    (snapshot,) = (tmp_path / "state").iterdir()
    snapshot.write_bytes(snapshot.read_bytes()[:-1] + b"x")
    with pytest.raises(CursorError, match="was changed"):
        CursorCodec("git_tag", "file:///r v*", str(tmp_path / "state")).decode(cursor)


def test_snapshots_of_old_and_new_cursor_only_are_kept(codec, tmp_path):
    folder = tmp_path / "state"
    cursors = [codec.encode({}, LARGE)]
    for i in range(3):
        cursors.append(codec.encode({}, {**LARGE, "n": i}, cursors[-1]))
        long_ago = time.time() - 3 * 86_400
        for path in folder.iterdir():
            os.utime(path, (long_ago, long_ago))
    kept = {path.name for path in folder.iterdir()}
    assert kept == {json.loads(cursor)["snapshot"] for cursor in cursors[-2:]}


def test_process_killed_while_writing_leaves_old_snapshot_intact(codec, tmp_path):
    cursor = codec.encode({}, LARGE)
    killed = (
        "import os, signal, sys\n"
        "from upath.implementations.local import PosixUPath\n"
        "from jukebox_orch.sensors.cursor import CursorCodec\n"
        "PosixUPath.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "large = {'files': [os.urandom(64).hex() for _ in range(5000)]}\n"
        "CursorCodec('git_tag', 'file:///r v*', sys.argv[1]).encode({}, large)\n"
    )
    done = subprocess.run([sys.executable, "-c", killed, tmp_path / "state"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "state").iterdir())) == 2
    new_codec = CursorCodec("git_tag", "file:///r v*", str(tmp_path / "state"))
    assert new_codec.decode(cursor) == ({}, LARGE)
    SnapshotStore(str(tmp_path / "state")).prune([json.loads(cursor)["snapshot"]], time.time() + 2 * 86_400)
    assert [path.name for path in (tmp_path / "state").iterdir()] == [json.loads(cursor)["snapshot"]]


def test_unwritable_state_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SourceUnavailableError, match="cannot be written"):
        CursorCodec("k", "s", str(tmp_path / "file")).encode({}, LARGE)
