"""Transparent images are read with `convert: true` as they look on a white page."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jukebox_orch.projects.image_processor import ImageProcessor, ImageSource
from jukebox_orch_tests.support.image_files import write_folder

PROJECT = ImageProcessor()


def icon(mode: str) -> Image.Image:
    """Return a 32 x 32 icon: a square on transparency; both have the same colour."""
    if mode == "P":
        image = Image.new("P", (32, 32), 0)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(1, (8, 8, 24, 24))
        image.info["transparency"] = 0
        return image
    alpha = Image.new("L", (32, 32), 0)
    alpha.paste(255, (8, 8, 24, 24))
    image = Image.new(mode, (32, 32))
    image.putalpha(alpha)
    return image


def read(path: Path) -> np.ndarray:
    """Return the image at `path` beside opaque ones, uint8 (32, 32, 3)."""
    dataset = PROJECT.load(ImageSource(location=str(path.parent.parent), convert=True))
    assert PROJECT.validate(dataset).findings == []
    files = dataset["samples"]["file"].astype(str).tolist()
    return np.asarray(dataset["images"][files.index(str(path))])


@pytest.mark.parametrize(
    ("mode", "name"), [("RGBA", "a.png"), ("LA", "a.png"), ("P", "a.png"), ("RGBA", "a.webp")]
)
def test_black_icon_on_transparency_is_black_on_white(mode: str, name: str, tmp_path: Path) -> None:
    path = write_folder(tmp_path) / "cat" / name
    icon(mode).save(path, lossless=True)  # for WebP; PNG is always lossless
    expected = np.full((32, 32, 3), 255, np.uint8)
    expected[8:24, 8:24] = 0
    np.testing.assert_array_equal(read(path), expected)


def test_transparent_color_of_rgb_image_is_white(tmp_path: Path) -> None:
    path = write_folder(tmp_path) / "cat" / "a.png"
    image = Image.new("RGB", (32, 32), (1, 2, 3))
    image.paste((4, 5, 6), (0, 0, 16, 32))
    image.save(path, transparency=(1, 2, 3))
    assert (read(path)[:, 16:] == 255).all()
    assert (read(path)[:, :16] == [4, 5, 6]).all()


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    path = write_folder(tmp_path) / "cat" / "a.png"
    image = Image.new("RGBA", (32, 32), (0, 100, 200, 128))
    image.paste((0, 0, 0, 255), (0, 0, 16, 32))
    image.save(path)
    np.testing.assert_allclose(read(path)[0, 31], [127, 177, 227], atol=1)
