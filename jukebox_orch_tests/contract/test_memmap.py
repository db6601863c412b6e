"""Memory-mapped arrays are read completely without staying in memory."""

from pathlib import Path

import numpy as np

from jukebox_orch.contract.memmap import array_digest, iter_chunks, release_pages, take_rows

SIZE = 64 << 20


def mapped_bytes() -> int:
    """Return the size of the file pages in this process's resident memory."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssFile"].split()[0]) * 1024


def array_on_disk(tmp_path: Path) -> np.ndarray:
    np.save(tmp_path / "a.npy", np.arange(SIZE, dtype=np.uint8).reshape(-1, 1024))
    return np.load(tmp_path / "a.npy", mmap_mode="r")


def test_chunks_are_array_in_order(tmp_path: Path) -> None:
    array = array_on_disk(tmp_path)
    starts, chunks = zip(*iter_chunks(array, 1000), strict=True)
    assert starts[:3] == (0, 1000, 2000)
    np.testing.assert_array_equal(np.concatenate(chunks), array)


def test_reading_in_chunks_releases_pages(tmp_path: Path) -> None:
    array = array_on_disk(tmp_path)
    before = mapped_bytes()
    assert int(array.sum(dtype=np.int64)) > 0
    assert mapped_bytes() - before > SIZE // 2
    release_pages(array[5:, 3:])
    assert mapped_bytes() - before < SIZE // 4
    for _, chunk in iter_chunks(array, 1000):
        assert chunk.max() > 0
    assert mapped_bytes() - before < SIZE // 4


def test_digest_releases_pages_and_equals_copy(tmp_path: Path) -> None:
    array = array_on_disk(tmp_path)
    before = mapped_bytes()
    digest = array_digest(array)
    assert mapped_bytes() - before < SIZE // 4
    assert digest == array_digest(np.array(array))


def test_take_rows_releases_pages(tmp_path: Path) -> None:
    array = array_on_disk(tmp_path)
    rows = np.arange(0, len(array), 8)
    before = mapped_bytes()
    taken = take_rows(array, rows)
    assert mapped_bytes() - before < SIZE // 4
    np.testing.assert_array_equal(taken, array[rows])


def test_release_pages_keeps_unmapped_arrays() -> None:
    array = np.arange(10)
    release_pages(array)
    assert array.sum() == 45


def test_digest_covers_type_shape_and_values_of_every_plain_type() -> None:
    times = np.arange(6).astype("datetime64[h]")
    arrays = [times, times + 1, times.reshape(2, 3), times.astype("int64"), times.astype(str), times[:0]]
    digests = [array_digest(array) for array in arrays]
    assert len(set(digests)) == len(arrays)
    assert array_digest(times.copy()) == digests[0]
