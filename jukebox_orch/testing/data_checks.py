"""What `jukebox_orch.testing.suite` examines: each function raises an AssertionError that says what to change."""

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
from jukebox_orch.ml.artifacts import StoredFeatures, TrainedModel

HEAVY = (
    "tensorflow", "keras", "mlflow", "onnx", "onnxruntime", "tf2onnx", "sklearn", "scipy", "matplotlib",
    "torch", "PIL", "kubernetes", "kfp", "dagster",
)  # fmt: skip
_PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
_PICKLING = {"read_pickle", "to_pickle"}


@dataclass(frozen=True)
class Trained:
    """A model after two epochs, with its outputs on the test split."""

    project: ModelProject
    features: Features
    trained_model: TrainedModel

    @property
    def model(self) -> Any:
        """The Keras network."""
        return self.trained_model.keras_model

    @property
    def history(self) -> Mapping[str, list[float]]:
        """Loss and metrics per epoch."""
        return self.trained_model.report.history

    @property
    def weights(self) -> list[np.ndarray]:
        """The network's weights."""
        return self.model.get_weights()

    @cached_property
    def prediction(self) -> np.ndarray:
        """Outputs (n, outputs) on the test split."""
        from jukebox_orch.ml.keras_runtime import predict

        return predict(self.model, self.features.test.x)


def train(project: ModelProject, features: Features, seed: int) -> Trained:
    """Train for two epochs."""
    from jukebox_orch.ml import training

    short = project.hyperparameters().model_copy(update={"epochs": 2, "early_stopping_patience": 0})
    trained = training.train(project, StoredFeatures(features, "", {}), short, seed, lambda line: None)
    return Trained(project, features, trained)


def heavy_imports(project: type[ModelProject]) -> list[str]:
    """Frameworks that importing the project's module brings along, in a process of its own."""
    module = project.__module__
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    assert done.returncode == 0, f"importing {module} in a fresh process fails:\n{done.stderr}"
    return done.stdout.split()


def pickling(project: type[ModelProject]) -> list[str]:
    """Places in the project's sources that read or write pickles."""
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
    """Defaults are valid, described, and of types that a form can show."""
    from jukebox_orch.assets.run_config import config_schema, run_settings

    for settings in (project.source, project.split, project.hyperparameters, project.gates):
        silent = [name for name, info in settings.model_fields.items() if not info.description]
        assert not silent, f"{settings.__name__}.{', '.join(silent)}: Field(description=…) is missing"
        settings.model_validate(settings().model_dump())
    config_schema(run_settings(project, project.name, {}))


def check_dataset(project: ModelProject, dataset: Dataset) -> None:
    """A dict of filled tables and arrays, with the declared names and columns."""
    assert isinstance(dataset, dict), f"load() returns {type(dataset).__name__}, not a dict of tables"
    for name, value in dataset.items():
        assert isinstance(value, pd.DataFrame | np.ndarray), f"{name!r} is {type(value).__name__}"
        assert len(value), f"{name!r} is empty"
        if isinstance(value, np.ndarray):
            assert value.dtype != object, f"array {name!r} holds Python objects"
    assert set(dataset) == set(project.tables), (
        f"load() returns {sorted(dataset)}, tables declares {sorted(project.tables)}"
    )
    for name, columns in project.tables.items():
        table = dataset[name]
        if isinstance(table, pd.DataFrame):
            missing = [column for column in columns if column not in table]
            assert not missing, f"table {name!r} lacks the declared columns {missing}"


def check_storage(dataset: Dataset, folder: Path) -> None:
    """Written and read back, the dataset has the same digest."""
    from jukebox_orch.ml.formats import format_of

    stored = format_of(dataset)
    stored.write(dataset, folder)
    assert stored.digest(stored.read(folder)) == digest(dataset), (
        "the dataset is another after Parquet and .npy: use plain column types"
    )


def check_validation(project: ModelProject, dataset: Dataset) -> None:
    """The embedded data passes, and findings belong to declared rules."""
    result = project.validate(dataset)
    assert 0 <= result.invalid_rows <= result.rows > 0, f"{result.invalid_rows} of {result.rows} rows invalid"
    undeclared = {finding.rule for finding in result.findings} - set(project.rules)
    assert not undeclared, f"findings of rules that `rules` does not declare: {sorted(undeclared)}"
    fatal = [finding.message for finding in result.findings if finding.fatal]
    assert not fatal, f"the default data is refused: {fatal}"
    assert result.invalid_rows / result.rows <= project.gates().max_invalid_share, "too many invalid rows"


def check_bad_data(project: ModelProject, dataset: Dataset, seed: int) -> None:
    """Every damage ends in a finding, in an InputError or in finite features."""
    for what, bad in _damaged_datasets(project, dataset):
        try:
            result = project.validate(bad)
        except Exception as error:
            raise AssertionError(f"{what}: validate() raises {type(error).__name__}: {error}") from error
        undeclared = {finding.rule for finding in result.findings} - set(project.rules)
        assert not undeclared, f"{what}: findings of undeclared rules {sorted(undeclared)}"
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
            # Features are made beside validation: a traceback would hide what validation says.
            raise AssertionError(
                f"{what}: build_features() raises {type(error).__name__}: {error}; drop such rows, "
                "or raise an InputError that says what is wrong"
            ) from error
        for part_name, part in features.splits.items():
            finite = np.isfinite(part.x).all() and np.isfinite(part.y).all()
            assert finite or refused, f"{what}: accepted, and features.{part_name} has NaN or infinity"


def digest(dataset: Dataset) -> str:
    """Digest of all values."""
    from jukebox_orch.ml.formats import format_of

    return format_of(dataset).digest(dataset)


def digest_of(features: Features) -> str:
    """Digest of all values."""
    from jukebox_orch.ml.artifacts import StoredFeatures

    return StoredFeatures(features, "", {}).digest


def _damaged_datasets(project: ModelProject, dataset: Dataset) -> Iterator[tuple[str, Dataset]]:
    """The dataset with one thing wrong at a time."""
    yield "empty tables", {name: value[:0] for name, value in dataset.items()}
    for name, columns in project.tables.items():
        table = dataset[name]
        if isinstance(table, pd.DataFrame):
            for column in columns:
                what, changed = _damaged(table[column])
                yield (
                    f"every third {name}.{column} {what}",
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
    """Source files of the project's package, or its single module."""
    own = Path(inspect.getfile(project))
    return sorted(own.parent.rglob("*.py")) if own.name == "__init__.py" else [own]


def _environment() -> dict[str, str]:
    """This process' environment with its import path, which pytest may have extended."""
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
