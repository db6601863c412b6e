"""Mapped arrays are read whole without staying in memory."""

from pathlib import Path

import numpy as np

from jukebox_orch.contract.memmap import array_digest, iter_chunks, release_pages, take_rows

SIZE = 64 << 20


def mapped_bytes() -> int:
    """File pages that count as this process's memory."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssFile"].split()[0]) * 1024


def array_on_disk(tmp_path: Path) -> np.ndarray:
    np.save(tmp_path / "a.npy", np.arange(SIZE, dtype=np.uint8).reshape(-1, 1024))
    return np.load(tmp_path / "a.npy", mmap_mode="r")


def test_pieces_are_the_array_in_order(tmp_path: Path) -> None:
    array = array_on_disk(tmp_path)
    starts, parts = zip(*iter_chunks(array, 1000), strict=True)
    assert starts[:3] == (0, 1000, 2000)
    np.testing.assert_array_equal(np.concatenate(parts), array)


def test_reading_piece_by_piece_keeps_nothing(tmp_path: Path) -> None:
    array = array_on_disk(tmp_path)
    before = mapped_bytes()
    assert int(array.sum(dtype=np.int64)) > 0
    assert mapped_bytes() - before > SIZE // 2
    release_pages(array[5:, 3:])
    assert mapped_bytes() - before < SIZE // 4
    for _, piece in iter_chunks(array, 1000):
        assert piece.max() > 0
    assert mapped_bytes() - before < SIZE // 4


def test_digesting_a_mapped_array_keeps_nothing_and_equals_that_of_a_copy(tmp_path: Path) -> None:
    array = array_on_disk(tmp_path)
    before = mapped_bytes()
    digest = array_digest(array)
    assert mapped_bytes() - before < SIZE // 4
    assert digest == array_digest(np.array(array))


def test_taking_some_entries_keeps_only_those(tmp_path: Path) -> None:
    array = array_on_disk(tmp_path)
    rows = np.arange(0, len(array), 8)
    before = mapped_bytes()
    taken = take_rows(array, rows)
    assert mapped_bytes() - before < SIZE // 4
    np.testing.assert_array_equal(taken, array[rows])


def test_other_arrays_are_left_alone() -> None:
    array = np.arange(10)
    release_pages(array)
    assert array.sum() == 45
