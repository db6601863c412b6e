"""What a project returns is judged before anything is computed on it, in one message with every problem."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from jukebox_orch.contract import (
    Categories,
    Features,
    Finding,
    InputError,
    ModelProject,
    MultiLabel,
    Normalization,
    Regression,
    Split,
    Tensor,
    Validation,
)
from jukebox_orch.ml import project_calls
from jukebox_orch.ml.artifacts import StoredFeatures
from jukebox_orch.ml.door import dataset_problems, features_problems
from jukebox_orch.ml.training import train
from jukebox_orch_tests.ml.test_training import feature_set
from jukebox_orch_tests.support.deployment import Deployment, failures, made
from jukebox_orch_tests.support.plugged_in import Orders
from jukebox_orch_tests.support.projects import Blobs

NAMES = ("height", "width", "depth")


def changed(**fields: Any) -> Callable[[Features], Features]:
    """Change fields of the training split."""
    return lambda features: replace(features, train=replace(features.train, **fields))


def of(**functions: Callable[[np.ndarray], Any]) -> Callable[[Features], Features]:
    """Change arrays of the training split by a function."""
    return lambda features: replace(
        features,
        train=replace(
            features.train, **{name: f(getattr(features.train, name)) for name, f in functions.items()}
        ),
    )


def shares(y: np.ndarray) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[y]


FEATURES: dict[str, tuple[Callable[[Features], Any], str]] = {
    "nothing": (lambda _: None, "returned NoneType instead of Features"),
    "two names for three columns": (lambda f: replace(f, inputs=NAMES[:2]), "2 input names for x of shape"),
    "a list of names": (lambda f: replace(f, inputs=list(NAMES)), "give a tuple of names"),
    "an empty name": (lambda f: replace(f, inputs=("height", "", "depth")), "input name '': use a text"),
    "a repeated name": (lambda f: replace(f, inputs=("a", "a", "b")), "input names 'a' occur more than once"),
    "a name with a slash": (lambda f: replace(f, inputs=("a/b", "c", "d")), "input name 'a/b': use no `/`"),
    "a reserved name": (
        lambda f: replace(f, inputs=("raw", "c", "d")),
        "input name 'raw' is a name of the product",
    ),
    "names and blocks": (lambda f: replace(f, inputs=("a", Tensor("b"))), "inputs mixes Tensor, str"),
    "x float64": (of(x=lambda x: x.astype(float)), r"train.x is float64: use float32"),
    "x float16": (of(x=lambda x: x.astype(np.float16)), r"train.x is float16: use float32"),
    "x int64": (of(x=lambda x: x.astype(np.int64)), r"train.x is int64: use float32"),
    "x object": (of(x=lambda x: x.astype(object)), r"train.x is object: use float32"),
    "x a table": (of(x=pd.DataFrame), r"train.x is DataFrame instead of an array"),
    "x too short": (of(x=lambda x: x[1:]), r"train.x has \d+ entries, y has \d+"),
    "y one-based": (of(y=lambda y: y + 1), "y has values 1..3: positions in `labels` are 0..2"),
    "y with -1": (of(y=lambda y: y - 1), "y has values -1..1: positions"),
    "y strings": (of(y=lambda y: y.astype(str)), "y is <U.*: give the position of each label"),
    "y floats": (of(y=lambda y: y.astype(np.float32)), "y is float32: give the position"),
    "y a column": (of(y=lambda y: y[:, None]), r"y has shape \(\d+, 1\): use \(n,\) positions"),
    "y sums to 2": (of(y=lambda y: shares(y) * 2), r"rows sum to 2\.\.2"),
    "y float64 shares": (of(y=lambda y: shares(y).astype(float)), "y is float64: shares of each label"),
    "y NaN": (of(y=lambda y: shares(y) * np.nan), "y has .* missing or infinite values"),
    "no entries": (of(x=lambda x: x[:0], y=lambda y: y[:0]), "y has no entries"),
    "labels repeated": (lambda f: replace(f, labels=("a", "b", "a")), "labels 'a' occur more than once"),
    "labels numpy integers": (
        lambda f: replace(f, labels=tuple(np.arange(3))),
        r"labels .* \(int64\) are not texts: use tuple\(map\(str, labels\)\)",
    ),
    "labels an array": (
        lambda f: replace(f, labels=np.array(["a", "b", "c"])),
        "labels is ndarray: give a tuple",
    ),
    "labels an empty text": (lambda f: replace(f, labels=("a", "b", "")), "labels '' .* are not texts"),
    "one label": (lambda f: replace(f, labels=("a",)), "1 labels: a classification needs two or more"),
    "weight of another length": (changed(weight=np.ones(1, np.float32)), r"train.weight is float32 \(1,\)"),
    "weight zero": (of(weight=lambda w: w * 0), "train.weight has values 0.0..0.0: use numbers above 0"),
    "loss weight negative": (
        of(loss_weight=lambda _: None, weight=lambda w: -w),
        "train.weight has values -1.0..-1.0",
    ),
    "keys integers": (changed(keys=np.arange(3)), r"train.keys is int64 \(3,\): use an array of texts"),
    "keys repeated": (changed(keys=np.array(["a", "a"])), "train.keys has 2 entries, 1 different"),
    "slice of integers": (changed(slices={"big": np.ones(3)}), r"train.slices\['big'\] is float64 \(3,\)"),
    "times missing": (of(times=lambda _: np.array([np.nan])), "train.times is float64"),
    "times as texts": (of(times=lambda _: np.array(["2026-01-05"] * 60)), "train.times is <U10"),
    "times of one split only": (
        changed(times=np.arange(60)),
        "train has int64, validation has no times, test has no times: give all splits times of one type",
    ),
    "no split": (lambda f: replace(f, train=None), "train is NoneType instead of a Split"),
    "x a list": (of(x=lambda x: x.tolist()), "train.x is list instead of an array"),
    "x None": (of(x=lambda _: None), "train.x is NoneType instead of an array"),
    "x masked": (of(x=np.ma.masked_array), "train.x is a masked array"),
    "x big-endian": (of(x=lambda x: x.astype(">f4")), "train.x is >f4: use float32"),
    "y one number": (of(y=lambda _: np.int64(1)), "train.y is int64 .* instead of an array|train.y"),
    "slices None": (of(slices=lambda _: None), "train.slices is NoneType of None: use a dict"),
    "slices by number": (
        of(slices=lambda _: {1: np.ones(60, bool)}),
        r"train.slices is dict of \[1\]: use a dict",
    ),
    "constants a tuple": (
        lambda f: replace(f, normalization=(0, 1)),
        "normalization is tuple: use Normalization",
    ),
    "range upside down": (
        lambda f: replace(f, normalization=Normalization.unit(5, -5)),
        "normalization.scale has values of 0 or below",
    ),
    "constants of another shape": (
        lambda f: replace(f, normalization=Normalization("standard", np.zeros(2), np.ones(2))),
        r"normalization.offset has shape \(2,\), an entry has \(3,\)",
    ),
    "scale zero": (
        lambda f: replace(f, normalization=Normalization("standard", np.zeros(3), np.zeros(3))),
        "normalization.scale has values of 0 or below",
    ),
    "categories of mixed type": (
        lambda f: replace(f, inputs=(Categories("c", ("a", 1)),)),  # pyright: ignore[reportArgumentType]
        "x has known values of type int, str",
    ),
    "categories without codes": (
        lambda f: replace(f, inputs=(Categories("c", ("a", "b")),)),
        r"x is float32 \(\d+, 3\): use the codes, int32 \(n,\)",
    ),
}


@pytest.mark.parametrize("case", FEATURES)
def test_features_are_refused_with_field_value_and_advice(case: str):
    change, message = FEATURES[case]
    problems = features_problems(Blobs(), change(feature_set(Blobs()).features))
    assert problems
    assert re.search(message, "; ".join(problems)), problems


def test_good_features_have_no_problems():
    assert features_problems(Blobs(), feature_set(Blobs()).features) == []


@pytest.mark.parametrize(
    ("task", "y", "message"),
    [
        (MultiLabel(), np.zeros((4, 2), np.float32), r"y has shape \(4, 2\): use \(n, 3\)"),
        (MultiLabel(), np.full((4, 3), 0.5, np.float32), "use 1 where the label applies"),
        (MultiLabel(), np.zeros((4, 3), np.int64), "y is int64: use float32"),
        (Regression(), np.zeros(4), "y is float64: a regression needs float32"),
        (Regression(), np.zeros((4, 1), np.float32), r"y has shape \(4, 1\)"),
        (Regression(), np.zeros((4, 2), np.float32), "3 labels for 2 outputs"),
    ],
)
def test_targets_are_judged_by_task(task: Any, y: np.ndarray, message: str):
    split = Split.of_rows(np.zeros((4, 1), np.float32), y, np.arange(4))
    problems = task.target_problems(split, ("a", "b", "c"))
    assert re.search(message, "; ".join(problems)), problems


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([1], "returned list instead of a dict"),
        ({}, "returned no table"),
        ({"a/b": pd.DataFrame()}, "table name 'a/b': use letters"),
        ({"rows": [1, 2]}, "table 'rows' is list instead of a DataFrame"),
        ({"rows": np.array([{}, 1], object)}, "array 'rows' has Python objects"),
        ({"rows": pd.DataFrame([[1, 2]], columns=["a", "a"])}, "columns 'a' occur more than once"),
        ({"rows": pd.DataFrame([[1, 2]])}, "column names 0, 1 are not texts"),
        ({"rows": pd.DataFrame({"a": ["x", 1]})}, "column 'a' mixes int, str"),
        ({"rows": pd.DataFrame({"a": [[1], [2]]})}, "column 'a' has values of type list"),
        ({"rows": pd.DataFrame({"a": [{"x": 1}]})}, "column 'a' has values of type dict"),
        ({"rows": pd.DataFrame({"a": [1j, 2j]})}, "column 'a' has complex numbers"),
        ({"rows": pd.DataFrame({"a": [Path("x")]})}, "column 'a' (object) cannot be stored: "),
        ({"rows": pd.DataFrame({"a": [object()]})}, "column 'a' (object) cannot be stored: "),
        ({"rows": pd.DataFrame({"a": [10**30, 1]})}, "column 'a' (object) cannot be stored: "),
        ({"rows": pd.DataFrame({"a": pd.arrays.SparseArray([1, 0])})}, "column 'a' "),
        ({"rows": pd.DataFrame({"a": pd.interval_range(0, 2)})}, "column 'a' "),
        ({"rows": pd.DataFrame({"a": pd.Categorical(["x", 1])})}, "column 'a' (category) cannot be stored: "),
        (
            {"rows": pd.DataFrame({"a": [1]}, index=pd.Index(["x"]))},
            "has the index None (Index), which is not stored",
        ),
        (
            {"rows": pd.DataFrame({"a": [1]}, index=pd.DatetimeIndex(["2026-01-05"], name="day"))},
            "has the index day (DatetimeIndex), which is not stored: use reset_index()",
        ),
        ({"more": np.zeros(3, complex)}, "array 'more' is complex128: use numbers of at most 64 bits"),
        ({"more": np.zeros(3, np.longdouble)}, "array 'more' is "),
        ({"more": np.zeros(3, [("a", int)])}, "array 'more' is "),
        ({"more": np.array(3)}, "array 'more' has no dimension"),
        ({"more": np.ma.masked_array([1], [True])}, "array 'more' is masked"),
        ({"rows": np.zeros((3, 2))}, "'rows' is an array, but `tables` declares its columns"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_dataset_is_refused_with_table_and_column(dataset: Any, message: str):
    problems = dataset_problems(Blobs(), dataset)
    assert any(message in problem for problem in problems), problems


@keras.saving.register_keras_serializable("tests")
class Registered(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 2


class Unregistered(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 2


class Forgetful(keras.layers.Layer):
    """A layer whose configuration lacks its argument."""

    def __init__(self, factor: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def call(self, x: Any) -> Any:
        return x * self.factor

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


class Subclassed(keras.Model):
    def call(self, x: Any) -> Any:
        return x


def network(*layers: Any) -> Callable[[Features], Any]:
    def build(features: Features) -> Any:
        return keras.Sequential([keras.Input(features.shape), *layers, keras.layers.Dense(3, "softmax")])

    return build


def two_outputs(features: Features) -> Any:
    raw = keras.Input(features.shape)
    return keras.Model(raw, {"a": keras.layers.Dense(3)(raw), "b": keras.layers.Dense(3)(raw)})


NETWORKS: dict[str, tuple[Callable[[Features], Any], str]] = {
    "None": (lambda _: None, "returned NoneType instead of a keras.Model"),
    "a subclass": (
        lambda _: Subclassed(),
        "Subclassed is a subclass of keras.Model, whose file would need its code",
    ),
    "without shape": (
        lambda _: keras.Sequential([keras.layers.Dense(3)]),
        "has no input shape: begin it with keras.Input",
    ),
    "a dict of outputs": (two_outputs, "return one tensor of shape"),
    "shapes that differ in a prediction": (
        network(keras.layers.Reshape((3, 1, 1)), keras.layers.RandomCrop(2, 1), keras.layers.Flatten()),
        "the network cannot predict: calling",
    ),
    "a Lambda": (network(keras.layers.Lambda(lambda x: x)), "is a Lambda layer, Python code"),
    "an own layer": (network(Unregistered()), "cannot be stored and loaded without code"),
    "an own activation": (
        network(keras.layers.Dense(4, activation=lambda x: x, name="own")),
        "cannot be stored and loaded without code|name own layers and functions",
    ),
    "a forgetful layer": (
        network(Forgetful(3.0)),
        "the stored model predicts otherwise|cannot be stored and loaded",
    ),
    "an operator": (
        network(keras.layers.Hashing(8, output_mode="multi_hot", name="hash")),
        "ONNX has no equal of operator .* of layer 'hash'|cannot|Error",
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_network_is_refused_before_the_fit(case: str):
    build, message = NETWORKS[case]

    class Project(Blobs):
        def build_model(self, features: Features, hyperparameters: Any) -> Any:
            return build(features)

        def custom_objects(self) -> dict[str, type]:
            return {"Forgetful": Forgetful}

        def optimizer(self, hyperparameters: Any, steps: int) -> Any:
            raise AssertionError("the fit began")

    project: ModelProject = Project()
    with pytest.raises(InputError, match=message):
        train(project, feature_set(Blobs()), project.hyperparameters(), 1, lambda line: None)


def test_registered_layer_needs_its_name_in_custom_objects():
    """Registering is an effect of an import, which the process of another step does not do."""

    class Project(Blobs):
        def build_model(self, features: Features, hyperparameters: Any) -> Any:
            return network(Registered())(features)

    class Named(Project):
        def custom_objects(self) -> dict[str, type]:
            return {"tests>Registered": Registered}

    hyperparameters = Project.hyperparameters(epochs=1)
    with pytest.raises(InputError, match=r"Could not locate class 'Registered'.*custom_objects\(\)"):
        train(Project(), feature_set(Blobs()), hyperparameters, 1, lambda line: None)
    assert train(Named(), feature_set(Blobs()), hyperparameters, 1, lambda line: None).keras_model
    assert "tests>Registered" in keras.saving.get_custom_objects()


def calls(**methods: Any) -> ModelProject:
    """Return a project with these methods, which get no `self`."""
    own = {name: lambda self, *a, _m=method, **k: _m(*a, **k) for name, method in methods.items()}
    return type("Project", (Blobs,), {**own, "__module__": __name__})()


def mean_of_all(y: Any, p: Any) -> Any:
    return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, p))


def shrinking(x: Any, hyperparameters: Any, seed: Any) -> Any:
    return x[:, :1]


def doubling(x: Any, hyperparameters: Any, seed: Any) -> Any:
    return keras.ops.cast(x, "float64")


RETURNS: dict[str, tuple[dict[str, Any], str]] = {
    "loss None": ({"loss": lambda f, h: None}, r"loss\(\) raised TypeError: None is neither a name"),
    "loss misspelt": (
        {"loss": lambda f, h: "mean_squard_error"},
        r"loss\(\) raised ValueError: .*mean_squard_error",
    ),
    "loss a number": ({"loss": lambda f, h: 3}, r"loss\(\) raised"),
    "loss a class": ({"loss": lambda f, h: keras.losses.Huber}, r"loss\(\) raised"),
    "loss of another shape": ({"loss": lambda f, h: "categorical_crossentropy"}, r"loss\(\) raised"),
    "loss of all entries": ({"loss": lambda f, h: mean_of_all}, "has the shape .* return one loss per entry"),
    "loss raises": (
        {"loss": lambda f, h: 1 / 0},
        r"loss\(\) raised ZeroDivisionError: division by zero \(test_door",
    ),
    "optimizer None": (
        {"optimizer": lambda h, s: None},
        r"optimizer\(\): returned None: return an optimizer",
    ),
    "optimizer a class": ({"optimizer": lambda h, s: keras.optimizers.Adam}, r"optimizer\(\): returned"),
    "optimizer a number": ({"optimizer": lambda h, s: 0.1}, r"optimizer\(\): returned 0.1"),
    "callbacks None": ({"callbacks": lambda h: None}, r"callbacks\(\): returned None: return a list"),
    "callbacks one": ({"callbacks": lambda h: keras.callbacks.History()}, r"callbacks\(\): returned History"),
    "callbacks a function": ({"callbacks": lambda h: [print]}, "is not a keras.callbacks.Callback"),
    "callbacks raise": (
        {"callbacks": lambda h: [keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: 1 / 0)]},
        "the fit, .* raised ZeroDivisionError",
    ),
    "custom objects None": ({"custom_objects": lambda: None}, r"custom_objects\(\): returned NoneType"),
    "custom objects a value": ({"custom_objects": lambda: {"A": 3}}, "'A': 3: use name -> class"),
    "augment of another shape": (
        {"augment": shrinking},
        r"augment\(\): returned .*\(\d+, 1\).* keep names, shapes",
    ),
    "augment of another type": ({"augment": doubling}, r"augment\(\): returned .*float64"),
    "augment None": ({"augment": lambda x, h, s: None}, r"augment\(\): returned"),
    "build_model raises": (
        {"build_model": lambda f, h: {}["x"]},
        r"build_model\(\) raised KeyError: 'x' \(test_door",
    ),
}


@pytest.mark.parametrize("case", RETURNS)
def test_wrong_return_of_a_method_is_refused_by_name(case: str):
    methods, message = RETURNS[case]
    project = calls(**methods)
    with pytest.raises(InputError, match=message) as error:
        train(project, feature_set(Blobs()), project.hyperparameters(epochs=1), 1, lambda line: None)
    assert str(error.value).startswith("blobs: ")


def test_lambda_and_partial_are_losses():
    """The stored model has no loss."""
    for given in (
        lambda y, p: mean_per_entry(y, p, 2.0),
        partial(mean_per_entry, scale=2.0),
    ):
        project = calls(loss=lambda f, h, given=given: given)
        trained = train(
            project, feature_set(Blobs()), project.hyperparameters(epochs=1), 1, lambda line: None
        )
        assert not trained.keras_model.get_compile_config()


def mean_per_entry(y: Any, p: Any, scale: float) -> Any:
    return keras.ops.multiply(scale, keras.losses.sparse_categorical_crossentropy(y, p))


FOUND = Validation(1, 0)
EVALUATED: dict[str, tuple[Callable[[], Any], str]] = {
    "baselines None": (
        lambda: project_calls.baselines(calls(baselines=lambda f: None), blob_features(), "x"),
        "returned None",
    ),
    "baselines shape": (
        lambda: project_calls.baselines(calls(baselines=lambda f: {"a": np.zeros(3)}), blob_features(), "x"),
        r"'a' is float64 \(3,\): use numbers of shape",
    ),
    "baselines NaN": (
        lambda: project_calls.baselines(
            calls(baselines=lambda f: {"a": np.full((len(f.test), 3), np.nan)}), blob_features(), "x"
        ),
        "'a' has missing or infinite predictions",
    ),
    "baselines with the task's name": (
        lambda: project_calls.baselines(
            calls(baselines=lambda f: {"majority_class": np.ones((len(f.test), 3))}),
            blob_features(),
            "majority_class",
        ),
        "'majority_class' is the name of the task's own baseline",
    ),
    "figures text": (
        lambda: project_calls.figures(
            calls(figures=lambda f, p: {"a": "plot"}), blob_features(), np.zeros(1)
        ),
        "'a' is 'plot': use a text as name and a matplotlib Figure",
    ),
    "figures None": (
        lambda: project_calls.figures(calls(figures=lambda f, p: None), blob_features(), np.zeros(1)),
        "returned None",
    ),
    "split_kind None": (
        lambda: project_calls.split_kind(calls(split_kind=lambda d, s: None), {}, None),
        "returned None",
    ),
    "drift_table None": (
        lambda: project_calls.drift_table(calls(drift_table=lambda d: None), {}),
        "returned NoneType",
    ),
    "drift_table text": (
        lambda: project_calls.drift_table(calls(drift_table=lambda d: pd.DataFrame({"a": ["x"]})), {}),
        "columns a are not numeric",
    ),
    "validate None": (
        lambda: project_calls.validate(calls(validate=lambda d: None), {}),
        "returned None: return a Validation",
    ),
    "validate texts": (
        lambda: project_calls.validate(calls(validate=lambda d: replace(FOUND, findings=["bad"])), {}),
        "findings has 'bad': use Finding",
    ),
    "validate of an unknown rule": (
        lambda: project_calls.validate(
            calls(validate=lambda d: Validation(1, 0, [Finding("nope", "bad", 1, True)])), {}
        ),
        "finding of the unknown rule 'nope': the rules are numbers, target",
    ),
    "validate half a row": (
        lambda: project_calls.validate(calls(validate=lambda d: replace(FOUND, invalid_rows=0.5)), {}),
        "invalid_rows is 0.5: use a whole number",
    ),
    "load raises": (
        lambda: project_calls.load(calls(load=lambda s: {}["x"]), None),
        r"load\(\) raised KeyError",
    ),
    "build_features raises": (
        lambda: project_calls.build_features(calls(build_features=lambda d, s, seed: int("x")), {}, None, 1),
        r"build_features\(\) raised ValueError: invalid literal .* \(test_door.py, line \d+\)",
    ),
}


def blob_features() -> Features:
    return feature_set(Blobs()).features


@pytest.mark.parametrize("case", EVALUATED)
def test_wrong_return_is_refused_by_name(case: str):
    call, message = EVALUATED[case]
    with pytest.raises(InputError, match=message) as error:
        call()
    assert str(error.value).startswith("blobs: ")


def test_failing_server_may_be_retried():
    def load(source: Any) -> Any:
        raise ConnectionError("reset")

    with pytest.raises(ConnectionError):
        project_calls.load(calls(load=load), None)


def test_shortage_of_memory_may_be_retried():
    def full(features: Features, hyperparameters: Any) -> Any:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM")

    with pytest.raises(tf.errors.ResourceExhaustedError):
        project_calls.build_model(calls(build_model=full), blob_features(), None)


def test_embedding_without_room_for_unknown_values_is_refused():
    class Small(Orders):
        def build_model(self, features: Features, hyperparameters: Any) -> Any:
            inputs, parts = [], []
            for block, array in zip(features.blocks, features.arrays(features.train).values(), strict=True):
                kind = "int32" if array.dtype == np.int32 else None
                inputs.append(keras.Input(array.shape[1:], name=block.name, dtype=kind))
                if isinstance(block, Categories):
                    embedding = keras.layers.Embedding(len(block.values), 3)
                    parts.append(keras.layers.Flatten()(embedding(inputs[-1])))
                else:
                    parts.append(inputs[-1])
            return keras.Model(inputs, keras.layers.Dense(2, "softmax")(keras.layers.Concatenate()(parts)))

    project: Any = Small()
    features = project.build_features(project.load(None), project.split(), 1)
    with pytest.raises(InputError, match=r"cannot predict: .*the code `size - 1`"):
        train(project, StoredFeatures(features, "", {}), project.hyperparameters(), 1, lambda line: None)


def test_network_that_is_random_in_use_is_refused():
    class Noisy(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + keras.random.normal(keras.ops.shape(x))

    project = calls(build_model=lambda f, h: network(Noisy())(f), custom_objects=lambda: {"Noisy": Noisy})
    with pytest.raises(InputError, match="predicts differently each time"):
        train(project, feature_set(Blobs()), project.hyperparameters(), 1, lambda line: None)


def test_run_with_bad_features_stops_at_once_and_registers_nothing(migrated: Path, tmp_path: Path):
    del migrated

    class BadLabels(Blobs):
        def build_features(self, dataset: Any, split: Any, seed: int) -> Features:
            return replace(super().build_features(dataset, split, seed), labels=("red", "red", "blue"))

    deployment = Deployment(tmp_path)
    result = deployment.run(project=BadLabels())
    assert not result.success
    assert "blobs: build_features(): labels 'red' occur more than once" in failures(result)
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    assert "blobs/trained_model" not in made(result)
    assert deployment.versions() == []
    deployment.instance.dispose()
