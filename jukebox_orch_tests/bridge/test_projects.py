"""Model projects, including an external plugin, are exported to Kubeflow Pipelines unchanged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.installed import install
from kfp_bridge.pipeline_spec import read_pipeline_spec

EXAMPLE = CHECKOUT / "examples" / "acme_iris"


@pytest.mark.parametrize("project", ["image_processor", "acme_iris"])
def test_project_graph_is_exported_and_verified(project: str, tmp_path: Path) -> None:
    install(tmp_path, "acme-iris", {"jukebox_orch.projects": {"acme_iris": "acme_iris:AcmeIris"}})
    job = [
        "-m",
        "jukebox_orch.definitions",
        "--job",
        f"{project}_training",
        "--image",
        "registry.example/step:1",
    ]

    def bridge(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kfp_bridge.cli", *arguments, *job],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(EXAMPLE)])},
            capture_output=True,
            text=True,
            check=False,
        )

    exported = bridge("export", "-o", "pipeline.yaml")
    assert exported.returncode == 0, exported.stderr
    verified = bridge("verify", "pipeline.yaml")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "the same graph, 7 tasks" in verified.stdout
    own = {"image_processor": {"augmentation", "convert"}, "acme_iris": {"hidden_units"}}
    assert own[project] <= set(read_pipeline_spec(tmp_path / "pipeline.yaml").parameters)
