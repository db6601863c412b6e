"""Reads and exports small graphs; shared by several test files."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from kfp_bridge.compiling.compiler import export
from kfp_bridge.errors import ExportError
from kfp_bridge.pipeline_graph import CodeLocation, PipelineGraph
from kfp_bridge.reading.graph import read_graph

SOURCE = CodeLocation(module="anything")
DATASET = {"kfp/artifact_type": "Dataset"}


def graph_of(*assets: Any, **options: Any) -> PipelineGraph:
    """Return the graph of the assets; options are those of `Definitions` and `read_graph`."""
    definitions = {
        name: options.pop(name)
        for name in ("asset_checks", "jobs", "schedules", "sensors", "resources")
        if name in options
    }
    return read_graph(dg.Definitions(assets=list(assets), **definitions), SOURCE, **options)


def strict_export_error(graph: PipelineGraph, tmp_path: Path) -> str:
    """Return the message with which a strict export fails; it writes no file."""
    with pytest.raises(ExportError) as error:
        export(graph, "image:1", tmp_path / "pipeline.yaml")
    assert not (tmp_path / "pipeline.yaml").exists()
    assert list(tmp_path.iterdir()) == []
    return str(error.value)


def steps(graph: PipelineGraph) -> dict[str, Any]:
    return {step.name: step for step in graph.steps}
