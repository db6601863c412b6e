"""The test suite of the contract for authors of model projects.

Run it on an installed project:

    pytest --pyargs jukebox_orch.testing.suite --project acme_iris

or as part of the project's tests:

    class TestAcmeIris(ProjectContract):
        project_class = AcmeIris

It uses the project's default source, without network, and trains for two epochs.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from jukebox_orch.contract import (
    Categories,
    Dataset,
    Features,
    InputError,
    ModelProject,
    Normalization,
    SourceFile,
)
from jukebox_orch.ml import project_calls
from jukebox_orch.plugins import check_project, discover
from jukebox_orch.testing import data_checks, model_checks
from jukebox_orch.testing.data_checks import Trained

SEED = 3


class ProjectContract:
    """Tests that every project must pass. Subclass it and set `project_class`."""

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
        return data_checks.train(project, features, SEED)

    # The package

    def test_project_import_loads_no_framework(self, project: ModelProject) -> None:
        """Every process that shows the graph imports the project, so frameworks are imported inside the methods."""
        heavy = data_checks.heavy_imports(type(project))
        assert not heavy, f"importing {type(project).__module__} imports {heavy}: import inside the methods"

    def test_sources_use_no_pickle(self, project: ModelProject) -> None:
        """Reading a pickle runs code from the file."""
        found = data_checks.pickle_uses(type(project))
        assert not found, f"pickle is used: {found}"

    def test_settings_are_valid_run_config(self, project: ModelProject) -> None:
        """Every setting has a default, a description and a type that the launchpad can show."""
        data_checks.check_settings(project)

    # The source

    def test_default_source_needs_no_network(
        self, project: ModelProject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            pytest.fail("load() of the default source opens a network connection: embed a sample")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        project.load(project.source())

    def test_dataset_matches_declared_tables(self, project: ModelProject, dataset: Dataset) -> None:
        data_checks.check_dataset(project, dataset)

    def test_loading_twice_gives_same_data(self, project: ModelProject, dataset: Dataset) -> None:
        again = project.load(project.source())
        assert data_checks.dataset_digest(again) == data_checks.dataset_digest(dataset), (
            "load() returns different data each time"
        )

    def test_dataset_survives_storage(self, dataset: Dataset, tmp_path: Path) -> None:
        """Tables are stored as Parquet and arrays as .npy, without pickle; reading them must give the same values."""
        data_checks.check_storage(dataset, tmp_path)

    def test_missing_source_is_refused(self, project: ModelProject, tmp_path: Path) -> None:
        missing = tmp_path / "nothing-here.csv"
        with pytest.raises(InputError, match=r"nothing-here"):
            project.load(project.source(location=str(missing)))

    def test_changed_file_is_refused(self, project: ModelProject, tmp_path: Path) -> None:
        path = tmp_path / "changed-file.csv"
        path.write_text("a,b\n1,2\n")
        with pytest.raises(InputError, match=r"changed-file"):
            project.load(project.source(files=[SourceFile(url=str(path), sha256="0" * 64)]))

    def test_garbage_file_is_refused(self, project: ModelProject, tmp_path: Path) -> None:
        for name in ("garbage.csv", "garbage.parquet"):
            path = tmp_path / name
            path.write_bytes(bytes(range(256)) * 20)
            with pytest.raises(InputError, match=r"garbage"):
                project.load(project.source(location=str(path)))

    # Validation

    def test_default_data_is_valid(self, project: ModelProject, dataset: Dataset) -> None:
        data_checks.check_validation(project, dataset)

    def test_validation_is_deterministic_and_alters_nothing(
        self, project: ModelProject, dataset: Dataset
    ) -> None:
        before = data_checks.dataset_digest(dataset)
        first, second = project.validate(dataset), project.validate(dataset)
        assert data_checks.dataset_digest(dataset) == before, "validate() alters the dataset"
        assert first == second, "validate() returns a different result the second time"

    def test_bad_data_gives_finding_or_input_error(self, project: ModelProject, dataset: Dataset) -> None:
        """Missing numbers, unknown texts or empty tables give a finding or an InputError, never NaN in features."""
        data_checks.check_bad_data(project, dataset, SEED)

    # Features

    def test_features_have_valid_shapes_and_types(self, project: ModelProject, features: Features) -> None:
        model_checks.check_features(project, features)

    def test_splits_do_not_overlap(self, features: Features) -> None:
        model_checks.check_overlap(features)

    def test_normalization_is_fitted_on_training_split(self, features: Features) -> None:
        for block in features.blocks:
            if isinstance(block, Categories):
                never = block.never_in(features.arrays(features.train)[block.name])
                assert not never, (
                    f"{block.name} knows values that the training split does not have: {never[:5]}"
                )
            constants = getattr(block, "normalization", None)
            if not constants or constants.kind == "unit":
                continue
            fitted = Normalization.standard(features.arrays(features.train)[block.name], constants.axis)
            assert np.allclose(constants.offset, fitted.offset, rtol=1e-6, atol=1e-9), (
                "normalization.offset is not the mean of the training split: use Normalization.standard(train)"
            )
            assert np.allclose(constants.scale, fitted.scale, rtol=1e-6), (
                "normalization.scale is not the deviation of the training split: use Normalization.standard(train)"
            )

    def test_same_seed_gives_same_features(
        self, project: ModelProject, dataset: Dataset, features: Features
    ) -> None:
        before = data_checks.dataset_digest(dataset)
        again = project.build_features(dataset, project.split(), SEED)
        assert data_checks.dataset_digest(dataset) == before, "build_features() alters the dataset"
        assert data_checks.features_digest(again) == data_checks.features_digest(features), (
            "build_features() returns different features for the same seed"
        )

    def test_metric_floor_is_reachable(self, project: ModelProject, features: Features) -> None:
        model_checks.check_floor(project, features)

    def test_baselines_predict_test_split(self, project: ModelProject, features: Features) -> None:
        model_checks.check_baselines(project, features)

    def test_drift_columns_are_numeric(self, project: ModelProject, dataset: Dataset) -> None:
        project_calls.drift_table(project, dataset)

    # The model

    def test_same_seed_gives_same_weights(
        self, project: ModelProject, features: Features, trained: Trained
    ) -> None:
        again = data_checks.train(project, features, SEED)
        for first, second in zip(trained.weights, again.weights, strict=True):
            assert np.array_equal(first, second), (
                "the same seed gives different weights: use the given seed for all random numbers"
            )

    def test_augmentation_keeps_shape_and_follows_seed(
        self, project: ModelProject, features: Features
    ) -> None:
        model_checks.check_augmentation(project, features)

    def test_predictions_have_valid_shape_and_values(self, project: ModelProject, trained: Trained) -> None:
        model_checks.check_prediction(project, trained)

    def test_model_survives_storage(self, trained: Trained, tmp_path: Path) -> None:
        """The `.keras` file loads in safe mode: no Lambda layers, no custom classes."""
        model_checks.check_model_storage(trained, tmp_path)

    def test_onnx_output_equals_keras(self, project: ModelProject, trained: Trained) -> None:
        model_checks.check_onnx(project, trained)

    def test_figures_are_matplotlib_figures(self, project: ModelProject, trained: Trained) -> None:
        project_calls.figures(project, trained.features, trained.prediction)


class TestProject(ProjectContract):
    """Tests the installed project that `--project` names."""
