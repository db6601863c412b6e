"""The jukebox three ways: Dagster's own job, the exported steps as documented, and another installation of both."""

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
# What differs between two runs without being part of the result.
VOLATILE = ("seconds", "path", "run", "version", "memory", "bytes")
Results = dict[str, tuple[str, dict[str, float]]]


@dataclass(frozen=True)
class Installation:
    """The commands of one Python environment, run in a folder and with an environment of their own."""

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

    def does(self, command: list[str], cwd: Path, **variables: str) -> str:
        done = self.run(command, cwd, **variables)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def documented(self, folder: Path) -> Path:
        """Type what the pages say in one folder; where the exported steps left their artifacts."""
        for command in (*typed("export"), *typed("verify")):
            self.does(command, folder)
        (local,) = typed("run-local")
        said = self.does(local, folder)
        return Path(said.rpartition("artifacts in ")[2].strip())


HERE = Installation(Path(sys.executable).parent)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What Dagster's own job makes with the parameters of the documented `run-local`."""
    (local,) = typed("run-local")
    assert local[2:] == ["jukebox.yaml", "-p", "epochs=20"]
    home = tmp_path_factory.mktemp("home")
    (home / "run.yaml").write_text(yaml.safe_dump({"hyperparameters": {"epochs": 20}}))
    HERE.does(["dagster", "job", "execute", *DAGSTER], home, DAGSTER_HOME=str(home))
    made = materializations(home)
    assert len(made) == 7
    return {key: result_of(event) for key, event in made.items()}


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder of the exported file, and folder of the artifacts."""
    folder = tmp_path_factory.mktemp("documented")
    return folder / "jukebox.yaml", HERE.documented(folder)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A new environment with the wheel and what it declares, in the locked versions; nothing of this checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    wheel = build_wheel(folder)
    installed = Installation(new_environment(folder / "env", wheel, ["training", "kfp"]))
    place = installed.does(["python", "-c", "import kfp_bridge; print(kfp_bridge.__file__)"], folder)
    assert place.startswith(str(folder / "env"))
    return installed


def result_of(event: dg.AssetMaterialization) -> tuple[str, dict[str, float]]:
    """Digest of the value, and the numbers of its metadata that say something of the model."""
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


def test_the_documented_commands_make_dagsters_bytes_and_metrics(
    documented: tuple[Path, Path], expected: Results
):
    assert_same_result(step_results(documented[1]), expected)


@pytest.mark.slow
def test_another_installation_exports_the_same_file_and_makes_the_same_model(
    elsewhere: Installation, documented: tuple[Path, Path], expected: Results, tmp_path: Path
):
    run = elsewhere.documented(tmp_path)
    assert (tmp_path / "jukebox.yaml").read_bytes() == documented[0].read_bytes()
    assert_same_result(step_results(run), expected)


# Settings that a gate refuses, the asset where it stands, and what must not be made then.
BAD_MODEL = {"hyperparameters": {"epochs": 3}, "gates": {"metric_floor": 0.99}}
AFTER = {
    "validated_data": {"trained_model", "evaluation", "onnx_model", "registered_model"},
    "evaluation": {"registered_model"},
}


@pytest.fixture(scope="module")
def bad_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Charts that validation refuses."""
    return write_charts(tmp_path_factory.mktemp("data") / "charts.parquet", days=3, chart=10, bad=True)


@pytest.fixture(scope="module")
def refusal(bad_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """How Dagster's own job refuses the bad data."""
    settings = {"source": {"location": str(bad_data)}}
    return refusal_in_dagster(settings, "validated_data", tmp_path_factory.mktemp("refused"))


def refusal_in_dagster(settings: dict[str, Any], asset: str, home: Path) -> str:
    """The failed check with its message."""
    (home / "run.yaml").write_text(yaml.safe_dump(settings))
    assert HERE.run(["dagster", "job", "execute", *DAGSTER], home, DAGSTER_HOME=str(home)).returncode == 1
    assert not {key.rpartition("/")[2] for key in materializations(home)} & AFTER[asset]
    return failed_gate(home)


def refusal_in_steps(
    installed: Installation, pipeline: Path, parameters: list[str], asset: str, folder: Path
) -> str:
    """The same of the exported steps."""
    command = ["kfp-bridge", "run-local", str(pipeline), "--processes", "-o", "run", *parameters]
    done = installed.run(command, folder)
    assert done.returncode == 1, done.stdout
    assert (
        not {path.name.removeprefix("jukebox-").replace("-", "_") for path in (folder / "run").iterdir()}
        & (AFTER[asset])
    )
    return done.stderr.strip().splitlines()[-1].partition(": blocking asset check ")[2]


@pytest.mark.parametrize("where", ["here", pytest.param("elsewhere", marks=pytest.mark.slow)])
def test_bad_data_stops_at_the_same_asset_with_the_same_message(
    where: str,
    refusal: str,
    bad_data: Path,
    documented: tuple[Path, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
):
    installed = HERE if where == "here" else request.getfixturevalue(where)
    parameters = ["-p", f"location={bad_data}"]
    assert refusal_in_steps(installed, documented[0], parameters, "validated_data", tmp_path) == refusal
    assert refusal.startswith("jukebox/validated_data:invalid_share failed: ")


@pytest.mark.slow
def test_a_bad_model_stops_at_the_same_asset_with_the_same_message(
    documented: tuple[Path, Path], tmp_path: Path
):
    expected = refusal_in_dagster(BAD_MODEL, "evaluation", tmp_path)
    assert expected.startswith("jukebox/evaluation:metric_floor failed: ")
    parameters = ["-p", "epochs=3", "-p", "metric_floor=0.99"]
    assert refusal_in_steps(HERE, documented[0], parameters, "evaluation", tmp_path) == expected
