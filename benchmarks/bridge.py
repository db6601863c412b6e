"""Measures export + verify of generated graphs, and the overhead of an exported step over the asset's compute.

    python -m benchmarks bridge

Goals: 500 assets exported and verified in 5 s, linear in the number of assets; at most 2.5 s of overhead per step.
Most of that is `python -c 'import dagster'`, which is measured too.
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
    """Print wall and CPU seconds of one exported step, and of importing Dagster."""
    source = CodeLocation(module="jukebox_orch_tests.bridge.graphs", attribute="toy")
    export(read_graph(dg_toy(), source, job="toy_training"), IMAGE, folder / "toy.yaml")
    spec = read_pipeline_spec(folder / "toy.yaml")
    run_as_processes(spec, {}, folder / "run", echo=lambda _: None)
    text = json.dumps(executor_input(spec, "toy-trained-model", {}, folder / "run"))
    command = task_command(spec, "toy-trained-model", text)

    def step() -> dict[str, float]:
        usage = run([PYTHON, *command[1:]])
        return {"wall s": usage.wall, "cpu s": usage.cpu}

    def dagster_import() -> dict[str, float]:
        usage = run([PYTHON, "-c", "import dagster"])
        return {"wall s": usage.wall, "cpu s": usage.cpu}

    total = repeat("one exported step, compute of the asset under 0.1 s", step)
    imported = repeat("python -c 'import dagster'", dagster_import)
    print(
        f"  step without the import of Dagster: {total['wall s'] - imported['wall s']:.2f} s wall, "
        f"{total['cpu s'] - imported['cpu s']:.2f} s cpu"
    )


def dg_toy() -> dg.Definitions:
    """Return the graph whose step is timed."""
    from jukebox_orch_tests.bridge import graphs as bridge_graphs

    return bridge_graphs.toy


def generated(size: int) -> dg.Definitions:
    """Return layers of ten assets; each depends on two of the previous layer and has one blocking check."""

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
    """Return the seconds of reading the graph and exporting it, and of reading the YAML back and verifying it."""
    defs = generated(size)
    import kfp.compiler
    import kfp.kubernetes  # noqa: F401 - the import of the SDK is not measured

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        started = time.perf_counter()
        cpu = time.process_time()
        graph = read_graph(defs, CodeLocation(module="generated"))
        export(graph, IMAGE, path)
        exported = time.perf_counter()
        if verify(graph, IMAGE, read_pipeline_spec(path)):
            raise RuntimeError("the export differs from the graph")
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
