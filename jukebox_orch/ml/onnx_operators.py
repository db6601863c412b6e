"""Changes the operators of a converted ONNX graph: equals of missing ones, and the mapping of categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jukebox_orch.contract import Categories

if TYPE_CHECKING:
    import onnx

_ML_DOMAIN, _ML_OPSET = "ai.onnx.ml", 2
"""LabelEncoder maps text and integers since version 2 of the domain."""


def rewrite_operators(graph: onnx.GraphProto) -> None:
    """Replace operators of TensorFlow that ONNX lacks by equal ones, in the graph and the graphs in it."""
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rewrite_operators(attribute.g)
        replace = _REPLACEMENTS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        nodes += replace(graph, node) if replace else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def unsupported_operators(proto: onnx.ModelProto, layers: Sequence[str]) -> list[str]:
    """Return the operators that no ONNX operator set defines, each with the layer that needs it if it is known."""
    import onnx

    versions = {entry.domain: entry.version for entry in proto.opset_import}
    found: list[str] = []
    graphs: list[Any] = [proto.graph]
    while graphs:
        for node in graphs.pop().node:
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            domain = "" if node.domain == "ai.onnx" else node.domain
            if not onnx.defs.has(node.op_type, versions.get(domain, versions.get("", 1)), domain):
                found.append(f"operator {node.op_type}{_layer_of(node.name, layers)}")
    return list(dict.fromkeys(found))


def insert_label_encoder(proto: onnx.ModelProto, block: Categories) -> None:
    """Let the block's input take the raw values: map them to codes in front of what reads the input."""
    import onnx
    from onnx import TensorProto, helper

    graph = proto.graph
    (value,) = (i for i in graph.input if i.name == block.name)
    code = f"{block.name}__code"
    for node in graph.node:
        node.input[:] = [code if name == block.name else name for name in node.input]
    for output in graph.output:
        assert output.name != block.name  # noqa: S101
    keys: dict[str, Any] = {"keys_int64s" if block.is_integer else "keys_strings": list(block.values)}
    encoder = helper.make_node(
        "LabelEncoder",
        [block.name],
        [f"{code}_int64"],
        name=f"{block.name}__encoder",
        domain=_ML_DOMAIN,
        values_int64s=list(range(len(block.values))),
        default_int64=len(block.values),
        **keys,
    )
    cast = helper.make_node(
        "Cast", [f"{code}_int64"], [code], name=f"{block.name}__cast", to=TensorProto.INT32
    )
    nodes = [encoder, cast, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    value.type.tensor_type.elem_type = TensorProto.INT64 if block.is_integer else TensorProto.STRING
    if all(entry.domain != _ML_DOMAIN for entry in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid(_ML_DOMAIN, _ML_OPSET))


def _layer_of(name: str, layers: Sequence[str]) -> str:
    """Return the layer in whose scope the node is, as ` of layer 'x'`; the innermost that is known."""
    parts = name.split("/")
    for part in reversed(parts):
        for layer in layers:
            base, _, number = part.rpartition("_")
            if part == layer or (base == layer and number.isdigit()):
                return f" of layer {layer!r}"
    return ""


def _constant(graph: onnx.GraphProto, node: onnx.NodeProto, value: float) -> str:
    from onnx import numpy_helper

    name = f"{node.output[0]}_constant"
    graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return name


def _erfc(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[Any]:
    """erfc(x) = 1 - erf(x)."""
    from onnx import helper

    inner = f"{node.output[0]}_erf"
    return [
        helper.make_node("Erf", list(node.input), [inner], name=f"{node.name}_erf"),
        helper.make_node("Sub", [_constant(graph, node, 1), inner], list(node.output), name=node.name),
    ]


def _log1p(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[Any]:
    """log1p(x) = log(1 + x)."""
    from onnx import helper

    inner = f"{node.output[0]}_plus"
    return [
        helper.make_node("Add", [node.input[0], _constant(graph, node, 1)], [inner], name=f"{node.name}_add"),
        helper.make_node("Log", [inner], list(node.output), name=node.name),
    ]


def _expm1(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[Any]:
    """expm1(x) = exp(x) - 1."""
    from onnx import helper

    inner = f"{node.output[0]}_exp"
    return [
        helper.make_node("Exp", list(node.input), [inner], name=f"{node.name}_exp"),
        helper.make_node("Sub", [inner, _constant(graph, node, 1)], list(node.output), name=node.name),
    ]


def _bucketize(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[Any]:
    """Bucketize counts the boundaries that are not above x."""
    from onnx import TensorProto, helper, numpy_helper

    (boundaries,) = (a for a in node.attribute if a.name == "boundaries")
    name = node.output[0]
    axis, edges = f"{name}_axis", f"{name}_boundaries"
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), axis))
    graph.initializer.append(numpy_helper.from_array(np.array(boundaries.floats, np.float32), edges))
    return [
        helper.make_node("Unsqueeze", [node.input[0], axis], [f"{name}_column"], name=f"{node.name}_column"),
        helper.make_node(
            "GreaterOrEqual", [f"{name}_column", edges], [f"{name}_reached"], name=f"{node.name}_reached"
        ),
        helper.make_node(
            "Cast", [f"{name}_reached"], [f"{name}_ones"], name=f"{node.name}_ones", to=TensorProto.INT32
        ),
        helper.make_node("ReduceSum", [f"{name}_ones", axis], [name], name=node.name, keepdims=0),
    ]


_REPLACEMENTS: dict[str, Callable[[Any, Any], list[Any]]] = {
    "Bucketize": _bucketize,
    "Erfc": _erfc,
    "Log1p": _log1p,
    "Expm1": _expm1,
}
