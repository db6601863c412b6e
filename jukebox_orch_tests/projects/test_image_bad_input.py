"""Damaged, malicious and unsuitable image sources are refused with file and reason."""

import io
import os
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from jukebox_orch.contract import InputError, Validation
from jukebox_orch.projects.image_processor import ImageProcessor, ImageSource
from jukebox_orch_tests.support.image_files import (
    CLASSES,
    cifar_members,
    cifar_records,
    random_images,
    tar_member,
    write_folder,
    write_tar,
)

Members = list[tuple[tarfile.TarInfo, bytes]]


def assert_refused(location: Path, message: str, convert: bool = False) -> None:
    """Assert that `load` raises an InputError with the file and the message."""
    with pytest.raises(InputError) as raised:
        ImageProcessor().load(ImageSource(location=str(location), convert=convert))
    assert str(location) in str(raised.value)
    assert re.search(message, str(raised.value)), raised.value


def validate(location: Path) -> Validation:
    project = ImageProcessor()
    return project.validate(project.load(ImageSource(location=str(location))))


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


class TestValidation:
    def test_label_outside_classes_is_fatal(self, tmp_path: Path) -> None:
        members = cifar_members(10)
        bad = cifar_records(random_images(3, 99), np.array([1, 10, 200]))
        path = write_tar(tmp_path / "cifar.tar.gz", [*members, tar_member("c/data_batch_6.bin", bad)])
        (finding,) = validate(path).findings
        assert (finding.rule, finding.fatal, finding.count) == ("labels", True, 2)
        assert f"{path}: data_batch_6.bin: image 1 has label 10; there are 10 classes" in finding.message

    def test_missing_label_is_fatal(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
        project = ImageProcessor()
        dataset = project.load(ImageSource(location=str(tmp_path / "a.npz")))
        table = pd.DataFrame(dataset["samples"])
        dataset["samples"] = table.assign(label=table["label"].astype(float).where(table["row"] != 3))
        (finding,) = project.validate(dataset).findings
        assert finding.fatal
        assert "image 3 has label nan" in finding.message

    def test_negative_label_is_fatal(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS - 1, classes=["a", "b"])
        (finding,) = validate(tmp_path / "a.npz").findings
        assert finding.fatal
        assert "image 0 has label -1" in finding.message

    def test_single_class_is_fatal(self, tmp_path: Path) -> None:
        (finding,) = validate(write_folder(tmp_path, classes=("cat",))).findings
        assert (finding.rule, finding.fatal) == ("classes", True)
        assert "cat/0000.png" in finding.message
        assert "only one class, 'cat'" in finding.message

    def test_class_without_images_is_fatal(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, images=IMAGES, labels=LABELS, classes=["a", "b", "c"])
        (finding,) = validate(path).findings
        assert finding.fatal
        assert f"{path}: too few different usable images (need 3) of 'c' (0)" in finding.message

    def test_class_of_equal_images_is_fatal(self, tmp_path: Path) -> None:
        images = IMAGES.copy()
        images[LABELS == 1] = images[1]
        np.savez(tmp_path / "a.npz", images=images, labels=LABELS)
        assert "'1' (1)" in validate(tmp_path / "a.npz").findings[0].message

    def test_blank_images_are_quarantined(self, tmp_path: Path) -> None:
        images = random_images(40)
        images[:3] = [7, 8, 9]
        np.savez(tmp_path / "a.npz", images=images, labels=np.arange(40) % 2)
        result = validate(tmp_path / "a.npz")
        assert result.invalid_rows == 3
        assert [(f.rule, f.fatal, f.count) for f in result.findings] == [
            ("blank", False, 3),
            ("contradictions", False, 3),
        ]

    def test_image_with_two_labels_is_quarantined(self, tmp_path: Path) -> None:
        images = random_images(40)
        images[5] = images[2]
        np.savez(tmp_path / "a.npz", images=images, labels=np.arange(40) % 2)
        result = validate(tmp_path / "a.npz")
        assert (result.rows, result.invalid_rows) == (40, 2)
        (finding,) = result.findings
        assert (finding.rule, finding.fatal) == ("contradictions", False)
        assert [example["row"] for example in finding.examples] == [2, 5]

    @pytest.mark.parametrize(
        "images", [None, np.zeros((4, 32, 32, 3)), np.zeros((0, 32, 32, 3), np.uint8), IMAGES[:4, :16]]
    )
    def test_images_of_wrong_shape_or_type_are_fatal(self, images: np.ndarray | None, tmp_path: Path) -> None:
        project = ImageProcessor()
        dataset = project.load(ImageSource(location=str(write_folder(tmp_path))))
        dataset.pop("images")
        if images is not None:
            dataset["images"] = images
        (finding,) = project.validate(dataset).findings
        assert (finding.rule, finding.fatal) == ("images", True)

    def test_valid_data_has_no_findings(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "cifar.tar.gz", cifar_members())
        result = validate(path)
        assert (result.rows, result.invalid_rows, list(result.findings)) == (300, 0, [])
        assert len(CLASSES) == 10
