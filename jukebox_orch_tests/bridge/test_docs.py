"""docs/kfp-bridge.md shows the exported graph and describes every command."""

import re
from pathlib import Path

from jukebox_orch.definitions import defs
from jukebox_orch_tests import CHECKOUT
from kfp_bridge.cli import app
from kfp_bridge.compiling.compiler import export
from kfp_bridge.pipeline_graph import ARTIFACT_TYPES, CodeLocation
from kfp_bridge.pipeline_spec import PipelineSpec, read_pipeline_spec
from kfp_bridge.reading.graph import read_graph

PAGE = (CHECKOUT / "docs" / "kfp-bridge.md").read_text(encoding="utf-8")


def jukebox(folder: Path) -> PipelineSpec:
    graph = read_graph(defs, CodeLocation(module="jukebox_orch.definitions"), job="jukebox_training")
    export(graph, "registry.example/jukebox:1.0", folder / "jukebox.yaml")
    return read_pipeline_spec(folder / "jukebox.yaml")


def test_diagram_matches_edges_and_types_of_export(tmp_path: Path):
    spec = jukebox(tmp_path)
    diagram = PAGE.split("```mermaid\n")[1].split("```")[0]
    edges = re.findall(r"^  ([a-z-]+)(?:\[.*?\])? --> ([a-z-]+)", diagram, re.MULTILINE)
    assert sorted(edges) == sorted(
        (u, task) for task, content in spec.tasks.items() for u in content.get("dependentTasks", [])
    )
    types = dict(re.findall(r"([a-z-]+)\[\"[^\"]*<br/>([A-Za-z]+)\"\]", diagram))
    for task in spec.tasks:
        step = spec.step(task)
        assert step is not None
        (value,) = [asset["value"] for asset in step["assets"]]
        declared = spec.component(task)["outputDefinitions"]["artifacts"][value]["artifactType"][
            "schemaTitle"
        ]
        assert types[task] == declared.removeprefix("system.")


def test_every_command_and_artifact_type_is_documented():
    commands = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    assert all(f"| `{command}` |" in PAGE for command in commands)
    assert all(f"`{name}`" in PAGE for name in ARTIFACT_TYPES)


def test_images_of_page_exist():
    images = re.findall(r"!\[.*?\]\((.*?)\)", PAGE)
    assert images
    assert [image for image in images if not (CHECKOUT / "docs" / image).is_file()] == []
