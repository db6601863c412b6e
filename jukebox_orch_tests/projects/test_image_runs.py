"""Runs of image_processor: a CIFAR-10 archive becomes a registered model, bad sources stop the run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jukebox_orch.projects.image_processor import ImageProcessor
from jukebox_orch_tests.support.deployment import Deployment, failures, made
from jukebox_orch_tests.support.image_files import (
    CLASSES,
    cifar_members,
    cifar_records,
    random_images,
    tar_member,
    write_folder,
    write_tar,
)


def colored_cifar(path: Path) -> Path:
    """Write a CIFAR-10 archive with one brightness per class; some images have the brightness of the next class."""
    random = np.random.default_rng(5)
    members = [m for m in cifar_members() if ".bin" not in m[0].name]
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        labels = np.arange(100) % len(CLASSES)
        appearance = np.where(random.random(100) < 0.1, (labels + 1) % len(CLASSES), labels)
        noise = random.integers(0, 10, (100, 32, 32, 3), dtype=np.uint8)
        images = noise + (25 * appearance[:, None, None, None]).astype(np.uint8)
        members.append(tar_member(f"cifar-10-batches-bin/{name}", cifar_records(images, labels)))
    return write_tar(path, members)


def test_cifar_archive_becomes_registered_model(deployment: Deployment):
    archive = colored_cifar(deployment.folder / "cifar-10-binary.tar.gz")
    result = deployment.run(
        project=ImageProcessor(),
        source={"location": str(archive)},
        hyperparameters={"epochs": 8, "learning_rate": 0.003},
        gates={"metric_floor": 0.3},
    )
    assert result.success, failures(result)
    report = deployment.value("image_processor/evaluation")
    assert report.test.rows == 100  # the published test batch
    assert [row["label"] for row in report.details["per_class"]] == CLASSES
    matrix = np.array(report.details["confusion_matrix"]["matrix"])
    assert matrix.sum(axis=1).tolist() == [10] * 10
    assert np.trace(matrix) / 100 == pytest.approx(report.test.metrics["accuracy"])
    metadata = deployment.metadata("image_processor/evaluation")
    for figure in ("mistakes", "confusion matrix plot"):
        assert str(metadata[figure]).startswith(f"![{figure}](data:image/png;base64,")
    assert report.baselines[0].metrics["accuracy"] == pytest.approx(0.1)
    assert deployment.aliases("image_processor") == {"challenger": "1", "champion": "1", "staging": "1"}


def archive_with_path_traversal(folder: Path) -> Path:
    return write_tar(folder / "cifar.tar.gz", [*cifar_members(10), tar_member("../data_batch_9.bin", b"x")])


def truncated_archive(folder: Path) -> Path:
    path = write_tar(folder / "cifar.tar.gz", cifar_members(10))
    path.write_bytes(path.read_bytes()[:9000])
    return path


def label_outside_classes(folder: Path) -> Path:
    records = cifar_records(random_images(3, 99), np.array([1, 10, 200]))
    return write_tar(folder / "cifar.tar.gz", [*cifar_members(10), tar_member("data_batch_6.bin", records)])


def empty_image(folder: Path) -> Path:
    (write_folder(folder / "images") / "cat" / "0000.png").write_bytes(b"")
    return folder / "images"


def one_class(folder: Path) -> Path:
    return write_folder(folder / "images", classes=("cat",))


@pytest.mark.parametrize(
    ("source", "message", "last"),
    [
        (archive_with_path_traversal, "points outside of the archive; keep only files", []),
        (truncated_archive, "the archive is damaged or truncated", []),
        (empty_image, "cat/0000.png: has zero bytes", []),
        (
            label_outside_classes,
            "data_batch_6.bin: image 1 has label 10; there are 10 classes",
            ["dataset"],
        ),
        (one_class, "only one class, 'cat'", ["dataset"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_source_stops_run_before_training(
    source: Callable[[Path], Path], message: str, last: list[str], deployment: Deployment
):
    location = source(deployment.folder)
    result = deployment.run(project=ImageProcessor(), source={"location": str(location)})
    assert not result.success
    messages = failures(result) + "".join(e.description or "" for e in result.get_asset_check_evaluations())
    assert message in messages
    assert location.name in messages
    assert not {"trained_model", "registered_model"} & set(made(result))
    assert made(result)[:1] == last
    assert deployment.versions("image_processor") == []


def test_class_folders_may_have_any_name(deployment: Deployment):
    names = ("$a$$", "<b>*x*|y", "_x_^2", "ca$$h", "\N{CAT FACE}")
    folder = deployment.folder / "images"
    random = np.random.default_rng(0)
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j, noise in enumerate(random.integers(0, 10, (40, 16, 16), dtype=np.uint8)):
            # Every fourth image looks like the next class, so that the figure of mistakes has titles with names.
            appearance = (i + (j % 4 == 0)) % len(names)
            Image.fromarray(noise + np.uint8(50 * appearance)).save(folder / name / f"{j}.png")
    result = deployment.run(
        project=ImageProcessor(),
        source={"location": str(folder), "height": 16, "width": 16, "color": "grey"},
        hyperparameters={"epochs": 20, "learning_rate": 0.003, "batch_size": 16},
        gates={"metric_floor": 0.3},
    )
    assert result.success, failures(result)
    report = deployment.value("image_processor/evaluation")
    assert [row["label"] for row in report.details["per_class"]] == sorted(names)
    metadata = deployment.metadata("image_processor/evaluation")
    assert str(metadata["mistakes"]).startswith("![mistakes](data:image/png;base64,")
    assert deployment.versions("image_processor") == [1]
