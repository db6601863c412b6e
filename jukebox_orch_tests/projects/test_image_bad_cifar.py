"""Damaged, malicious and unsuitable CIFAR-10 archives are refused with file and reason."""

import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from jukebox_orch_tests.support.image_files import (
    assert_refused,
    cifar_members,
    tar_member,
    write_tar,
)

Members = list[tuple[tarfile.TarInfo, bytes]]


def with_member(name: str, data: bytes = b"x", **attributes: object) -> Members:
    return [*cifar_members(10), tar_member(name, data, **attributes)]


BAD_MEMBERS: dict[str, tuple[Callable[[], Members], str]] = {
    "path traversal": (lambda: with_member("../../etc/data_batch_9.bin"), "points outside of the archive"),
    "absolute path": (lambda: with_member("/etc/data_batch_9.bin"), "points outside of the archive"),
    "symbolic link": (
        lambda: with_member("c/data_batch_9.bin", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "is a link",
    ),
    "hard link": (
        lambda: with_member("c/data_batch_9.bin", b"", type=tarfile.LNKTYPE, linkname="../x"),
        "is a link",
    ),
    "device": (lambda: with_member("c/data_batch_9.bin", b"", type=tarfile.CHRTYPE), "device"),
    "FIFO": (lambda: with_member("c/data_batch_9.bin", b"", type=tarfile.FIFOTYPE), "device"),
    "nested archive": (lambda: with_member("c/inner.tar.gz"), "'c/inner.tar.gz' is not part of CIFAR-10"),
    "member twice": (lambda: [*cifar_members(10), *cifar_members(10)], "occurs twice"),
    "python version": (
        lambda: [tar_member("cifar-10-batches-py/data_batch_1", b"\x80\x02}q\x01")],
        "pickled: reading it would run code.*cifar-10-binary.tar.gz",
    ),
    "python version, metadata": (lambda: [tar_member("cifar-10-batches-py/batches.meta", b"x")], "pickle"),
    "cut batch": (
        lambda: [*cifar_members(10), tar_member("c/data_batch_6.bin", b"\0" * 3000)],
        "data_batch_6.bin: has 3000 bytes, not a multiple of 3073",
    ),
    "empty batch": (lambda: with_member("c/data_batch_6.bin", b""), "has 0 bytes"),
    "no class names": (lambda: [m for m in cifar_members(10) if "meta" not in m[0].name], "meta.txt"),
    "class names are not text": (
        lambda: [tar_member("batches.meta.txt", b"\xff\xfe"), *cifar_members(10)[2:]],
        "damaged",
    ),
    "test batch only": (
        lambda: [m for m in cifar_members(10) if "data_batch" not in m[0].name],
        "no data_batch_N.bin",
    ),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_bad_archive_member_is_refused(case: str, tmp_path: Path) -> None:
    members, message = BAD_MEMBERS[case]
    assert_refused(write_tar(tmp_path / "cifar.tar.gz", members()), message)
    assert [path.name for path in tmp_path.rglob("*")] == ["cifar.tar.gz"]


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "cifar.tar.gz", cifar_members(10))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_refused(path, "damaged or truncated")


def test_archive_truncated_between_members_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "cifar.tar", cifar_members(10))
    with tarfile.open(path) as tar:
        end = tar.getmember("cifar-10-batches-bin/data_batch_4.bin").offset
    path.write_bytes(path.read_bytes()[:end])
    assert_refused(path, "no end mark")


def test_damaged_header_between_members_is_refused(tmp_path: Path) -> None:
    """The damaged header must not be treated as the end of the archive."""
    path = write_tar(tmp_path / "cifar.tar", cifar_members(10))
    with tarfile.open(path) as tar:
        start = tar.getmember("cifar-10-batches-bin/data_batch_4.bin").offset
    content = bytearray(path.read_bytes())
    content[start + 5] ^= 0xFF
    path.write_bytes(content)
    assert_refused(path, "a damaged header")


@pytest.mark.parametrize("size", [-4096, 1 << 40, 2**63 - 1])
def test_member_with_impossible_size_is_refused(size: int, tmp_path: Path) -> None:
    info = tarfile.TarInfo("c/data_batch_1.bin")
    info.size = size
    path = tmp_path / "cifar.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    assert_refused(path, "damaged or truncated: it ends inside of member 'c/data_batch_1.bin'")


def pax_header(records: bytes) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


HEADERS: dict[str, Callable[[], bytes]] = {
    "many members": lambda: b"".join(
        tar_member(str(i), type=tarfile.DIRTYPE)[0].tobuf(tarfile.USTAR_FORMAT) for i in range(1000)
    ),
    "long header": lambda: pax_header(b"".join(b"13 k%05d=abc\n" % i for i in range(10_000))),
    "nested headers": lambda: pax_header(b"") * 10_000,
}


@pytest.mark.parametrize("case", HEADERS)
def test_oversized_headers_are_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "cifar.tar"
    path.write_bytes(HEADERS[case]() + bytes(10240))
    assert_refused(path, "its headers have more than 65536 bytes")


def test_flipped_bytes_in_archive_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "cifar.tar.gz", cifar_members(10))
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 2, len(content) // 2 + 50):
        content[i] ^= 0xFF
    path.write_bytes(content)
    assert_refused(path, "damaged or truncated")


def test_html_file_as_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(b"<html>404 not found</html>" * 100)
    assert_refused(path, "damaged or truncated")


def test_empty_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(b"")
    assert_refused(path, "damaged or truncated")


@pytest.mark.parametrize("where", ["member", "extended header"])
def test_decompression_bomb_is_refused(where: str, tmp_path: Path) -> None:
    """600 MiB of zeros in 600 KiB are refused at the size limit."""
    path = tmp_path / "cifar.tar.gz"
    info = tarfile.TarInfo("c/data_batch_1.bin")
    info.size = 600 << 20
    if where == "extended header":
        info.type = tarfile.XHDTYPE
    compressor = zlib.compressobj(9, wbits=31)
    with path.open("wb") as file:
        file.write(compressor.compress(info.tobuf(tarfile.USTAR_FORMAT)))
        for _ in range(600):
            file.write(compressor.compress(bytes(1 << 20)))
        file.write(compressor.flush())
    assert_refused(path, "unpacks to more than 512 MiB")
