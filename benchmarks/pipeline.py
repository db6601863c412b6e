"""Compares the jukebox job, start to exit, with a plain script, on the real rows and on 1.13 million simulated rows."""

import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from benchmarks.measure import PYTHON, folder_bytes, last_json, repeat, run

# Enough to reach the plain script's accuracy on the simulated rows.
FAST: dict[str, float | bool] = {"epochs": 25, "refit": False}
_IMPORTS = 15


def main(data: Path) -> None:
    """Print all figures.

    Args:
        data: folder of the real songs and rankings.
    """
    imports()
    with tempfile.TemporaryDirectory() as folder:
        simulated = Path(folder) / "simulated"
        run([PYTHON, "benchmarks/simulate.py", str(data), str(simulated)])
        for name, source in (("16 k real rows", data), ("1.13 M simulated rows", simulated)):
            reference = repeat(f"{name}, plain script", lambda source=source: _reference(source))
            default = repeat(f"{name}, job by default", lambda source=source: _job(source, {}))
            fast = repeat(f"{name}, job configured as {FAST}", lambda source=source: _job(source, FAST))
            parallel = repeat(
                f"{name}, job by default, multiprocess executor",
                lambda source=source: _job(source, {}, executor="multiprocess"),
            )
            direct = repeat(f"{name}, same functions in one process", lambda source=source: _direct(source))
            print(
                f"{name}: plain script / default job {reference['wall'] / default['wall']:.2f} x, "
                f"plain script / configured job {reference['wall'] / fast['wall']:.2f} x, "
                f"multiprocess / in process {parallel['wall'] / default['wall']:.2f} x, "
                f"orchestration {default['wall'] - direct['wall']:.2f} s"
            )


def imports() -> None:
    """Print the import time of the definitions and of Dagster, measured alternately because the machine varies."""
    modules = ("dagster", "jukebox_orch.definitions")
    turns = [[run([PYTHON, "-c", f"import {module}"]) for module in modules] for _ in range(_IMPORTS)]
    for figure in ("wall", "cpu"):
        dagster, definitions = (
            statistics.median(getattr(usage, figure) for usage in turn) for turn in zip(*turns, strict=True)
        )
        print(
            f"import {figure}: dagster {dagster:.3f} s, definitions {definitions:.3f} s, {definitions / dagster:.2f} x"
        )


def _reference(source: Path) -> dict[str, float]:
    usage = run([PYTHON, "benchmarks/reference.py", "--data", str(source)])
    figures = last_json(usage.output)
    return {
        "wall": usage.wall,
        "cpu": usage.cpu,
        "peak_mib": usage.peak,
        "written_mib": figures["bytes_written"] / 2**20,
        "accuracy": figures["accuracy"],
    }


def _job(
    source: Path, hyperparameters: Mapping[str, float | bool], executor: str = "in_process"
) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "dagster.yaml").write_text(Path("dagster.yaml").read_text())
        config = home / "run.yaml"
        config.write_text(
            yaml.safe_dump({"source": {"location": str(source)}, "hyperparameters": dict(hyperparameters)})
        )
        job = [
            "-m",
            "dagster",
            "job",
            "execute",
            "-m",
            "jukebox_orch.definitions",
            "-j",
            "jukebox_training",
            "-c",
        ]
        usage = run(
            [PYTHON, *job, str(config)],
            {"DAGSTER_HOME": str(home), "JUKEBOX_ORCH_EXECUTOR": executor},
        )
        metrics = json.loads((home / "models" / "jukebox" / "1" / "metrics.json").read_text())
        return {
            "wall": usage.wall,
            "cpu": usage.cpu,
            "peak_mib": usage.peak,
            "artifacts_mib": folder_bytes(home / "artifacts") / 2**20,
            "written_mib": folder_bytes(home) / 2**20,
            "accuracy": metrics["accuracy"],
        }


def _direct(source: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        usage = run([PYTHON, "-m", "benchmarks.direct", "--data", str(source), "--home", folder])
        return {"wall": usage.wall, "cpu": usage.cpu, "accuracy": last_json(usage.output)["accuracy"]}
