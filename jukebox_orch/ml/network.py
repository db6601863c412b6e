"""Builds the Keras model that takes raw inputs from a project's network, and judges the network before the fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jukebox_orch.contract import Columns, Features, InputError, ModelProject, Tensor
from jukebox_orch.ml import project_calls
from jukebox_orch.ml.keras_runtime import model_input

if TYPE_CHECKING:
    import keras

_RAW = "raw"


def serving_model(project: ModelProject, features: Features, hyperparameters: Any) -> keras.Model:
    """Build the project's network with the normalization in front, so that it takes raw inputs.

    With one block the model takes one tensor, with several a dict of them, by block.

    Raises:
        InputError: `build_model` returns something else than a functional network that fits the features; the message
            names every problem and what to do.
    """
    network = project_calls.build_model(project, features, hyperparameters)
    if problems := list(_problems(project, network, features)):
        raise InputError(f"{project.name}: build_model(): {'; '.join(problems)}")
    import keras

    arrays = features.arrays(features.train)
    raw: dict[str, Any] = {}
    for name, x in arrays.items():
        dtype = x.dtype.name
        raw[name] = keras.Input(x.shape[1:], dtype=dtype, name=_RAW if len(arrays) == 1 else name)
    normalised = {
        block.name: _normalised(keras, block, raw[block.name], len(arrays)) for block in features.blocks
    }
    if len(arrays) == 1:
        output = network(model_input(normalised))
    else:
        output = network(keras.tree.map_structure(lambda tensor: normalised[_name(tensor)], network.input))
    if output.dtype != "float32":
        # Probabilities of a network in mixed precision; the tolerances are for float32.
        output = keras.layers.Activation("linear", dtype="float32", name="output")(output)
    return keras.Model(model_input(raw), output, name=project.name)


def _normalised(keras: Any, block: Any, raw: Any, blocks: int) -> Any:
    """Return the block's tensor as the network takes it; the layers stay float32 whatever the project's policy is."""
    if not isinstance(block, Columns | Tensor):
        return raw
    suffix = f"_{block.name}" if blocks > 1 else ""
    constants = block.normalization
    if constants is None:
        return keras.layers.Rescaling(1.0, dtype="float32", name=f"raw_values{suffix}")(raw)
    return keras.layers.Rescaling(
        scale=(1.0 / constants.scale).tolist(),
        offset=(-constants.offset / constants.scale).tolist(),
        dtype="float32",
        name=f"normalization{suffix}",
    )(raw)


def _problems(project: ModelProject, network: Any, features: Features) -> Iterator[str]:
    """Yield what makes a network unusable, in words for the author of the project."""
    import keras

    if not isinstance(network, keras.Model):
        yield f"returned {type(network).__name__} instead of a keras.Model"
        return
    if not getattr(network, "inputs", None):
        yield (
            "the Sequential model has no input shape: begin it with keras.Input(features.shape)"
            if isinstance(network, keras.Sequential)
            else f"{type(network).__name__} is a subclass of keras.Model, whose file would need its code: build it "
            "with keras.Input and keras.Model(inputs, outputs); put own code into a Layer named by custom_objects()"
        )
        return
    for layer in _layers(keras.saving.serialize_keras_object(network)):
        name = layer["config"].get("name", "?")
        if layer.get("class_name") == "Lambda":
            yield f"layer {name!r} is a Lambda layer, Python code: write a Layer and name it in custom_objects()"
        elif layer["config"].get("stateful") is True:
            yield f"layer {name!r} is stateful: an answer would depend on earlier requests; use stateful=False"
    yield from _shape_problems(project, network, features)


def _layers(config: object) -> Iterator[Mapping[str, Any]]:
    """Yield every serialized Keras object in a configuration, at any depth."""
    todo = [config]
    while todo:
        item = todo.pop()
        if isinstance(item, Mapping):
            if isinstance(item.get("config"), Mapping):
                yield item
            todo += item.values()
        elif isinstance(item, list | tuple):
            todo += item


def _shape_problems(project: ModelProject, network: Any, features: Features) -> Iterator[str]:
    arrays = features.arrays(features.train)
    outputs = project.task.outputs(features.train, features.labels)
    # A Sequential model has no `output`, and always one tensor.
    output = getattr(network, "output", None) if hasattr(network, "operations") else None
    if isinstance(output, Mapping | list | tuple):
        kind = type(output).__name__
        yield f"has a {kind} as output, {network.output_shape}: return one tensor of shape (None, {outputs})"
    elif tuple(network.output_shape) != (None, outputs):
        yield (
            f"has the output shape {network.output_shape}; {project.task.kind} needs (None, {outputs})"
            + (f", one for each of the {outputs} labels" if features.labels else "")
        )
    shapes = {_name(tensor): tuple(tensor.shape) for tensor in network.inputs}
    expected = {name: (None, *x.shape[1:]) for name, x in arrays.items()}
    if len(arrays) == 1:
        if list(shapes.values()) != list(expected.values()):
            yield f"takes {_shown(shapes.values())}; the features are {_shown(expected.values())}"
    elif shapes != expected:
        yield (
            f"takes the inputs {', '.join(f'{n} {s}' for n, s in shapes.items())}; the blocks are "
            f"{', '.join(f'{n} {s}' for n, s in expected.items())}: give each keras.Input the name of its block"
        )


def _name(tensor: Any) -> str:
    return tensor.name.partition(":")[0]


def _shown(shapes: Any) -> str:
    return ", ".join(map(str, shapes))
