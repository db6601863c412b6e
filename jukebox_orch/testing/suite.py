"""The suite that the author of a model project runs on it; it says what a project must keep to.

Either on an installed project:

    pytest --pyargs jukebox_orch.testing.suite --project acme_iris

or as a part of the project's own tests:

    class TestAcmeIris(ProjectContract):
        project_class = AcmeIris

Everything runs on the project's default source, without network, and trains for two epochs.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from jukebox_orch.contract import Dataset, Features, InputError, ModelProject, Normalization, SourceFile
from jukebox_orch.plugins import check_project, discover
from jukebox_orch.testing import data_checks as examination
from jukebox_orch.testing import model_checks as model_examination
from jukebox_orch.testing.data_checks import Trained

SEED = 3


class ProjectContract:
    """What every project keeps to. Subclass it and set `project_class`."""

    project_class: ClassVar[type[ModelProject] | None] = None

    @pytest.fixture(scope="class")
    @classmethod
    def project(cls, request: pytest.FixtureRequest) -> ModelProject:
        """The project under test."""
        if cls.project_class is not None:
            return check_project(cls.project_class, cls.project_class.__module__)
        name = request.config.getoption("--project")
        if not name:
            pytest.skip("name an installed project with --project NAME, or subclass ProjectContract")
        found = discover()
        if name not in found.projects:
            problems = [f"\n{problem}" for problem in found.problems.values()]
            pytest.fail(f"no project {name!r}; installed: {', '.join(found.projects)}{''.join(problems)}")
        return found.projects[name]

    @pytest.fixture(scope="class")
    @classmethod
    def dataset(cls, project: ModelProject) -> Dataset:
        return project.load(project.source())

    @pytest.fixture(scope="class")
    @classmethod
    def features(cls, project: ModelProject, dataset: Dataset) -> Features:
        return project.build_features(dataset, project.split(), SEED)

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, project: ModelProject, features: Features) -> Trained:
        return examination.train(project, features, SEED)

    # The package

    def test_importing_the_project_is_light(self, project: ModelProject) -> None:
        """It is imported wherever the graph is shown: frameworks load inside the methods that need them."""
        heavy = examination.heavy_imports(type(project))
        assert not heavy, f"importing {type(project).__module__} imports {heavy}: import inside the methods"

    def test_nothing_is_pickled(self, project: ModelProject) -> None:
        """Reading a pickle runs code from the file."""
        found = examination.pickling(type(project))
        assert not found, f"pickle is used: {found}"

    def test_settings_make_a_form(self, project: ModelProject) -> None:
        """Every setting has a default, a description and a type that a launchpad form can show."""
        examination.check_settings(project)

    # The source

    def test_the_default_source_needs_no_network(
        self, project: ModelProject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            pytest.fail("load() of the default source opens a network connection: embed a sample")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        project.load(project.source())

    def test_the_dataset_is_what_tables_promises(self, project: ModelProject, dataset: Dataset) -> None:
        examination.check_dataset(project, dataset)

    def test_loading_twice_gives_the_same_data(self, project: ModelProject, dataset: Dataset) -> None:
        again = project.load(project.source())
        assert examination.digest(again) == examination.digest(dataset), "load() gives other data each time"

    def test_the_dataset_survives_storage(self, dataset: Dataset, tmp_path: Path) -> None:
        """Tables become Parquet and arrays .npy, without pickle; what comes back must be the same."""
        examination.check_storage(dataset, tmp_path)

    def test_a_missing_source_is_refused(self, project: ModelProject, tmp_path: Path) -> None:
        missing = tmp_path / "nothing-here.csv"
        with pytest.raises(InputError, match=r"nothing-here"):
            project.load(project.source(location=str(missing)))

    def test_a_file_with_another_digest_is_refused(self, project: ModelProject, tmp_path: Path) -> None:
        path = tmp_path / "changed-file.csv"
        path.write_text("a,b\n1,2\n")
        with pytest.raises(InputError, match=r"changed-file"):
            project.load(project.source(files=[SourceFile(url=str(path), sha256="0" * 64)]))

    def test_garbage_is_refused(self, project: ModelProject, tmp_path: Path) -> None:
        for name in ("garbage.csv", "garbage.parquet"):
            path = tmp_path / name
            path.write_bytes(bytes(range(256)) * 20)
            with pytest.raises(InputError, match=r"garbage"):
                project.load(project.source(location=str(path)))

    # Validation

    def test_the_default_data_is_valid(self, project: ModelProject, dataset: Dataset) -> None:
        examination.check_validation(project, dataset)

    def test_validation_alters_nothing_and_repeats(self, project: ModelProject, dataset: Dataset) -> None:
        before = examination.digest(dataset)
        first, second = project.validate(dataset), project.validate(dataset)
        assert examination.digest(dataset) == before, "validate() alters the dataset"
        assert first == second, "validate() finds something else the second time"

    def test_bad_data_is_refused_in_words(self, project: ModelProject, dataset: Dataset) -> None:
        """Missing numbers, unknown texts, empty tables: a finding or an InputError, never NaN in the features."""
        examination.check_bad_data(project, dataset, SEED)

    # Features

    def test_features_have_the_right_form(self, project: ModelProject, features: Features) -> None:
        model_examination.check_features(project, features)

    def test_splits_do_not_overlap(self, features: Features) -> None:
        model_examination.check_overlap(features)

    def test_constants_are_those_of_the_training_split(self, features: Features) -> None:
        if features.normalization.kind == "unit":
            return
        fitted = Normalization.standard(features.train.x)
        assert np.allclose(features.normalization.offset, fitted.offset, rtol=1e-6, atol=1e-9), (
            "normalization.offset is not the mean of the training split: use Normalization.standard(train)"
        )
        assert np.allclose(features.normalization.scale, fitted.scale, rtol=1e-6), (
            "normalization.scale is not the deviation of the training split: use Normalization.standard(train)"
        )

    def test_features_repeat_with_their_seed(
        self, project: ModelProject, dataset: Dataset, features: Features
    ) -> None:
        before = examination.digest(dataset)
        again = project.build_features(dataset, project.split(), SEED)
        assert examination.digest(dataset) == before, "build_features() alters the dataset"
        assert examination.digest_of(again) == examination.digest_of(features), (
            "build_features() gives other features for the same seed"
        )

    def test_the_metric_floor_can_be_reached(self, project: ModelProject, features: Features) -> None:
        model_examination.check_floor(project, features)

    def test_baselines_answer_the_test_split(self, project: ModelProject, features: Features) -> None:
        model_examination.check_baselines(project, features)

    def test_monitored_columns_are_numbers(self, project: ModelProject, dataset: Dataset) -> None:
        table = project.drift_table(dataset)
        wrong = [str(name) for name, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        assert not wrong, f"drift_table() has columns that are no numbers: {wrong}"

    # The model

    def test_training_repeats_with_its_seed(
        self, project: ModelProject, features: Features, trained: Trained
    ) -> None:
        again = examination.train(project, features, SEED)
        for first, second in zip(trained.weights, again.weights, strict=True):
            assert np.array_equal(first, second), (
                "the same seed gives another model: draw from the given seed"
            )

    def test_augmentation_keeps_form_and_repeats(self, project: ModelProject, features: Features) -> None:
        model_examination.check_augmentation(project, features)

    def test_predictions_have_the_right_form(self, project: ModelProject, trained: Trained) -> None:
        model_examination.check_prediction(project, trained)

    def test_the_model_survives_storage(self, trained: Trained, tmp_path: Path) -> None:
        """A `.keras` file in safe mode: no Lambda layers, no classes of the project's own."""
        model_examination.check_model_storage(trained, tmp_path)

    def test_onnx_says_what_keras_says(self, project: ModelProject, trained: Trained) -> None:
        model_examination.check_onnx(project, trained)

    def test_figures_are_figures(self, project: ModelProject, trained: Trained) -> None:
        from matplotlib.figure import Figure

        for name, figure in project.figures(trained.features, trained.prediction).items():
            assert isinstance(figure, Figure), f"figures() gives {type(figure).__name__} for {name!r}"


class TestProject(ProjectContract):
    """The installed project that `--project` names."""
