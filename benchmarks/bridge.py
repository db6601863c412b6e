"""Export + verify of generated graphs, and what an exported step costs beside the asset's own compute.

    python -m benchmarks bridge

Goals: 500 assets exported and verified in 5 s, linear in the number of assets; a step within 2.5 s of its
asset's compute, shown beside `python -c 'import dagster'`, which is most of it.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import dagster as dg

from benchmarks.measure import PYTHON, last_json, repeat, run
from kfp_bridge.compiling.compiler import export
from kfp_bridge.pipeline_graph import CodeLocation
from kfp_bridge.pipeline_spec import read_pipeline_spec
from kfp_bridge.reading.graph import read_graph
from kfp_bridge.running.local import executor_input, run_as_processes, task_command
from kfp_bridge.verifying.verify import verify

SIZES = (10, 100, 500)
WIDTH = 10
IMAGE = "registry.example/graph:1"


def main() -> None:
    """Print medians of three with their spread."""
    for size in SIZES:
        medians = repeat(f"export + verify of {size} assets", lambda size=size: last_json(_in_process(size)))
        print(f"  per asset {1000 * medians['seconds'] / size:.2f} ms")
    with tempfile.TemporaryDirectory() as folder:
        steps(Path(folder))


def steps(folder: Path) -> None:
    """Wall and CPU seconds of one exported step, and of importing Dagster alone."""
    source = CodeLocation(module="jukebox_orch_tests.bridge.graphs", attribute="toy")
    export(read_graph(dg_toy(), source, job="toy_training"), IMAGE, folder / "toy.yaml")
    spec = read_pipeline_spec(folder / "toy.yaml")
    run_as_processes(spec, {}, folder / "run", say=lambda _: None)
    text = json.dumps(executor_input(spec, "toy-trained-model", {}, folder / "run"))
    command = task_command(spec, "toy-trained-model", text)

    def step() -> dict[str, float]:
        used = run([PYTHON, *command[1:]])
        return {"wall s": used.wall, "cpu s": used.cpu}

    def bare() -> dict[str, float]:
        used = run([PYTHON, "-c", "import dagster"])
        return {"wall s": used.wall, "cpu s": used.cpu}

    whole = repeat("one exported step, compute of the asset under 0.1 s", step)
    alone = repeat("python -c 'import dagster'", bare)
    print(
        f"  the step's own share: {whole['wall s'] - alone['wall s']:.2f} s wall, "
        f"{whole['cpu s'] - alone['cpu s']:.2f} s cpu"
    )


def dg_toy() -> dg.Definitions:
    """The graph whose step is timed."""
    from jukebox_orch_tests.bridge import graphs as bridge_graphs

    return bridge_graphs.toy


def generated(size: int) -> dg.Definitions:
    """Layers of ten assets; each takes two of the layer before and has one blocking check."""

    def make(index: int) -> dg.AssetsDefinition:
        name, above = f"asset_{index:04}", (index // WIDTH - 1) * WIDTH
        deps = [f"asset_{above + (index + offset) % WIDTH:04}" for offset in (0, 1)] if above >= 0 else []

        @dg.asset(
            name=name,
            deps=deps,
            metadata={"kfp/artifact_type": "Dataset"},
            code_version="1",
            retry_policy=dg.RetryPolicy(max_retries=2, delay=1),
            check_specs=[dg.AssetCheckSpec("fine", asset=name, blocking=True)],
        )
        def made():
            yield dg.Output(1)
            yield dg.AssetCheckResult(check_name="fine", passed=True)

        return made

    return dg.Definitions(assets=[make(index) for index in range(size)])


def measure(size: int) -> dict[str, float]:
    """Seconds of reading the graph, exporting, and reading the YAML back with verification."""
    defs = generated(size)
    import kfp.compiler
    import kfp.kubernetes  # noqa: F401 - the import of the SDK is not what is measured

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        started = time.perf_counter()
        cpu = time.process_time()
        graph = read_graph(defs, CodeLocation(module="generated"))
        export(graph, IMAGE, path)
        exported = time.perf_counter()
        if verify(graph, IMAGE, read_pipeline_spec(path)):
            raise RuntimeError("the export is not the graph")
        ended = time.perf_counter()
        return {
            "seconds": ended - started,
            "cpu": time.process_time() - cpu,
            "export": exported - started,
            "verify": ended - exported,
            "KiB": path.stat().st_size / 1024,
        }


def _in_process(size: int) -> str:
    return run([PYTHON, "-m", "benchmarks.bridge", str(size)]).output


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
