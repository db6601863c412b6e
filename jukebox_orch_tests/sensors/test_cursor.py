"""Cursors: small, versioned, and a damaged one is told apart from an empty one."""

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
from jukebox_orch.sensors.decisions import SourceUnavailableError

SMALL = {"tags": {"v1.0.0": "a" * 40}}
LARGE = {"files": {f"{os.urandom(16).hex()}.csv": [1, "t", os.urandom(32).hex()] for _ in range(5_000)}}


@pytest.fixture
def memory(tmp_path) -> CursorCodec:
    return CursorCodec("git_tag", "file:///r v*", str(tmp_path / "memory"))


@pytest.mark.parametrize("body", [{}, SMALL, LARGE], ids=["empty", "small", "large"])
def test_a_cursor_gives_back_its_state_and_stays_small(memory, tmp_path, body):
    cursor = memory.encode({"sweep": "k"}, body)
    assert len(cursor) <= 64 * 1024
    assert memory.decode(cursor) == ({"sweep": "k"}, body)
    another_process = CursorCodec("git_tag", "file:///r v*", str(tmp_path / "memory"))
    assert another_process.decode(cursor) == ({"sweep": "k"}, body)


@given(st.dictionaries(st.text(), st.lists(st.integers() | st.text()), max_size=20))
def test_any_state_survives(tmp_path_factory, body):
    memory = CursorCodec("k", "s", str(tmp_path_factory.getbasetemp() / "any"))
    assert memory.decode(memory.encode({}, body))[1] == body


def test_head_values_change_without_the_body_being_written_again(memory):
    cursor = with_head(memory.encode({"sweep": ""}, LARGE), {"sweep": "next"})
    assert memory.decode(cursor) == ({"sweep": "next"}, LARGE)


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
def test_a_damaged_or_foreign_cursor_says_what_is_wrong(memory, damage, problem):
    with pytest.raises(CursorError, match=problem):
        memory.decode(damage(memory.encode({}, SMALL)))


def test_a_changed_snapshot_is_refused(memory, tmp_path):
    cursor = memory.encode({}, LARGE)
    (snapshot,) = (tmp_path / "memory").iterdir()
    snapshot.write_bytes(snapshot.read_bytes()[:-1] + b"x")
    with pytest.raises(CursorError, match="was changed"):
        CursorCodec("git_tag", "file:///r v*", str(tmp_path / "memory")).decode(cursor)


def test_the_snapshots_of_the_old_and_the_new_cursor_stay_and_forgotten_ones_go(memory, tmp_path):
    folder = tmp_path / "memory"
    cursors = [memory.encode({}, LARGE)]
    for i in range(3):
        cursors.append(memory.encode({}, {**LARGE, "n": i}, cursors[-1]))
        long_ago = time.time() - 3 * 86_400
        for path in folder.iterdir():
            os.utime(path, (long_ago, long_ago))
    kept = {path.name for path in folder.iterdir()}
    assert kept == {json.loads(cursor)["snapshot"] for cursor in cursors[-2:]}


def test_a_process_killed_while_it_saves_leaves_the_old_memory_whole(memory, tmp_path):
    cursor = memory.encode({}, LARGE)
    killed = (
        "import os, signal, sys\n"
        "from upath.implementations.local import PosixUPath\n"
        "from jukebox_orch.sensors.cursor import CursorCodec\n"
        "PosixUPath.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "large = {'files': [os.urandom(64).hex() for _ in range(5000)]}\n"
        "CursorCodec('git_tag', 'file:///r v*', sys.argv[1]).encode({}, large)\n"
    )
    done = subprocess.run([sys.executable, "-c", killed, tmp_path / "memory"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "memory").iterdir())) == 2
    another_process = CursorCodec("git_tag", "file:///r v*", str(tmp_path / "memory"))
    assert another_process.decode(cursor) == ({}, LARGE)
    SnapshotStore(str(tmp_path / "memory")).prune([json.loads(cursor)["snapshot"]], time.time() + 2 * 86_400)
    assert [path.name for path in (tmp_path / "memory").iterdir()] == [json.loads(cursor)["snapshot"]]


def test_a_memory_that_cannot_be_written_is_a_reason_not_a_lost_cursor(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SourceUnavailableError, match="cannot be written"):
        CursorCodec("k", "s", str(tmp_path / "file")).encode({}, LARGE)
