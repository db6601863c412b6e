"""The jukebox three ways: Dagster's own job, the exported steps apart from each other, and another installation."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import dagster as dg
import pytest
import yaml

from kfp_bridge.records import parse_record
from kfp_bridge.spec import load_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
CONFIG = {"hyperparameters": {"epochs": 3}, "gates": {"metric_floor": 0.1}}
PARAMETERS = ["-p", "epochs=3", "-p", "metric_floor=0.1"]
EXPORT = [
    "-m",
    "jukebox_orch.definitions",
    "--job",
    "jukebox_training",
    "--image",
    "registry.example/jukebox:1",
]
# What differs between two runs without being part of the result.
VOLATILE = ("seconds", "path", "run", "version", "memory", "bytes")
Results = dict[str, tuple[str, dict[str, float]]]


def call(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**kept, "HOME": str(cwd), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def result_of(event: dg.AssetMaterialization) -> tuple[str, dict[str, float]]:
    """Digest of the value, and the numbers of its metadata that say something of the model."""
    numbers = {
        name: float(entry.value)
        for name, entry in event.metadata.items()
        if isinstance(entry.value, int | float) and not any(word in name.lower() for word in VOLATILE)
    }
    return str(event.metadata["sha256"].value), numbers


def dagster_results(home: Path) -> Results:
    with dg.DagsterInstance.from_ref(dg.DagsterInstance.local_temp(str(home)).get_ref()) as instance:
        found = {}
        for key in instance.all_asset_keys():
            event = instance.get_latest_materialization_event(key)
            if event is not None and event.asset_materialization is not None:
                found[key.to_user_string()] = result_of(event.asset_materialization)
    return found


def step_results(run: Path) -> Results:
    return {
        asset.asset: result_of(asset.event)
        for record in run.glob("*/dagster_record")
        for asset in parse_record(record.read_text(), str(record)).assets
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Results:
    home = tmp_path_factory.mktemp("home")
    (home / "run.yaml").write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "jukebox_orch.definitions"]
    done = call([*command, "-j", "jukebox_training", "-c", "run.yaml"], home, DAGSTER_HOME=str(home))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return dagster_results(home)


def bridge(python: Path, *arguments: str) -> list[str]:
    return [str(python), "-m", "kfp_bridge.cli", *arguments]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    done = call(bridge(Path(sys.executable), "export", *EXPORT, "-o", "jukebox.yaml"), folder)
    assert done.returncode == 0, done.stderr
    done = call(bridge(Path(sys.executable), "verify", "jukebox.yaml", *EXPORT), folder)
    assert done.returncode == 0, done.stdout
    return folder / "jukebox.yaml"


def test_the_exported_steps_give_dagsters_bytes_and_metrics(
    expected: Results, pipeline: Path, tmp_path: Path
):
    run = ["run-local", str(pipeline), "--processes", *PARAMETERS, "-o", str(tmp_path / "run")]
    done = call(bridge(Path(sys.executable), *run), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = step_results(tmp_path / "run")
    assert found.keys() == expected.keys()
    assert found["jukebox/onnx_model"] == expected["jukebox/onnx_model"]
    assert found["jukebox/evaluation"][1] == expected["jukebox/evaluation"][1]
    assert found["jukebox/trained_model"][1] == expected["jukebox/trained_model"][1]


def test_another_installation_exports_the_same_file_and_makes_the_same_model(
    expected: Results, pipeline: Path, tmp_path: Path
):
    source = Path(__file__).parents[1]
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    # The heavy dependencies are those of this environment; the project itself is the wheel alone.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    build = [sys.executable, "-m", "uv", "build", "--wheel", "--out-dir", str(tmp_path / "dist"), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    install = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--python", str(python), str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    place = call([str(python), "-c", "import kfp_bridge; print(kfp_bridge.__file__)"], tmp_path).stdout
    assert place.startswith(str(environment))
    done = call(bridge(python, "export", *EXPORT, "-o", str(tmp_path / "again.yaml")), tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.yaml").read_bytes() == pipeline.read_bytes()
    run = ["run-local", "again.yaml", "--processes", *PARAMETERS, "-o", str(tmp_path / "run")]
    done = call(bridge(python, *run), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert step_results(tmp_path / "run")["jukebox/onnx_model"] == expected["jukebox/onnx_model"]


def test_bad_data_stops_both_at_the_same_gate_with_the_same_message(pipeline: Path, tmp_path: Path):
    """A floor that no model reaches fails in `evaluation`, whose message both show; nothing is registered."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "run.yaml").write_text(yaml.safe_dump({**CONFIG, "gates": {"metric_floor": 0.99}}))
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "jukebox_orch.definitions"]
    done = call([*command, "-j", "jukebox_training", "-c", "run.yaml"], home, DAGSTER_HOME=str(home))
    assert done.returncode == 1
    materialized = dagster_results(home)
    run = ["run-local", str(pipeline), "--processes", "-p", "epochs=3", "-p", "metric_floor=0.99"]
    exported = call(bridge(Path(sys.executable), *run, "-o", str(tmp_path / "run")), tmp_path)
    assert exported.returncode == 1
    assert "blocking asset check jukebox/evaluation:metric_floor failed:" in exported.stderr
    message = exported.stderr.strip().rpartition("failed: ")[2]
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        key = dg.AssetCheckKey(dg.AssetKey(["jukebox", "evaluation"]), "metric_floor")
        (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.evaluation is not None
    assert " ".join((record.evaluation.description or "").split()) == message
    assert "jukebox/registered_model" not in materialized
    assert not (tmp_path / "run" / "jukebox-registered-model").exists()
    assert len(load_spec(pipeline).tasks) == 7
