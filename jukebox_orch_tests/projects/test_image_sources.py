"""image_processor reads CIFAR-10's binary archive, NumPy archives, and folders by class."""

import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from jukebox_orch.contract import Dataset, InputError, SourceFile
from jukebox_orch.projects.image_processor import ImageProcessor, ImageSource
from jukebox_orch_tests.support.image_files import (
    CLASSES,
    cifar_members,
    random_images,
    write_folder,
    write_tar,
)


def load(location: object = "", **fields: object) -> Dataset:
    return ImageProcessor().load(ImageSource(location=str(location), **fields))  # pyright: ignore[reportArgumentType]


def samples(dataset: Dataset) -> pd.DataFrame:
    frame = dataset["samples"]
    assert isinstance(frame, pd.DataFrame)
    return frame


def class_names(dataset: Dataset) -> list[str]:
    return list(dataset["classes"]["name"])


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tar(tmp_path_factory.mktemp("cifar") / "cifar-10-binary.tar.gz", cifar_members())


class TestCifar:
    def test_pixels_labels_and_class_names_are_read(self, cifar: Path) -> None:
        dataset = load(cifar)
        assert class_names(dataset) == CLASSES
        np.testing.assert_array_equal(
            dataset["images"], np.concatenate([random_images(50, seed) for seed in range(6)])
        )
        np.testing.assert_array_equal(samples(dataset)["label"], np.tile(np.arange(50) % 10, 6))

    def test_published_test_batch_is_marked(self, cifar: Path) -> None:
        frame = samples(load(cifar))
        assert set(frame[frame["test"]]["file"]) == {f"{cifar}: test_batch.bin"}
        assert frame["test"].sum() == 50

    def test_uncompressed_tar_is_read(self, tmp_path: Path, cifar: Path) -> None:
        plain = write_tar(tmp_path / "cifar.tar", cifar_members())
        np.testing.assert_array_equal(load(plain)["images"], load(cifar)["images"])

    def test_archive_is_read_over_http(self, cifar: Path) -> None:
        handler = partial(http.server.SimpleHTTPRequestHandler, directory=cifar.parent)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                url = f"http://127.0.0.1:{server.server_port}"
                assert len(load(f"{url}/{cifar.name}")["images"]) == 300
                signed = f"{url}/{cifar.name}?X-Amz-Signature=hunter2/a.png"
                assert len(load(signed)["images"]) == 300
                read = load(files=[SourceFile(url=signed)])
                assert "hunter2" not in "".join(samples(read)["file"].unique())
                with pytest.raises(InputError, match=r"missing\.tar: not found"):
                    load(f"{url}/missing.tar")
            finally:
                server.shutdown()
                thread.join()

    def test_digest_is_verified(self, cifar: Path) -> None:
        digest = hashlib.sha256(cifar.read_bytes()).hexdigest()
        assert len(load(files=[SourceFile(url=str(cifar), sha256=digest)])["images"]) == 300
        with pytest.raises(InputError, match=f"{cifar.name}: has sha256 {digest}, expected 0000"):
            load(files=[SourceFile(url=str(cifar), sha256="0" * 64)])


class TestNpz:
    def test_images_labels_classes_and_test_marks_are_read(self, tmp_path: Path) -> None:
        images, labels = random_images(5000), np.arange(5000) % 3
        np.savez_compressed(
            tmp_path / "a.npz", images=images, labels=labels, classes=["a", "b", "c"], test=labels == 0
        )
        dataset = load(tmp_path / "a.npz")
        np.testing.assert_array_equal(dataset["images"], images)
        np.testing.assert_array_equal(samples(dataset)["label"], labels)
        np.testing.assert_array_equal(samples(dataset)["test"], labels == 0)
        assert class_names(dataset) == ["a", "b", "c"]

    def test_classes_without_names_are_numbered(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", images=random_images(4), labels=[0, 1, 3, 1])
        assert class_names(load(tmp_path / "a.npz")) == ["0", "1", "2", "3"]

    def test_archives_of_folder_are_combined(self, tmp_path: Path) -> None:
        for i in range(3):
            np.savez(tmp_path / f"{i}.npz", images=random_images(4, i), labels=[0, 1, 0, 1])
        dataset = load(tmp_path)
        assert len(dataset["images"]) == 12
        assert list(samples(dataset)["file"].unique()) == [str(tmp_path / f"{i}.npz") for i in range(3)]

    def test_archives_with_different_classes_are_refused(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            np.savez(tmp_path / f"{name}.npz", images=random_images(2), labels=[0, 1], classes=[name, "x"])
        with pytest.raises(InputError, match=r"b\.npz: has other classes than .*a\.npz"):
            load(tmp_path)


class TestFolder:
    def test_folders_are_classes(self, tmp_path: Path) -> None:
        dataset = load(write_folder(tmp_path, per_class=6))
        np.testing.assert_array_equal(dataset["images"], random_images(12))
        assert class_names(dataset) == ["cat", "dog"]
        np.testing.assert_array_equal(samples(dataset)["label"], np.repeat([0, 1], 6))
        assert samples(dataset)["file"].iloc[0] == str(tmp_path / "cat" / "0000.png")

    def test_order_is_kept_across_windows(self, tmp_path: Path) -> None:
        dataset = load(write_folder(tmp_path, per_class=1100))
        np.testing.assert_array_equal(dataset["images"], random_images(2200))

    def test_images_are_memory_mapped(self, tmp_path: Path) -> None:
        dataset = load(write_folder(tmp_path))
        assert isinstance(dataset["images"], np.memmap)

    def test_hidden_files_are_left_out(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        (tmp_path / ".DS_Store").write_bytes(b"x")
        (tmp_path / "cat" / "._0000.png").write_bytes(b"x")
        assert len(load(tmp_path)["images"]) == 12

    def test_listed_images_get_class_from_folder(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        files = [SourceFile(url=str(tmp_path / c / "0001.png")) for c in ("dog", "cat")]
        dataset = load(files=files)
        np.testing.assert_array_equal(samples(dataset)["label"], [1, 0])

    def test_convert_accepts_other_sizes_and_modes(self, tmp_path: Path) -> None:
        write_folder(tmp_path)
        Image.new("L", (64, 48), 200).save(tmp_path / "cat" / "grey.png")
        Image.new("RGBA", (32, 32), (10, 20, 30, 255)).save(tmp_path / "cat" / "transparent.png")
        dataset = load(tmp_path, convert=True)
        frame = samples(dataset).reset_index()
        grey = dataset["images"][frame.index[frame["file"].str.endswith("grey.png")][0]]
        assert (grey == 200).all()
        transparent = dataset["images"][frame.index[frame["file"].str.endswith("transparent.png")][0]]
        assert (transparent == [10, 20, 30]).all()

    def test_object_store_is_read_like_folder(self, tmp_path: Path) -> None:
        import fsspec

        write_folder(tmp_path)
        memory = fsspec.filesystem("memory")
        memory.put(str(tmp_path), "/pictures", recursive=True)
        try:
            dataset = load("memory://pictures")
        finally:
            memory.rm("/pictures", recursive=True)
        np.testing.assert_array_equal(dataset["images"], random_images(12))


def test_embedded_sample_is_enlarged_digits() -> None:
    dataset = load()
    images = dataset["images"]
    assert isinstance(images, np.ndarray)
    assert images.shape == (1797, 32, 32, 3)
    assert (images.min(), images.max()) == (0, 255)
    assert (images[..., 0] == images[..., 2]).all()
    assert class_names(dataset) == [str(d) for d in range(10)]


def test_classes_are_folders_of_signed_urls(tmp_path: Path) -> None:
    write_folder(tmp_path)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            web = f"http://127.0.0.1:{server.server_port}"
            urls = [
                f"{web}/{file.relative_to(tmp_path)}?sig=hunter2/x"
                for file in sorted(tmp_path.rglob("*.png"))
            ]
            read = load(files=[SourceFile(url=url) for url in urls])
        finally:
            server.shutdown()
            thread.join()
    assert class_names(read) == ["cat", "dog"]
    assert "hunter2" not in "".join(samples(read)["file"])


@pytest.mark.parametrize("name", ["what?", "take #2"])
def test_path_with_question_mark_or_hash_is_read(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / name, classes=(name, "dog"))
    read = load(folder)
    assert class_names(read) == sorted([name, "dog"])
    assert samples(read)["file"].str.startswith(str(folder)).all()


def test_class_folder_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, classes=("cat", "caf\udce9"))
    with pytest.raises(InputError, match=r"caf\\udce9/.*: the name of the class folder is not UTF-8; rename"):
        load(folder)
