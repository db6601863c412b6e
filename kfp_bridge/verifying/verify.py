"""Compares an exported YAML with Dagster's graph, or two exports with each other."""

from dataclasses import dataclass
from typing import Any

from kfp_bridge.pipeline_graph import PipelineGraph
from kfp_bridge.pipeline_spec import PipelineSpec
from kfp_bridge.verifying.expected import Facts, graph_facts
from kfp_bridge.verifying.found import spec_facts

_ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """One fact that differs between two sides; `(absent)` on a side that does not have it."""

    fact: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.fact}\n  - {self.expected}\n  + {self.found}"


def verify(graph: PipelineGraph, image: str, spec: PipelineSpec) -> list[Difference]:
    """Return the differences between Dagster's graph and the YAML; empty for a faithful export."""
    return _compare(graph_facts(graph, image), spec_facts(spec))


def diff(old: PipelineSpec, new: PipelineSpec) -> list[Difference]:
    """Return the differences between two exports."""
    return _compare(spec_facts(old), spec_facts(new))


def _compare(expected: Facts, found: Facts) -> list[Difference]:
    return [
        Difference(fact, expected.get(fact, _ABSENT), found.get(fact, _ABSENT))
        for fact in sorted(expected.keys() | found.keys())
        if not _same(expected.get(fact, _ABSENT), found.get(fact, _ABSENT))
    ]


def _same(one: Any, other: Any) -> bool:
    # Booleans are compared strictly, as True == 1; but 5 equals 5.0, as YAML and protobuf write numbers differently.
    if isinstance(one, bool) or isinstance(other, bool):
        return isinstance(one, bool) and isinstance(other, bool) and one == other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return one == other
