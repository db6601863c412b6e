"""Findings of validation in images that could be read."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jukebox_orch.contract import Validation
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

IMAGES, LABELS = random_images(8), np.arange(8) % 2


def validate(location: Path) -> Validation:
    project = ImageProcessor()
    return project.validate(project.load(ImageSource(location=str(location))))


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
