"""image_processor from features to ONNX: splits without leaks, training and export."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jukebox_orch.contract import Features, InputError
from jukebox_orch.ml import training
from jukebox_orch.ml.artifacts import SourcedDataset, StoredFeatures
from jukebox_orch.ml.features import make_features
from jukebox_orch.ml.keras_runtime import predict
from jukebox_orch.ml.onnx_export import export
from jukebox_orch.ml.onnx_predictor import OnnxPredictor
from jukebox_orch.projects.image_processor import (
    ImageHyperparameters,
    ImageProcessor,
    ImageSource,
    ImageSplit,
)
from jukebox_orch_tests.support.image_files import cifar_members, random_images, write_tar

PROJECT = ImageProcessor()


def features_of(path: Path, seed: int = 0, **split: object) -> Features:
    dataset = PROJECT.load(ImageSource(location=str(path)))
    return PROJECT.build_features(dataset, ImageSplit(**split), seed)  # pyright: ignore[reportArgumentType]


def save(path: Path, images: np.ndarray, labels: np.ndarray, **arrays: Any) -> Path:
    np.savez(path, images=images, labels=labels, **arrays)
    return path


class TestSplits:
    def test_shares_apply_to_every_class(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.npz", random_images(400), np.repeat([0, 1], [300, 100]))
        features = features_of(path, validation_share=0.1, test_share=0.2)
        counts = {name: np.bincount(split.y).tolist() for name, split in features.splits.items()}
        assert counts == {"train": [210, 70], "validation": [30, 10], "test": [60, 20]}

    def test_pixels_and_labels_stay_together(self, tmp_path: Path) -> None:
        images, labels = random_images(100), np.arange(100) % 2
        by_pixels = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
        features = features_of(save(tmp_path / "a.npz", images, labels))
        for split in features.splits.values():
            assert [by_pixels[image.tobytes()] for image in split.x] == split.y.tolist()

    def test_equal_images_stay_in_one_split(self, tmp_path: Path) -> None:
        images = np.concatenate([random_images(30)] * 10)
        features = features_of(save(tmp_path / "a.npz", images, np.tile(np.arange(30) % 2, 10)))
        pixels = [{image.tobytes() for image in split.x} for split in features.splits.values()]
        assert sum(map(len, pixels)) == len(set.union(*pixels)) == 30
        keys = [set(split.keys) for split in features.splits.values()]
        assert sum(map(len, keys)) == len(set.union(*keys)) == 30

    def test_published_test_images_are_test_split(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "cifar.tar.gz", cifar_members(50))
        features = features_of(path)
        np.testing.assert_array_equal(features.test.x, random_images(50, seed=5))
        assert len(features.train) + len(features.validation) == 250

    @pytest.mark.parametrize(
        ("has_published_test", "published_test", "kind"),
        [
            (True, True, "published test images"),
            (True, False, "by share"),
            (False, True, "by share"),
            (False, False, "by share"),
        ],
    )
    def test_split_kind_says_where_test_images_come_from(
        self, has_published_test: bool, published_test: bool, kind: str, tmp_path: Path
    ) -> None:
        test = (np.arange(60) >= 40) & has_published_test
        path = save(tmp_path / "a.npz", random_images(60), np.arange(60) % 2, test=test)
        dataset = SourcedDataset(PROJECT.load(ImageSource(location=str(path))), origin=None)
        stored = make_features(PROJECT, dataset, "", ImageSplit(published_test=published_test), 0)
        assert stored.split_kind == kind
        assert (len(stored.features.test) == 20) == (kind == "published test images")

    def test_unusable_published_test_images_are_refused(self, tmp_path: Path) -> None:
        images = random_images(60)
        images[40:] = 7
        path = save(tmp_path / "a.npz", images, np.arange(60) % 2, test=np.arange(60) >= 40)
        with pytest.raises(
            InputError, match=r"published test images can be used.*split\.published_test: false"
        ):
            features_of(path)

    def test_training_copy_of_test_image_is_left_out(self, tmp_path: Path) -> None:
        images = random_images(60)
        images[2] = images[40]
        path = save(tmp_path / "a.npz", images, np.arange(60) % 2, test=np.arange(60) >= 40)
        features = features_of(path)
        assert len(features.test) == 20
        assert len(features.train) + len(features.validation) == 39

    def test_published_test_images_can_be_split_again(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "cifar.tar.gz", cifar_members(50))
        features = features_of(path, published_test=False, test_share=0.2)
        assert len(features.test) == 60

    def test_quarantined_images_are_in_no_split(self, tmp_path: Path) -> None:
        images = random_images(60)
        images[0] = 255
        images[10] = images[11]
        features = features_of(save(tmp_path / "a.npz", images, np.arange(60) % 2))
        assert sum(len(split) for split in features.splits.values()) == 57

    def test_images_with_unknown_labels_are_in_no_split(self, tmp_path: Path) -> None:
        labels = np.arange(60) % 2
        labels[:4] = [-1, 2, 99, 3]
        path = save(tmp_path / "a.npz", random_images(60), labels, classes=np.array(["a", "b"]))
        assert sum(len(split) for split in features_of(path).splits.values()) == 56

    def test_class_only_in_test_split_is_refused(self, tmp_path: Path) -> None:
        labels = np.repeat([0, 1], 20)
        path = save(tmp_path / "a.npz", random_images(40), labels, test=labels == 1)
        with pytest.raises(InputError, match="class '1' has no images except the published test images"):
            features_of(path)

    def test_seed_determines_split(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.npz", random_images(60), np.arange(60) % 2)
        digests = [StoredFeatures(features_of(path, seed), "", {}).digest for seed in (1, 1, 2)]
        assert digests[0] == digests[1] != digests[2]

    def test_features_are_raw_bytes_on_disk(self, tmp_path: Path) -> None:
        features = features_of(save(tmp_path / "a.npz", random_images(60), np.arange(60) % 2))
        assert features.train.x.dtype == np.uint8
        assert isinstance(features.train.x, np.memmap)
        assert features.normalization
        assert features.normalization.apply(np.array([0, 255])).tolist() == [0.0, 1.0]


def test_network_has_documented_layers() -> None:
    features = SimpleNamespace(shape=(32, 32, 3), labels=tuple("0123456789"))
    model = PROJECT.build_model(features, ImageHyperparameters())  # pyright: ignore[reportArgumentType]
    layers = [(type(layer).__name__, tuple(layer.output.shape[1:])) for layer in model.layers]
    assert layers == [
        ("Conv2D", (30, 30, 32)),
        ("MaxPooling2D", (15, 15, 32)),
        ("Conv2D", (13, 13, 64)),
        ("MaxPooling2D", (6, 6, 64)),
        ("Conv2D", (4, 4, 64)),
        ("Flatten", (1024,)),
        ("Dense", (64,)),
        ("Dense", (10,)),
    ]
    assert model.count_params() == 122_570


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("rmsprop", "RMSprop"), ("sgd", "SGD")])
def test_optimizer_follows_hyperparameters(name: str, kind: str) -> None:
    optimizer = PROJECT.optimizer(ImageHyperparameters(optimizer=name, learning_rate=0.25), 10)  # pyright: ignore
    assert type(optimizer).__name__ == kind
    assert float(optimizer.learning_rate) == 0.25


class TestAugmentation:
    @staticmethod
    def augmented(images: np.ndarray, kind: str, seed: tuple[int, int] = (1, 2)) -> np.ndarray:
        import tensorflow as tf

        hyperparameters = ImageHyperparameters(augmentation=kind)  # pyright: ignore
        return PROJECT.augment(tf.constant(images), hyperparameters, tf.constant(seed)).numpy()

    def test_augmentation_none_changes_nothing(self) -> None:
        images = random_images(8)
        np.testing.assert_array_equal(self.augmented(images, "none"), images)

    def test_shift_moves_each_image_differently(self) -> None:
        images = random_images(64)
        moved = self.augmented(images, "shift")
        assert (moved.shape, moved.dtype) == (images.shape, images.dtype)
        found = set()
        for image, result in zip(images, moved, strict=True):
            padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), "symmetric")
            found |= {
                (row, column)
                for row in range(7)
                for column in range(7)
                if (padded[row : row + 32, column : column + 32] == result).all()
            }
        assert len(found) > 20

    def test_flip_mirrors_some_images(self) -> None:
        image = np.zeros((32, 32, 3), np.uint8)
        image[:, :8] = 200
        results = self.augmented(np.stack([image] * 64), "shift_and_flip")
        mirrored = results[:, 16, -1, 0] == 200
        assert 10 < mirrored.sum() < 54

    def test_seed_determines_augmentation(self) -> None:
        images = random_images(16)
        same = [self.augmented(images, "shift_and_flip", seed) for seed in ((1, 2), (1, 2), (3, 4))]
        np.testing.assert_array_equal(same[0], same[1])
        assert (same[0] != same[2]).any()


@pytest.fixture(scope="module")
def trained() -> SimpleNamespace:
    """The embedded sample, trained with the defaults and exported."""
    project = ImageProcessor()
    features = project.build_features(project.load(ImageSource()), ImageSplit(), 0)
    started = time.process_time()
    model = training.train(
        project, StoredFeatures(features, "", {}), ImageHyperparameters(), 0, lambda line: None
    )
    cpu_seconds = time.process_time() - started
    prediction = predict(model.keras_model, features.arrays(features.test))
    onnx = export(project, model, features)
    return SimpleNamespace(
        features=features, model=model, prediction=prediction, onnx=onnx, cpu_seconds=cpu_seconds
    )


class TestTrained:
    def test_defaults_reach_95_percent_on_digits(self, trained: SimpleNamespace) -> None:
        accuracy = PROJECT.task.score(trained.features.test, trained.prediction)["accuracy"]
        assert accuracy >= 0.95
        # One minute on two cores; wall time would also measure other load of the machine.
        assert trained.cpu_seconds <= 2 * 60

    def test_onnx_takes_uint8_images_and_equals_keras(self, trained: SimpleNamespace) -> None:
        report = trained.onnx.report
        assert report.inputs == {"image": ["tensor(uint8)", "batch", 32, 32, 3]}
        assert report.outputs == {"probabilities": ["tensor(float)", "batch", 10]}
        assert report.max_abs_difference <= PROJECT.parity_tolerance == 1e-4
        assert report.agreement == 1.0
        assert not report.checker_error

    def test_exported_model_has_no_augmentation(self, trained: SimpleNamespace) -> None:
        predictor = OnnxPredictor(trained.onnx.content)
        raw = trained.features.raw(trained.features.test, slice(64))
        first, second = (predictor.predict(raw) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_mistakes_are_sorted_by_confidence(self, trained: SimpleNamespace) -> None:
        prediction = trained.prediction.copy()
        wrong = (trained.features.test.y[:30] + 1) % 10
        prediction[:30] = 0
        prediction[np.arange(30), wrong] = np.linspace(0.5, 1, 30)
        (figure,) = PROJECT.figures(trained.features, prediction).values()
        titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
        assert len(titles) == 24
        true, predicted = (
            trained.features.labels[trained.features.test.y[29]],
            trained.features.labels[wrong[29]],
        )
        assert titles[0] == f"{true}, predicted {predicted}\n(100% confidence)"
        np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), trained.features.test.x[29])

    def test_perfect_predictions_give_no_figure(self, trained: SimpleNamespace) -> None:
        perfect = np.eye(10)[trained.features.test.y]
        assert PROJECT.figures(trained.features, perfect) == {}


def test_augmented_training_is_reproducible(tmp_path: Path) -> None:
    features = features_of(save(tmp_path / "a.npz", random_images(80), np.arange(80) % 2))
    hyperparameters = ImageHyperparameters(epochs=2, augmentation="shift_and_flip", batch_size=16)
    weights = [
        training.train(
            PROJECT, StoredFeatures(features, "", {}), hyperparameters, 3, lambda line: None
        ).keras_model.get_weights()
        for _ in range(2)
    ]
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_training_from_disk_gives_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_of(save(tmp_path / "a.npz", random_images(100), np.arange(100) % 2))
    models = []
    for limit in (1 << 30, 0):
        monkeypatch.setattr(training, "_IN_MEMORY_BYTES", limit)
        hyperparameters = ImageHyperparameters(epochs=2, augmentation="shift", batch_size=16)
        models.append(
            training.train(PROJECT, StoredFeatures(features, "", {}), hyperparameters, 3, lambda line: None)
        )
    for in_memory, streamed in zip(*(model.keras_model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(in_memory, streamed)
    assert models[0].report.validation == models[1].report.validation
