"""Writes image sources as users have them: CIFAR-10's binary archive, NumPy archives, folders by class."""

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jukebox_orch.contract import InputError
from jukebox_orch.projects.image_processor import ImageProcessor, ImageSource

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def random_images(n: int, seed: int = 0, shape: tuple[int, int, int] = (32, 32, 3)) -> np.ndarray:
    """Return (n, *shape) uint8 images, all different."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def cifar_records(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Return CIFAR-10 records: label byte, then 1024 red, green and blue bytes, row by row."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels.astype(np.uint8)[:, None], planes], axis=1).tobytes()


def tar_member(name: str, data: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def cifar_members(per_batch: int = 50) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return the members of cifar-10-binary.tar.gz in its published layout and order, with fewer images."""
    folder = "cifar-10-batches-bin"
    labels = np.arange(per_batch) % len(CLASSES)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    batches = [
        tar_member(f"{folder}/{name}", cifar_records(random_images(per_batch, seed), labels))
        for seed, name in enumerate(names)
    ]
    return [
        tar_member(folder, type=tarfile.DIRTYPE, mode=0o755),
        tar_member(f"{folder}/batches.meta.txt", ("\n".join(CLASSES) + "\n\n").encode()),
        *batches,
        tar_member(f"{folder}/readme.html", b"<html>"),
    ]


def write_folder(
    root: Path,
    per_class: int = 6,
    classes: tuple[str, ...] = ("cat", "dog"),
    shape: tuple[int, int, int] = (32, 32, 3),
) -> Path:
    """Write `<root>/<class>/<number>.png` of height, width and channels `shape`."""
    images = random_images(per_class * len(classes), shape=shape)
    for i, image in enumerate(images):
        path = root / classes[i // per_class] / f"{i % per_class:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path)
    return root


def assert_refused(location: Path, message: str, **fields: Any) -> None:
    """Assert that `load` with these fields of the source raises an InputError with the file and the message."""
    with pytest.raises(InputError) as raised:
        ImageProcessor().load(ImageSource(location=str(location), **fields))
    assert str(location) in str(raised.value)
    assert re.search(message, str(raised.value)), raised.value
