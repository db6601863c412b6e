"""Damaged, malicious and unsuitable NumPy archives are refused with file and reason."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jukebox_orch_tests.support.image_files import (
    assert_refused,
    random_images,
)


def npz_bytes(compression: int = zipfile.ZIP_DEFLATED, /, **members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def npy(array: np.ndarray, keep: int | None = None) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()[:keep]


IMAGES, LABELS = random_images(8), np.arange(8) % 2
BAD_NPZ: dict[str, tuple[Callable[[], bytes], str]] = {
    "not a zip": (lambda: b"hello", "not a NumPy archive"),
    "zero bytes": (lambda: b"", "not a NumPy archive"),
    "truncated": (lambda: npz_bytes(images=npy(IMAGES), labels=npy(LABELS))[:5000], "not a NumPy archive"),
    "other member": (
        lambda: npz_bytes(images=npy(IMAGES), labels=npy(LABELS), x=b"1"),
        "'x.npy' is not one of",
    ),
    "path traversal": (lambda: npz_bytes(**{"../images": npy(IMAGES)}), r"'\.\./images\.npy' is not one of"),
    "no labels": (lambda: npz_bytes(images=npy(IMAGES)), "array 'labels' is missing"),
    "pickled labels": (
        lambda: npz_bytes(images=npy(IMAGES), labels=npy(np.array([{}] * 8, object))),
        "array 'labels' cannot be read: .*Python objects",
    ),
    "pickled images": (
        lambda: npz_bytes(images=npy(np.array([None] * 8, object)), labels=npy(LABELS)),
        "array 'images' cannot be read: .*Python objects",
    ),
    "float images": (
        lambda: npz_bytes(images=npy(IMAGES / 255), labels=npy(LABELS)),
        r"float64 \(8, 32, 32, 3\); expected uint8",
    ),
    "grey images": (
        lambda: npz_bytes(images=npy(IMAGES[..., 0]), labels=npy(LABELS)),
        r"uint8 \(8, 32, 32\); expected",
    ),
    "column order": (
        lambda: npz_bytes(images=npy(np.asfortranarray(IMAGES)), labels=npy(LABELS)),
        "column order",
    ),
    "fewer labels than images": (
        lambda: npz_bytes(images=npy(IMAGES), labels=npy(LABELS[:7])),
        r"'labels' is int64 \(7,\); expected .* shape \(8,\)",
    ),
    "fractional labels": (
        lambda: npz_bytes(images=npy(IMAGES), labels=npy(LABELS / 2)),
        "'labels' is float64",
    ),
    "shorter than its header": (
        lambda: npz_bytes(images=npy(IMAGES, keep=9000), labels=npy(LABELS)),
        "'images' cannot be read: .*mmap length is greater than file size",
    ),
    "no header": (
        lambda: npz_bytes(images=b"abc", labels=npy(LABELS)),
        "'images' cannot be read: .*magic string",
    ),
    "damaged header": (
        lambda: npz_bytes(images=npy(IMAGES).replace(b"(8,", b"(8("), labels=npy(LABELS)),
        "'images' cannot be read",
    ),
    "huge shape": (
        lambda: npz_bytes(images=npy(IMAGES).replace(b"(8, 32", b"(99999"), labels=npy(LABELS)),
        "'images' cannot be read: .*mmap length",
    ),
    "archive instead of an array": (
        lambda: npz_bytes(images=npz_bytes(images=npy(IMAGES)), labels=npy(LABELS)),
        "'images' cannot be read: .*magic string",
    ),
    "pickle instead of an array": (
        lambda: npz_bytes(images=pickle.dumps([1, 2, 3]), labels=npy(LABELS)),
        "'images' cannot be read: .*magic string",
    ),
    "another compression": (
        lambda: npz_bytes(zipfile.ZIP_LZMA, images=npy(IMAGES), labels=npy(LABELS)),
        "'images.npy' is damaged, or not written by np.savez",
    ),
    "array twice": (
        lambda: (
            npz_bytes(images=npy(IMAGES), label1=npy(LABELS), label2=npy(LABELS))
            .replace(b"label1", b"labels")
            .replace(b"label2", b"labels")
        ),
        "array 'labels' occurs twice",
    ),
    "class names that are not text": (
        lambda: npz_bytes(images=npy(IMAGES), labels=npy(LABELS), classes=npy(np.array(["\ud800", "b"]))),
        "array 'classes' is not text",
    ),
    "class names that are numbers": (
        lambda: npz_bytes(images=npy(IMAGES), labels=npy(LABELS), classes=npy(np.arange(2))),
        "'classes' is int64 .*; expected a list of strings",
    ),
    "test marks that are numbers": (
        lambda: npz_bytes(images=npy(IMAGES), labels=npy(LABELS), test=npy(LABELS)),
        "'test' is int64 .*; expected bool",
    ),
    "huge label": (
        lambda: npz_bytes(images=npy(IMAGES), labels=npy(LABELS * 2**40)),
        "label 1099511627776 without array 'classes'",
    ),
    "bomb": (lambda: npz_bytes(images=bytes(300 << 20), labels=npy(LABELS)), "a decompression bomb"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_numpy_archive_is_refused(case: str, tmp_path: Path) -> None:
    content, message = BAD_NPZ[case]
    path = tmp_path / "images.npz"
    path.write_bytes(content())
    assert_refused(path, message)


def test_flipped_byte_in_numpy_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=IMAGES, labels=LABELS)
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)
    assert_refused(path, "'images' cannot be read: .*Bad CRC")


class PickledCode:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["images", "labels", "classes", "test"])
def test_pickled_code_in_numpy_archive_is_not_run(name: str, tmp_path: Path) -> None:
    objects = np.array([PickledCode(tmp_path / "executed")] * 8, object)
    np.savez(tmp_path / "a.npz", **{"images": IMAGES, "labels": LABELS, name: objects})  # pyright: ignore[reportArgumentType]
    assert_refused(tmp_path / "a.npz", f"array '{name}' cannot be read: .*Python objects")
    assert not (tmp_path / "executed").exists()
