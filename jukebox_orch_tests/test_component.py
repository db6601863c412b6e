"""TrainingPipeline in a real dg project: two instances of one project and the user's own assets."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from jukebox_orch import deployment
from jukebox_orch.assets import NODES
from jukebox_orch.components import training_pipeline
from jukebox_orch.project_settings import ProjectSettings
from jukebox_orch.storage.artifact_store import ArtifactStore
from jukebox_orch_tests.support.installed import install
from jukebox_orch_tests.support.projects import Blobs

COMPONENT = "jukebox_orch.components.TrainingPipeline"
REGIONS = ("emea", "apac")
NAMES = [node.name for node in NODES]
FILES = {
    "pyproject.toml": """
[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "flowers"
""",
    "flowers/__init__.py": "",
    "flowers/definitions.py": """
from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    return dg.load_from_defs_folder(path_within_project=Path(__file__))
""",
    "flowers/defs/__init__.py": "",
    "flowers/defs/own.py": """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["emea", "emea_blobs", "registered_model"])])
def newsletter() -> None:
    "Announces the new model."
""",
    "flowers/defs/emea/defs.yaml": """
type: jukebox_orch.components.TrainingPipeline
attributes:
  project: blobs
  key_prefix: [emea]
  hyperparameters: {epochs: 20}
  gates: {metric_floor: 0.6}
""",
    "flowers/defs/apac/defs.yaml": """
type: jukebox_orch.components.TrainingPipeline
attributes:
  project: blobs
  key_prefix: [apac]
  hyperparameters: {epochs: 25, batch_size: 16}
  settings: {seed: 7}
  triggers:
    new_data: {location: /data/landing}
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the dg project, and the metadata of a distribution that contains the model project."""
    root = tmp_path_factory.mktemp("dg")
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip())
    install(
        root,
        "acme-blobs",
        {
            "jukebox_orch.projects": {"blobs": "jukebox_orch_tests.support.projects:Blobs"},
            "dagster_dg_cli.registry_modules": {"acme_blobs": "jukebox_orch.components"},
        },
    )
    return root


@pytest.fixture(scope="module")
def defs(folder: Path) -> Iterator[dg.Definitions]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        (folder / "home").mkdir()
        training_pipeline._deployment_resources.cache_clear()
        yield dg.load_from_defs_folder(path_within_project=folder)
        training_pipeline._deployment_resources.cache_clear()


@pytest.fixture(scope="module")
def values(folder: Path, defs: dg.Definitions, migrated: Path) -> dict[str, dict[str, Any]]:
    """Train both instances; return the values of their assets by region and asset."""
    home = folder / "home"
    shutil.copy(migrated, home / "mlflow.db")
    store = ArtifactStore(root=str(home / "artifacts"))
    found: dict[str, dict[str, Any]] = {region: {} for region in REGIONS}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for region in REGIONS:
            job = defs.resolve_job_def(f"{region}_blobs_training")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DAGSTER_HOME", str(home))
                assert job.execute_in_process(instance=instance).success
        for region, asset in itertools.product(REGIONS, NAMES):
            key = dg.AssetKey([region, f"{region}_blobs", asset])
            event = instance.get_latest_materialization_event(key)
            assert event is not None
            assert event.asset_materialization is not None
            found[region][asset] = store.read(event.asset_materialization.metadata, key)
    return found


def test_instances_are_added_to_assets_of_user(defs: dg.Definitions) -> None:
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {"newsletter", *(f"{r}/{r}_blobs/{asset}" for r in REGIONS for asset in NAMES)}


def test_instances_have_separate_jobs_sensors_and_pools(defs: dg.Definitions) -> None:
    repository = defs.get_repository_def()
    for names in (
        [job.name for job in repository.get_all_jobs() if not job.name.startswith("__")],
        [sensor.name for sensor in repository.sensor_defs],
    ):
        emea = {name for name in names if name.startswith("emea_blobs")}
        apac = {name for name in names if name.startswith("apac_blobs")}
        assert len(emea) == len(apac) > 0
        assert emea | apac == set(names)
    pools = {
        region: {
            node.definition.pool  # pyright: ignore[reportAttributeAccessIssue]
            for node in repository.get_job(f"{region}_blobs_training").nodes
        }
        - {None}
        for region in REGIONS
    }
    assert pools["emea"]
    assert not pools["emea"] & pools["apac"]


def test_trigger_enables_sensor_of_its_instance_only(defs: dg.Definitions) -> None:
    running = {
        sensor.name
        for sensor in defs.get_repository_def().sensor_defs
        if sensor.default_status == dg.DefaultSensorStatus.RUNNING
    }
    assert running == {"apac_blobs_new_data"}


def test_instances_have_separate_cursors_for_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    (tmp_path / "landing").mkdir()
    for _ in range(1500):  # too many for a cursor, so that the sensor stores its state in files
        (tmp_path / "landing" / f"{uuid.uuid4().hex}.csv").write_text("a\n1\n")
    trigger = {"location": str(tmp_path / "landing"), "patterns": ["*"], "quiet_seconds": 0}
    for region in REGIONS:
        settings = ProjectSettings(triggers={"new_data": trigger})
        sensor = next(iter(deployment.automation(f"{region}_blobs", Blobs(), settings).sensors or ()))
        requests, cursor = [], None
        for _ in range(4):
            with dg.DagsterInstance.ephemeral() as instance:
                context = dg.build_sensor_context(instance=instance, cursor=cursor)
                result = sensor(context)
            assert isinstance(result, dg.SensorResult)
            cursor = result.cursor
            requests += result.run_requests or []
        assert sensor.job_name == f"{region}_blobs_training"
        assert len(requests) == 1, "the other instance's tick has used the file"
    folders = {path.name for path in (tmp_path / "home" / "sensors").iterdir()}
    assert folders == {f"{region}_blobs" for region in REGIONS}


def test_instances_train_with_their_settings(values: dict[str, dict[str, Any]]) -> None:
    for region, epochs, batch_size, seed in (("emea", 20, 32, 42), ("apac", 25, 16, 7)):
        training = values[region]["trained_model"].report
        assert (training.hyperparameters["epochs"], training.hyperparameters["batch_size"]) == (
            epochs,
            batch_size,
        )
        assert training.seed == seed


def test_instances_have_separate_models_aliases_and_files(
    values: dict[str, dict[str, Any]], folder: Path
) -> None:
    registered = {region: values[region]["registered_model"] for region in REGIONS}
    for region, model in registered.items():
        assert model.model_name == f"{region}_blobs"
        assert model.version == "1"
        assert "champion" in model.aliases
        files = list((folder / "home" / "models" / f"{region}_blobs").rglob("model.onnx"))
        assert len(files) == 1
        assert (folder / "home" / "artifacts" / region / f"{region}_blobs" / "features").is_dir()
    assert registered["emea"].sha256 != registered["apac"].sha256


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("project: nosuch", "no model project 'nosuch': installed: "),
        (
            "project: blobs\n  hyperparameters: {epochs: 0}",
            "epochs = 0: Input should be greater than or equal to 1",
        ),
        ("project: blobs\n  gates: {floor: 1}", "floor"),
        ("project: blobs\n  epochs: 3", "epochs"),
    ],
)
def test_wrong_setting_fails_with_reason(
    attributes: str, message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    shutil.copytree(folder, root, ignore=shutil.ignore_patterns("home", "__pycache__"))
    (root / "flowers").rename(root / "wrong")
    (root / "pyproject.toml").write_text(FILES["pyproject.toml"].replace("flowers", "wrong"))
    shutil.rmtree(root / "wrong" / "defs" / "apac")
    (root / "wrong" / "defs" / "emea" / "defs.yaml").write_text(
        f"type: jukebox_orch.components.TrainingPipeline\nattributes:\n  {attributes}\n"
    )
    monkeypatch.syspath_prepend(str(root))
    with pytest.raises(Exception, match=r"(?s).*") as raised:
        dg.load_from_defs_folder(path_within_project=root)
    messages, error = "", raised.value
    while error is not None:
        messages, error = f"{messages}\n{error}", error.__cause__
    assert message in messages
    for name in [name for name in sys.modules if name.split(".")[0] == "wrong"]:
        del sys.modules[name]


def dg_command(folder: Path, *arguments: str) -> str:
    """Run Dagster's `dg` in the project's folder and return its output."""
    done = subprocess.run(
        [Path(sys.executable).with_name("dg"), *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(folder),
            "DAGSTER_HOME": str(folder / "home"),
            "DG_CLI_CONFIG": str(folder / "dg.toml"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dg_lists_the_component(folder: Path) -> None:
    components = json.loads(dg_command(folder, "list", "components", "--json"))["items"]
    summaries = {entry["key"]: entry["summary"] for entry in components}
    assert "training graph" in summaries[COMPONENT]


def test_dg_shows_documentation_and_attribute_descriptions(folder: Path) -> None:
    text = dg_command(folder, "utils", "inspect-component", COMPONENT)
    assert "Seven assets with their checks, five jobs, three sensors and a schedule." in text
    schema = json.JSONDecoder().raw_decode(text.split("Component schema:")[1].lstrip())[0]
    assert set(schema["properties"]) == {
        "project", "key_prefix", "name", "source", "split", "hyperparameters", "gates", "settings", "triggers",
        "resources",
    }  # fmt: skip
    assert not [name for name, field in schema["properties"].items() if not field.get("description")]
    assert schema["required"] == ["project"]


def test_dg_checks_and_lists_definitions(folder: Path) -> None:
    dg_command(folder, "check", "yaml")
    listed = json.loads(dg_command(folder, "list", "defs", "--json"))
    assert {"newsletter", "emea/emea_blobs/dataset", "apac/apac_blobs/dataset"} <= {
        asset["asset_key"] for asset in listed["assets"]
    }
