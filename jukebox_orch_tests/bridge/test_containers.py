"""`run-local` in containers, including the failures that kfp.local misses."""

from pathlib import Path

import pytest

from jukebox_orch_tests.bridge import graphs as bridge_graphs
from jukebox_orch_tests.support import parts
from kfp_bridge.compiling.compiler import export
from kfp_bridge.errors import BridgeError, RunError
from kfp_bridge.pipeline_graph import CodeLocation
from kfp_bridge.pipeline_spec import PipelineSpec, read_pipeline_spec
from kfp_bridge.reading.graph import read_graph
from kfp_bridge.records import parse_record
from kfp_bridge.running.local import (
    has_container_engine,
    raise_on_lost_failure,
    run_as_processes,
    run_in_containers,
)

IMAGE = "localhost/jukebox-step:dev"
HINT = f"run Docker, or `podman system service` and set DOCKER_HOST; it needs {IMAGE} of `make image`"


def exported(attribute: str, folder: Path, job: str | None = None) -> PipelineSpec:
    source = CodeLocation(module="jukebox_orch_tests.bridge.graphs", attribute=attribute)
    graph = read_graph(getattr(bridge_graphs, attribute), source, job=job)
    export(graph, IMAGE, folder / "pipeline.yaml")
    return read_pipeline_spec(folder / "pipeline.yaml")


def has_step_image() -> bool:
    import docker

    if not has_container_engine():
        return False
    return any(IMAGE in image.tags for image in docker.from_env().images.list())


@pytest.fixture
def engine() -> None:
    if not has_step_image():
        parts.absent("a container engine with the step image", HINT)


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_graph_runs_in_containers(tmp_path: Path):
    spec = exported("all_kinds", tmp_path)
    run_in_containers(spec, tmp_path / "pipeline.yaml", {"factor": 5}, tmp_path / "run")
    (value,) = (tmp_path / "run").glob("*/scaled/scaled")
    assert value.read_text() == "[10]"
    (record,) = (tmp_path / "run").glob("*/positive/dagster_record")
    assert len(parse_record(record.read_text(), "record").checks) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_failed_gate_stops_containers(tmp_path: Path):
    spec = exported("toy", tmp_path, "toy_training")
    values = {"bad_data": True, "floor": 0.5}
    with pytest.raises(
        RunError, match="toy-dataset failed: blocking asset check toy/dataset:not_empty failed"
    ):
        run_in_containers(spec, tmp_path / "pipeline.yaml", values, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*/toy-trained-model"))


def test_parameter_empty_for_kfp_local_is_named(tmp_path: Path):
    spec = exported("toy", tmp_path, "toy_training")
    with pytest.raises(BridgeError, match="parameter floor of pipeline toy-training is empty"):
        run_in_containers(spec, tmp_path / "pipeline.yaml", {}, tmp_path / "run")


def test_container_deleted_before_exit_code_counts_as_failed(tmp_path: Path):
    spec = exported("toy", tmp_path, "toy_training")
    with pytest.raises(RunError):
        run_as_processes(spec, {"bad_data": True}, tmp_path / "root" / "toy-training-2026")
    with pytest.raises(
        RunError, match="toy-dataset failed: blocking asset check toy/dataset:not_empty failed"
    ):
        raise_on_lost_failure(spec, tmp_path / "root")
    (tmp_path / "root" / "toy-training-2026" / "toy-dataset" / "dagster_record").unlink()
    with pytest.raises(
        RunError, match="task toy-dataset of pipeline toy-training failed: it wrote no record"
    ):
        raise_on_lost_failure(spec, tmp_path / "root")
