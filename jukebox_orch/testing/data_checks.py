"""Checks of `jukebox_orch.testing.suite` on code and data. A failed check raises an AssertionError with the reason."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jukebox_orch.contract import Dataset, Features, InputError, ModelProject
from jukebox_orch.ml import project_calls
from jukebox_orch.ml.artifacts import StoredFeatures, TrainedModel
from jukebox_orch.ml.door import dataset_problems

HEAVY = (
    "tensorflow", "keras", "mlflow", "onnx", "onnxruntime", "tf2onnx", "sklearn", "scipy", "matplotlib",
    "torch", "PIL", "kubernetes", "kfp", "dagster",
)  # fmt: skip
_PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
_PICKLING = {"read_pickle", "to_pickle"}


@dataclass(frozen=True)
class Trained:
    """A model after two epochs of training, with its outputs on the test split."""

    project: ModelProject
    features: Features
    trained_model: TrainedModel

    @property
    def model(self) -> Any:
        """The Keras model."""
        return self.trained_model.keras_model

    @property
    def history(self) -> Mapping[str, list[float]]:
        """Loss and metrics per epoch."""
        return self.trained_model.report.history

    @property
    def weights(self) -> list[np.ndarray]:
        """The weights of the Keras model."""
        return self.model.get_weights()

    @cached_property
    def prediction(self) -> np.ndarray:
        """Outputs (n, outputs) on the test split."""
        from jukebox_orch.ml.keras_runtime import predict

        return predict(self.model, self.features.arrays(self.features.test))


def train(project: ModelProject, features: Features, seed: int) -> Trained:
    """Train the project's model for two epochs."""
    from jukebox_orch.ml import training

    short = project.hyperparameters().model_copy(update={"epochs": 2, "early_stopping_patience": 0})
    trained = training.train(project, StoredFeatures(features, "", {}), short, seed, lambda line: None)
    return Trained(project, features, trained)


def heavy_imports(project: type[ModelProject]) -> list[str]:
    """Import the project's module in a new process; return the frameworks that it imports."""
    module = project.__module__
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    assert done.returncode == 0, f"importing {module} in a new process fails:\n{done.stderr}"
    return done.stdout.split()


def pickle_uses(project: type[ModelProject]) -> list[str]:
    """Return the places in the project's sources that read or write pickles."""
    found = []
    for path in _sources(project):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            used = _PICKLERS.intersection(names)
            if isinstance(node, ast.Attribute):
                used |= _PICKLING & {node.attr}
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                used |= set() if getattr(node.value, "value", True) is False else {"allow_pickle"}
            found += [f"{path.name}:{getattr(node, 'lineno', 0)}: {name}" for name in sorted(used)]
    return found


def check_settings(project: ModelProject) -> None:
    """Check that all settings have valid defaults, descriptions and types that the launchpad can show."""
    from jukebox_orch.assets.run_config import config_schema, run_settings

    for settings in (project.source, project.split, project.hyperparameters, project.gates):
        undescribed = [name for name, info in settings.model_fields.items() if not info.description]
        assert not undescribed, (
            f"{settings.__name__}.{', '.join(undescribed)}: Field(description=…) is missing"
        )
        settings.model_validate(settings().model_dump())
    config_schema(run_settings(project, project.name, {}))


def check_dataset(project: ModelProject, dataset: Dataset) -> None:
    """Check that the dataset is a dict of non-empty tables and arrays with the declared names and columns."""
    problems = dataset_problems(project, dataset)
    assert not problems, "; ".join(problems)
    for name, value in dataset.items():
        assert len(value), f"load()[{name!r}] has no rows"
    assert set(dataset) == set(project.tables), (
        f"load() returns {sorted(dataset)}, tables declares {sorted(project.tables)}"
    )
    for name, columns in project.tables.items():
        table = dataset[name]
        if isinstance(table, pd.DataFrame):
            missing = [column for column in columns if column not in table]
            assert not missing, f"table {name!r} lacks the declared columns {missing}"


def check_storage(dataset: Dataset, folder: Path) -> None:
    """Check that the dataset has the same digest after it was written and read."""
    from jukebox_orch.ml.artifact_formats import format_of
    from jukebox_orch.ml.artifacts import SourcedDataset

    value = SourcedDataset(dataset, origin=None)
    dataset_format = format_of(value)
    dataset_format.write(value, folder)
    assert dataset_format.digest(dataset_format.read(folder, {})) == dataset_digest(dataset), (
        "the dataset changes when it is stored as Parquet and .npy: use plain column types"
    )


def check_validation(project: ModelProject, dataset: Dataset) -> None:
    """Check that the default data passes validation, and that every finding belongs to a declared rule."""
    result = project_calls.validate(project, dataset)
    assert 0 <= result.invalid_rows <= result.rows > 0, f"{result.invalid_rows} of {result.rows} rows invalid"
    fatal = [finding.message for finding in result.findings if finding.fatal]
    assert not fatal, f"the default data is refused: {fatal}"
    assert result.invalid_rows / result.rows <= project.gates().max_invalid_share, "too many invalid rows"


def check_bad_data(project: ModelProject, dataset: Dataset, seed: int) -> None:
    """Check that every kind of bad data gives a finding, an InputError or finite features."""
    for damage, bad in _damaged_datasets(project, dataset):
        try:
            result = project.validate(bad)
        except Exception as error:
            raise AssertionError(f"{damage}: validate() raises {type(error).__name__}: {error}") from error
        undeclared = {finding.rule for finding in result.findings} - set(project.rules)
        assert not undeclared, f"{damage}: findings of undeclared rules {sorted(undeclared)}"
        refused = (
            any(finding.fatal for finding in result.findings)
            or not result.rows
            or result.invalid_rows / result.rows > project.gates().max_invalid_share
        )
        try:
            features = project.build_features(bad, project.split(), seed)
        except InputError:
            continue
        except Exception as error:
            # Features are built in parallel with validation: a traceback would hide the findings.
            raise AssertionError(
                f"{damage}: build_features() raises {type(error).__name__}: {error}; drop such rows, "
                "or raise an InputError that names the problem"
            ) from error
        for name, split in features.splits.items():
            arrays = (*features.arrays(split).values(), split.y)
            finite = all(np.isfinite(array).all() for array in arrays)
            assert finite or refused, f"{damage}: accepted, and features.{name} has NaN or infinity"


def dataset_digest(dataset: Dataset) -> str:
    """Return the digest of all values of the dataset."""
    from jukebox_orch.ml.artifact_formats import format_of
    from jukebox_orch.ml.artifacts import SourcedDataset

    value = SourcedDataset(dataset, origin=None)
    return format_of(value).digest(value)


def features_digest(features: Features) -> str:
    """Return the digest of all values of the features."""
    from jukebox_orch.ml.artifacts import StoredFeatures

    return StoredFeatures(features, "", {}).digest


def _damaged_datasets(project: ModelProject, dataset: Dataset) -> Iterator[tuple[str, Dataset]]:
    """Yield a description and a copy of the dataset with one kind of damage at a time."""
    yield "empty tables", {name: value[:0] for name, value in dataset.items()}
    for name, columns in project.tables.items():
        table = dataset[name]
        if isinstance(table, pd.DataFrame):
            for column in columns:
                damage, changed = _damaged(table[column])
                yield (
                    f"every third {name}.{column} {damage}",
                    {**dataset, name: table.assign(**{column: changed})},
                )


def _damaged(values: pd.Series) -> tuple[str, pd.Series]:
    third = np.arange(len(values)) % 3 == 0
    if pd.api.types.is_numeric_dtype(values):
        return "missing", values.astype(np.float64).mask(third)
    if pd.api.types.is_datetime64_any_dtype(values):
        return "missing", values.mask(third)
    return "unknown", values.astype("str").mask(third, "???")


def _sources(project: type[ModelProject]) -> list[Path]:
    """Return the source files of the project's package, or its single module."""
    file = Path(inspect.getfile(project))
    return sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]


def _environment() -> dict[str, str]:
    """Return the environment with this process' import path, which pytest may have extended."""
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
