"""Image files and folders that cannot be used are refused with file and reason."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jukebox_orch_tests.support.image_files import (
    assert_refused,
    random_images,
    write_folder,
)

IMAGES, LABELS = random_images(8), np.arange(8) % 2


def save(path: Path, image: Image.Image) -> None:
    image.save(path)


def png_with_size(path: Path, width: int, height: int) -> None:
    """Write a PNG whose header declares more pixels than the file has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))))


def truncated_png(path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(stream, "PNG")
    path.write_bytes(stream.getvalue()[:1500])


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "wrong size": (lambda p: save(p, Image.new("RGB", (33, 32))), "is 33 x 32 pixels, not 32 x 32"),
    "grey": (lambda p: save(p, Image.new("L", (32, 32))), "has mode L, not RGB"),
    "palette": (lambda p: save(p, Image.new("P", (32, 32))), "has mode P, not RGB"),
    "transparent": (lambda p: save(p, Image.new("RGBA", (32, 32))), "has mode RGBA, not RGB"),
    "16 bits": (lambda p: save(p, Image.new("I;16", (32, 32))), "has mode I;16"),
    "zero bytes": (lambda p: p.write_bytes(b""), "has zero bytes"),
    "not an image": (lambda p: p.write_bytes(b"hello world"), "not a PNG, JPEG, BMP, WEBP image"),
    "postscript": (lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "not a PNG"),
    "truncated": (truncated_png, "damaged or truncated"),
    "oversized": (lambda p: png_with_size(p, 9000, 9000), "9000 x 9000 pixels"),
    "pixel bomb": (lambda p: png_with_size(p, 60_000, 60_000), "decompression bomb"),
    "link": (lambda p: p.symlink_to(p.with_name("0000.png")), "is a link"),
    "FIFO": (os.mkfifo, "is not a regular file"),
    "folder": (lambda p: p.mkdir(), "is a folder inside a class folder"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_image_file_is_refused(case: str, tmp_path: Path) -> None:
    make, message = BAD_IMAGES[case]
    make(write_folder(tmp_path) / "cat" / "bad.png")
    assert_refused(tmp_path, rf"cat/bad\.png: .*({message})")


@pytest.mark.parametrize("case", ["not an image", "truncated", "16 bits", "oversized", "zero bytes"])
def test_bad_image_file_is_refused_with_convert(case: str, tmp_path: Path) -> None:
    make, message = BAD_IMAGES[case]
    make(write_folder(tmp_path) / "cat" / "bad.png")
    assert_refused(tmp_path, message, convert=True)


def test_first_bad_files_are_named_and_rest_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, per_class=10)
    for i in range(8):
        (tmp_path / "dog" / f"{i:04}.png").write_bytes(b"no image")
    assert_refused(tmp_path, r"(?s)dog/0000\.png.*dog/0004\.png.*and 3 more")


def test_empty_class_folder_is_refused(tmp_path: Path) -> None:
    (write_folder(tmp_path) / "bird").mkdir()
    assert_refused(tmp_path, "bird: class folder without an image")


def test_unreadable_class_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.local import LocalFileSystem

    listed = LocalFileSystem.ls

    def ls(self: LocalFileSystem, path: str, detail: bool = False) -> object:
        if path.endswith("/cat"):
            raise PermissionError(path)
        return listed(self, path, detail)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    assert_refused(write_folder(tmp_path), "/cat: access denied")


def test_image_outside_class_folders_is_refused(tmp_path: Path) -> None:
    save(write_folder(tmp_path) / "stray.png", Image.new("RGB", (32, 32)))
    assert_refused(tmp_path, r"stray\.png: is not one of \.npz, \.tar")


def test_archive_with_class_folders_is_refused(tmp_path: Path) -> None:
    np.savez(write_folder(tmp_path) / "a.npz", images=IMAGES, labels=LABELS)
    assert_refused(tmp_path, "has archives and class folders")


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, "the folder is empty")


def test_missing_location_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere", "not found; check the path")


def test_unknown_file_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.pkl").write_bytes(b"\x80\x04.")
    assert_refused(tmp_path / "images.pkl", r"is not one of \.npz, \.tar")


def test_fifo_as_location_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    assert_refused(tmp_path / "a.npz", "not a regular file")
