"""image_processor reads and classifies images of the size and colours that the source declares."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from jukebox_orch.contract import Dataset
from jukebox_orch.ml import training
from jukebox_orch.ml.artifacts import StoredFeatures
from jukebox_orch.ml.onnx_export import export
from jukebox_orch.projects.image_processor import (
    ImageHyperparameters,
    ImageProcessor,
    ImageSource,
    ImageSplit,
)
from jukebox_orch.projects.image_processor.shapes import images_per_chunk
from jukebox_orch_tests.support.image_files import (
    assert_refused,
    cifar_members,
    random_images,
    write_folder,
    write_tar,
)

PROJECT = ImageProcessor()
WIDE = {"height": 24, "width": 40}
GREY = {**WIDE, "color": "grey"}
SHAPES = [(WIDE, (24, 40, 3)), (GREY, (24, 40, 1))]


def load(location: Path | str = "", **fields: Any) -> Dataset:
    return PROJECT.load(ImageSource(location=str(location), **fields))


def save(path: Path, images: np.ndarray) -> Path:
    np.savez(path, images=images, labels=np.arange(len(images)) % 2)
    return path


class TestReaders:
    @pytest.mark.parametrize(("fields", "shape"), SHAPES)
    def test_folder_of_declared_size_is_read(
        self, fields: dict[str, Any], shape: tuple[int, int, int], tmp_path: Path
    ) -> None:
        dataset = load(write_folder(tmp_path, shape=shape), **fields)
        np.testing.assert_array_equal(dataset["images"], random_images(12, shape=shape))
        assert PROJECT.validate(dataset).findings == []

    @pytest.mark.parametrize(("fields", "shape"), SHAPES)
    def test_archive_of_declared_size_is_read(
        self, fields: dict[str, Any], shape: tuple[int, int, int], tmp_path: Path
    ) -> None:
        images = random_images(12, shape=shape)
        dataset = load(save(tmp_path / "a.npz", images), **fields)
        np.testing.assert_array_equal(dataset["images"], images)
        assert PROJECT.validate(dataset).findings == []

    @pytest.mark.parametrize(("fields", "shape"), SHAPES)
    def test_sample_has_declared_size(self, fields: dict[str, Any], shape: tuple[int, int, int]) -> None:
        source = ImageSource(**fields)
        assert source.is_sample
        images = np.asarray(PROJECT.load(source)["images"])
        assert (images.dtype, images.shape) == (np.uint8, (1797, *shape))
        assert (images.min(), images.max()) == (0, 255)

    def test_convert_resizes_to_declared_size_and_color(self, tmp_path: Path) -> None:
        write_folder(tmp_path, shape=(50, 60, 3))
        halves = Image.new("RGB", (80, 20), (0, 0, 255))
        halves.paste((255, 255, 255), (0, 0, 40, 20))
        halves.save(tmp_path / "cat" / "0000.png")
        images = np.asarray(load(tmp_path, convert=True, **GREY)["images"])
        assert images.shape == (12, 24, 40, 1)
        assert (images[0, :, :18] == 255).all()
        assert (images[0, :, 22:] == 29).all()  # luminance of blue by ITU-R 601: 0.114 x 255

    def test_transparent_image_is_grey_over_white(self, tmp_path: Path) -> None:
        write_folder(tmp_path, shape=(24, 40, 1))
        Image.new("LA", (40, 24), (0, 0)).save(tmp_path / "cat" / "0000.png")
        assert (load(tmp_path, convert=True, **GREY)["images"][0] == 255).all()


class TestRefused:
    def test_image_of_other_size_names_declared_size(self, tmp_path: Path) -> None:
        message = (
            r"0000\.png: is 40 x 30 pixels, not 32 x 32; `convert: true` resizes it, "
            "or set source.width and source.height"
        )
        assert_refused(write_folder(tmp_path, shape=(30, 40, 3)), message)

    def test_image_of_turned_size_is_refused(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path, shape=(40, 24, 3))
        assert_refused(folder, "is 24 x 40 pixels, not 40 x 24", **WIDE)

    def test_image_of_other_color_names_setting(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path, shape=(24, 40, 3))
        message = "has mode RGB, not L; `convert: true` converts it to L, or set source.color"
        assert_refused(folder, message, **GREY)

    @pytest.mark.parametrize("shape", [(24, 40, 3), (40, 24, 1), (25, 40, 1)])
    def test_archive_of_other_size_is_refused(self, shape: tuple[int, int, int], tmp_path: Path) -> None:
        path = save(tmp_path / "a.npz", random_images(8, shape=shape))
        message = (
            rf"uint8 \(8, {shape[0]}, {shape[1]}, {shape[2]}\); expected uint8 \(n, 24, 40, 1\).*"
            "set source.height, source.width and source.color"
        )
        assert_refused(path, message, **GREY)

    @pytest.mark.parametrize(
        ("fields", "declared"),
        [({"height": 64}, "32 x 64 RGB"), ({"width": 8}, "8 x 32 RGB"), ({"color": "grey"}, "32 x 32 grey")],
    )
    def test_cifar_is_32_x_32_rgb(self, fields: dict[str, Any], declared: str, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "cifar.tar.gz", cifar_members(10))
        message = (
            f"images are 32 x 32 RGB, the source declares {declared}; "
            "set source.width: 32, source.height: 32 and source.color: rgb"
        )
        assert_refused(path, message, **fields)

    @pytest.mark.parametrize("fields", [{"height": 7}, {"width": 513}, {"color": "L"}])
    def test_size_outside_bounds_is_refused(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ValidationError, match=next(iter(fields))):
            ImageSource(**fields)

    @pytest.mark.parametrize(
        "images",
        [
            random_images(6, shape=(24, 40, 3)) / 255,
            random_images(6, shape=(24, 40, 2)),
            random_images(6)[..., 0],
            random_images(5, shape=(24, 40, 1)),
            random_images(0),
        ],
        ids=["float", "two channels", "no channels", "fewer than samples", "empty"],
    )
    def test_other_arrays_are_fatal_findings(self, images: np.ndarray, tmp_path: Path) -> None:
        dataset = load(write_folder(tmp_path, per_class=3))
        (finding,) = PROJECT.validate({**dataset, "images": images}).findings
        assert (finding.rule, finding.fatal) == ("images", True)
        assert (
            f"images are {images.dtype} {images.shape}; expected uint8 (n, height, width" in finding.message
        )


@pytest.mark.parametrize(
    ("height", "width", "map_shape"),
    [
        (8, 8, (6, 6)),
        (9, 9, (7, 7)),
        (10, 10, (2, 2)),
        (18, 18, (6, 6)),
        (28, 28, (3, 3)),
        (8, 512, (6, 510)),
        (512, 512, (4, 4)),
    ],
)
def test_network_ends_in_few_pixels_for_every_size(
    height: int, width: int, map_shape: tuple[int, int]
) -> None:
    features = SimpleNamespace(shape=(height, width, 1), labels=("a", "b"))
    model = PROJECT.build_model(features, ImageHyperparameters())  # pyright: ignore[reportArgumentType]
    assert model.layers[-4].output.shape[1:3] == map_shape
    assert model.output_shape == (None, 2)


def test_grey_images_become_onnx_model_of_their_size(tmp_path: Path) -> None:
    images = random_images(80, shape=(12, 20, 1))
    images[::2] //= 2
    dataset = load(save(tmp_path / "a.npz", images), height=12, width=20, color="grey")
    features = PROJECT.build_features(dataset, ImageSplit(), 0)
    assert isinstance(features.train.x, np.memmap)
    hyperparameters = ImageHyperparameters(epochs=1, augmentation="shift_and_flip")
    model = training.train(PROJECT, StoredFeatures(features, "", {}), hyperparameters, 0, lambda line: None)
    report = export(PROJECT, model, features).report
    assert report.inputs == {"image": ["tensor(uint8)", "batch", 12, 20, 1]}
    assert report.max_abs_difference <= PROJECT.parity_tolerance


def test_augmentation_keeps_shape_of_images() -> None:
    import tensorflow as tf

    images = random_images(8, shape=(8, 20, 1))
    hyperparameters = ImageHyperparameters(augmentation="shift_and_flip")
    changed = PROJECT.augment(tf.constant(images), hyperparameters, tf.constant((1, 2)))
    assert changed.shape == images.shape
    assert (changed.numpy() != images).any()


def test_drift_of_grey_images_has_no_colors(tmp_path: Path) -> None:
    images = random_images(8, shape=(24, 40, 1))
    table = PROJECT.drift_table(load(save(tmp_path / "a.npz", images), **GREY))
    assert list(table) == ["brightness", "contrast", "label"]
    np.testing.assert_allclose(table["brightness"], images.mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(table["contrast"], images.std(axis=(1, 2, 3)))


def test_chunks_of_large_images_have_fewer_images(tmp_path: Path) -> None:
    assert images_per_chunk((32, 32, 3)) == 4096
    assert images_per_chunk((512, 512, 3)) == 16
    images = random_images(20, shape=(512, 512, 3))
    dataset = load(save(tmp_path / "a.npz", images), height=512, width=512)
    np.testing.assert_array_equal(dataset["images"], images)
    assert len(PROJECT.drift_table(dataset)) == 20
