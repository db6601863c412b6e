"""Calls the methods of a project and judges what they return: the steps and the authors' suite call no method directly.

An error in a project's code is an `InputError` that names project, method, error and line: a retry would not help. Only
what a retry may cure passes: errors of the operating system, servers and memory.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jukebox_orch.contract import Dataset, Features, Finding, InputError, ModelProject, Validation
from jukebox_orch.ml.door import dataset_problems, features_problems, refuse

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

# TensorFlow's errors of memory and of devices have no common base with Python's.
_SHORTAGES = frozenset({"ResourceExhaustedError", "UnavailableError", "AbortedError"})
# Errors of other packages in `load` may be those of a server, which a retry may cure.
_OWN_ERRORS = frozenset({"builtins", "numpy", "pandas", "pyarrow", "keras", "tensorflow"})


def load(project: ModelProject, source: Any) -> Dataset:
    """Return the project's dataset.

    Raises:
        InputError: the source or what `load` returns is not usable.
    """
    with project_code(project, "load()"):
        dataset = project.load(source)
    refuse("load()", project, dataset_problems(project, dataset))
    # What is stored has no index; so no step sees one.
    return {
        name: data.reset_index(drop=True) if isinstance(data, pd.DataFrame) else data
        for name, data in dataset.items()
    }


def validate(project: ModelProject, dataset: Dataset) -> Validation:
    """Return the result of the project's validation."""
    with project_code(project, "validate()"):
        found = project.validate(dataset)
    refuse("validate()", project, list(_validation_problems(project, found)))
    return found


def build_features(project: ModelProject, dataset: Dataset, split: Any, seed: int) -> Features:
    """Return the project's features."""
    with project_code(project, "build_features()"):
        features = project.build_features(dataset, split, seed)
    refuse("build_features()", project, features_problems(project, features))
    return features


def split_kind(project: ModelProject, dataset: Dataset, split: Any) -> str:
    """Return how the test split is chosen."""
    with project_code(project, "split_kind()"):
        kind = project.split_kind(dataset, split)
    if not isinstance(kind, str) or not kind.strip():
        refuse("split_kind()", project, [f"returned {kind!r}: return a text, such as 'by share'"])
    return kind


def drift_table(project: ModelProject, dataset: Dataset) -> pd.DataFrame:
    """Return the columns that are monitored for drift."""
    with project_code(project, "drift_table()"):
        table = project.drift_table(dataset)
    if not isinstance(table, pd.DataFrame):
        refuse("drift_table()", project, [f"returned {type(table).__name__}: return a DataFrame"])
    wrong = [str(name) for name, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    if wrong:
        refuse("drift_table()", project, [f"columns {', '.join(wrong)} are not numeric: leave them out"])
    return table


def build_model(project: ModelProject, features: Features, hyperparameters: Any) -> Any:
    """Return what `build_model` returns; `network.serving_model` judges it."""
    with project_code(project, "build_model()"):
        return project.build_model(features, hyperparameters)


def custom_objects(project: ModelProject) -> dict[str, Any]:
    """Return the project's own Keras classes by name."""
    with project_code(project, "custom_objects()"):
        found = project.custom_objects()
    if not isinstance(found, Mapping):
        refuse(
            "custom_objects()", project, [f"returned {type(found).__name__}: return a dict of name -> class"]
        )
    refuse(
        "custom_objects()",
        project,
        [
            f"{name!r}: {value!r}: use name -> class or function"
            for name, value in found.items()
            if not isinstance(name, str) or not callable(value)
        ],
    )
    return dict(found)


def optimizer(project: ModelProject, hyperparameters: Any, steps: int) -> keras.optimizers.Optimizer:
    """Return the optimizer of a fit with this number of steps."""
    import keras

    with project_code(project, "optimizer()"):
        found = project.optimizer(hyperparameters, steps)
    if not isinstance(found, keras.optimizers.Optimizer):
        refuse(
            "optimizer()",
            project,
            [f"returned {_shown(found)}: return an optimizer, such as keras.optimizers.Adam()"],
        )
    return found


def callbacks(project: ModelProject, hyperparameters: Any) -> list[keras.callbacks.Callback]:
    """Return the project's own callbacks for a fit."""
    import keras

    with project_code(project, "callbacks()"):
        found = project.callbacks(hyperparameters)
    if not isinstance(found, list | tuple):
        refuse("callbacks()", project, [f"returned {_shown(found)}: return a list of callbacks"])
    refuse(
        "callbacks()",
        project,
        [
            f"{_shown(c)} is not a keras.callbacks.Callback"
            for c in found
            if not isinstance(c, keras.callbacks.Callback)
        ],
    )
    return list(found)


def loss(project: ModelProject, features: Features, hyperparameters: Any, prediction: np.ndarray) -> Any:
    """Return the project's loss, tried on the predictions of the first training entries.

    Args:
        prediction: (k, outputs) float32, of the first k entries of the training split.

    Raises:
        InputError: it is not a loss, cannot be computed, or has one value for all entries, so weights would have no
            effect.
    """
    import keras

    with project_code(project, "loss()"):
        found = project.loss(features, hyperparameters)
        given = found if callable(found) and not inspect.isclass(found) else keras.losses.get(found)
        y = features.train.y[: len(prediction)]
        single = given.call if isinstance(given, keras.losses.Loss) else given
        if not callable(single):
            raise TypeError(f"{_shown(found)} is neither a name, a function nor a keras.losses.Loss")
        value = np.asarray(single(keras.ops.convert_to_tensor(y), keras.ops.convert_to_tensor(prediction)))
    if value.shape[:1] != (len(prediction),):
        refuse(
            "loss()",
            project,
            [
                f"has the shape {value.shape} for {len(prediction)} entries: return one loss per entry, else weights "
                "have no effect"
            ],
        )
    return found


def try_augment(project: ModelProject, x: Any, hyperparameters: Any) -> None:
    """Raise if `augment` changes the shape or type of a batch (k, *shape); a fit would broadcast it in silence."""
    import tensorflow as tf

    with project_code(project, "augment()"):
        changed = project.augment(x, hyperparameters, tf.constant([1, 2], tf.int32))
    before, after = (
        {
            name: f"{t.dtype.name} {tuple(t.shape)}"
            for name, t in (v.items() if isinstance(v, Mapping) else [("x", v)])
        }
        if isinstance(v, Mapping) or tf.is_tensor(v)
        else {"x": _shown(v)}
        for v in (x, changed)
    )
    if before != after:
        refuse("augment()", project, [f"returned {after} for {before}: keep names, shapes and types"])


def baselines(project: ModelProject, features: Features, own: str) -> dict[str, np.ndarray]:
    """Return the project's baselines on the test split.

    Args:
        own: name of the task's baseline, which stays the reference of a first model.
    """
    with project_code(project, "baselines()"):
        found = project.baselines(features)
    if not isinstance(found, Mapping):
        refuse("baselines()", project, [f"returned {_shown(found)}: return a dict of name -> predictions"])
    shape = (len(features.test), project.task.outputs(features.test, features.labels))
    problems = []
    for name, prediction in found.items():
        values = np.asarray(prediction)
        if not isinstance(name, str) or not name.strip():
            problems.append(f"name {name!r}: use a text")
        elif name == own:
            problems.append(f"{name!r} is the name of the task's own baseline: use another")
        elif values.shape != shape or values.dtype.kind not in "fiub":
            problems.append(f"{name!r} is {values.dtype} {values.shape}: use numbers of shape {shape}")
        elif not np.isfinite(values).all():
            problems.append(f"{name!r} has missing or infinite predictions")
    refuse("baselines()", project, problems)
    return {name: np.asarray(prediction) for name, prediction in found.items()}


def figures(project: ModelProject, features: Features, prediction: np.ndarray) -> dict[str, Figure]:
    """Return the project's own figures."""
    from matplotlib.figure import Figure

    with project_code(project, "figures()"):
        found = project.figures(features, prediction)
    if not isinstance(found, Mapping):
        refuse(
            "figures()", project, [f"returned {_shown(found)}: return a dict of name -> matplotlib Figure"]
        )
    refuse(
        "figures()",
        project,
        [
            f"{name!r} is {_shown(figure)}: use a text as name and a matplotlib Figure"
            for name, figure in found.items()
            if not isinstance(name, str) or not isinstance(figure, Figure)
        ],
    )
    return dict(found)


@contextmanager
def project_code(project: ModelProject, method: str) -> Iterator[None]:
    """Turn an error in the project's code into an InputError that names project, method, error and line."""
    try:
        yield
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ in _SHORTAGES:
            raise
        if method == "load()" and type(error).__module__.partition(".")[0] not in _OWN_ERRORS:
            raise
        raise InputError(
            f"{project.name}: {method} raised {type(error).__name__}: {error_text(error)}{_place(project, error)}"
        ) from error


def error_text(error: Exception) -> str:
    """Return one line of what an error says: of Keras without a terminal's colours and the values of arguments."""
    # Keras puts what went wrong inside of the messages of every model and layer around it.
    text = re.sub(r"\x1b\[\d*m", "", str(error)).rpartition("Exception encountered: ")[2]
    text = text.partition("Arguments received by")[0].partition("Full object config:")[0]
    return " ".join(text.removeprefix("Exception encountered when ").split())[:300]


def _place(project: ModelProject, error: Exception) -> str:
    """Return the last line of the project's own code in the traceback."""
    try:
        file = Path(inspect.getfile(type(project)))
    except (TypeError, OSError):
        return ""
    folder = file.parent
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == file
        or (file.name == "__init__.py" and Path(frame.filename).is_relative_to(folder))
    ]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _validation_problems(project: ModelProject, found: Any) -> Iterator[str]:
    if not isinstance(found, Validation):
        yield f"returned {_shown(found)}: return a Validation"
        return
    for field in ("rows", "invalid_rows"):
        if not _is_count(getattr(found, field)):
            yield f"{field} is {getattr(found, field)!r}: use a whole number of 0 or more"
    if not isinstance(found.findings, Sequence) or isinstance(found.findings, str):
        yield f"findings is {_shown(found.findings)}: use a list"
        return
    for finding in found.findings:
        if not isinstance(finding, Finding):
            yield f"findings has {_shown(finding)}: use Finding(rule, message, count)"
        elif finding.rule not in project.rules:
            yield f"finding of the unknown rule {finding.rule!r}: the rules are {', '.join(project.rules) or 'none'}"
        elif not isinstance(finding.message, str) or not _is_count(finding.count):
            yield (
                f"finding of {finding.rule!r} has the message {finding.message!r} and the count {finding.count!r}: "
                "use a text and a whole number"
            )


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 0


def _shown(value: Any) -> str:
    return repr(value) if value is None or isinstance(value, str | int | float) else type(value).__name__
