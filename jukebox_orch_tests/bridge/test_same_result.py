"""The jukebox gives the same result in Dagster's job, in the exported steps and in another installation."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from jukebox_orch_tests.support.dagster_runs import failed_gate, materializations
from jukebox_orch_tests.support.documented import typed
from jukebox_orch_tests.support.installed import build_wheel, new_environment
from jukebox_orch_tests.support.jukebox_files import write_charts
from kfp_bridge.records import parse_record

pytestmark = pytest.mark.timeout(1800)
DAGSTER = ["-m", "jukebox_orch.definitions", "-j", "jukebox_training", "-c", "run.yaml"]
# Metadata that may differ between runs with the same result.
VOLATILE = ("seconds", "path", "run", "version", "memory", "bytes")
Results = dict[str, tuple[str, dict[str, float]]]


@dataclass(frozen=True)
class Installation:
    """Commands of one Python environment, run in a given folder with a clean environment."""

    scripts: Path

    def run(self, command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.scripts / command[0]), *command[1:]],
            cwd=cwd,
            env={
                "PATH": f"{self.scripts}{os.pathsep}{os.defpath}",
                "HOME": str(cwd),
                "TMPDIR": str(cwd),
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def run_checked(self, command: list[str], cwd: Path, **variables: str) -> str:
        done = self.run(command, cwd, **variables)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def documented(self, folder: Path) -> Path:
        """Run the documented commands in one folder; return the folder of the artifacts of the exported steps."""
        for command in (*typed("export"), *typed("verify")):
            self.run_checked(command, folder)
        (local,) = typed("run-local")
        output = self.run_checked(local, folder)
        return Path(output.rpartition("artifacts in ")[2].strip())


THIS = Installation(Path(sys.executable).parent)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of Dagster's own job with the parameters of the documented `run-local`."""
    (local,) = typed("run-local")
    assert local[2:] == ["jukebox.yaml", "-p", "epochs=20"]
    home = tmp_path_factory.mktemp("home")
    (home / "run.yaml").write_text(yaml.safe_dump({"hyperparameters": {"epochs": 20}}))
    THIS.run_checked(["dagster", "job", "execute", *DAGSTER], home, DAGSTER_HOME=str(home))
    events = materializations(home)
    assert len(events) == 7
    return {key: result_of(event) for key, event in events.items()}


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of the exported file, and folder of the artifacts."""
    folder = tmp_path_factory.mktemp("documented")
    return folder / "jukebox.yaml", THIS.documented(folder)


@pytest.fixture(scope="module")
def other_installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A new environment with the wheel and its locked dependencies, but nothing of this checkout."""
    folder = tmp_path_factory.mktemp("other")
    wheel = build_wheel(folder)
    installed = Installation(new_environment(folder / "env", wheel, ["training", "kfp"]))
    location = installed.run_checked(
        ["python", "-c", "import kfp_bridge; print(kfp_bridge.__file__)"], folder
    )
    assert location.startswith(str(folder / "env"))
    return installed


def result_of(event: dg.AssetMaterialization) -> tuple[str, dict[str, float]]:
    """Return the digest of the value and the numbers of its metadata that describe the model."""
    numbers = {
        name: float(entry.value)
        for name, entry in event.metadata.items()
        if isinstance(entry.value, int | float) and not any(word in name.lower() for word in VOLATILE)
    }
    return str(event.metadata["sha256"].value), numbers


def step_results(run: Path) -> Results:
    return {
        asset.asset: result_of(asset.event)
        for record in run.glob("*/dagster_record")
        for asset in parse_record(record.read_text(), str(record)).assets
    }


def assert_same_result(found: Results, expected: Results) -> None:
    assert found.keys() == expected.keys()
    assert found["jukebox/onnx_model"] == expected["jukebox/onnx_model"]
    for asset in (
        "jukebox/validated_data",
        "jukebox/features",
        "jukebox/trained_model",
        "jukebox/evaluation",
    ):
        assert found[asset][1] == expected[asset][1]
    assert expected["jukebox/evaluation"][1]


def test_documented_commands_reproduce_dagster_bytes_and_metrics(
    documented: tuple[Path, Path], expected: Results
):
    assert_same_result(step_results(documented[1]), expected)


@pytest.mark.slow
def test_other_installation_makes_same_export_and_model(
    other_installation: Installation, documented: tuple[Path, Path], expected: Results, tmp_path: Path
):
    run = other_installation.documented(tmp_path)
    assert (tmp_path / "jukebox.yaml").read_bytes() == documented[0].read_bytes()
    assert_same_result(step_results(run), expected)


# Settings that fail a gate; and by asset of a failed gate, the assets that must not be made.
BAD_MODEL = {"hyperparameters": {"epochs": 3}, "gates": {"metric_floor": 0.99}}
AFTER = {
    "validated_data": {"trained_model", "evaluation", "onnx_model", "registered_model"},
    "evaluation": {"registered_model"},
}


@pytest.fixture(scope="module")
def bad_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Charts that fail validation."""
    return write_charts(tmp_path_factory.mktemp("data") / "charts.parquet", days=3, chart=10, bad=True)


@pytest.fixture(scope="module")
def refusal(bad_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The message with which Dagster's own job refuses the bad data."""
    settings = {"source": {"location": str(bad_data)}}
    return refusal_in_dagster(settings, "validated_data", tmp_path_factory.mktemp("refused"))


def refusal_in_dagster(settings: dict[str, Any], asset: str, home: Path) -> str:
    """Return the failed check of Dagster's own job with its message."""
    (home / "run.yaml").write_text(yaml.safe_dump(settings))
    assert THIS.run(["dagster", "job", "execute", *DAGSTER], home, DAGSTER_HOME=str(home)).returncode == 1
    assert not {key.rpartition("/")[2] for key in materializations(home)} & AFTER[asset]
    return failed_gate(home)


def refusal_in_steps(
    installed: Installation, pipeline: Path, parameters: list[str], asset: str, folder: Path
) -> str:
    """Return the failed check of the exported steps with its message."""
    command = ["kfp-bridge", "run-local", str(pipeline), "--processes", "-o", "run", *parameters]
    done = installed.run(command, folder)
    assert done.returncode == 1, done.stdout
    assert (
        not {path.name.removeprefix("jukebox-").replace("-", "_") for path in (folder / "run").iterdir()}
        & (AFTER[asset])
    )
    return done.stderr.strip().splitlines()[-1].partition(": blocking asset check ")[2]


@pytest.mark.parametrize("where", ["this", pytest.param("other_installation", marks=pytest.mark.slow)])
def test_bad_data_stops_at_same_asset_with_same_message(
    where: str,
    refusal: str,
    bad_data: Path,
    documented: tuple[Path, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
):
    installed = THIS if where == "this" else request.getfixturevalue(where)
    parameters = ["-p", f"location={bad_data}"]
    assert refusal_in_steps(installed, documented[0], parameters, "validated_data", tmp_path) == refusal
    assert refusal.startswith("jukebox/validated_data:invalid_share failed: ")


@pytest.mark.slow
def test_bad_model_stops_at_same_asset_with_same_message(documented: tuple[Path, Path], tmp_path: Path):
    expected = refusal_in_dagster(BAD_MODEL, "evaluation", tmp_path)
    assert expected.startswith("jukebox/evaluation:metric_floor failed: ")
    parameters = ["-p", "epochs=3", "-p", "metric_floor=0.99"]
    assert refusal_in_steps(THIS, documented[0], parameters, "evaluation", tmp_path) == expected
