"""TrainingPipeline in a real dg project: two instances of one project beside the user's own assets."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from jukebox_orch.components import training_pipeline
from jukebox_orch_tests.installed import install

FILES = {
    "pyproject.toml": """
[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "flowers"
""",
    "flowers/__init__.py": "",
    "flowers/defs/__init__.py": "",
    "flowers/defs/own.py": """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["emea", "emea_blobs", "registered_model"])])
def newsletter() -> None:
    "Tells the readers about the new model."
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
    """The dg project on disk, and the metadata of a distribution that brings the model project."""
    root = tmp_path_factory.mktemp("dg")
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip())
    install(
        root,
        "acme-blobs",
        {
            "jukebox_orch.projects": {"blobs": "jukebox_orch_tests.projects:Blobs"},
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
def runs(defs: dg.Definitions) -> Iterator[SimpleNamespace]:
    """Both instances trained into one Dagster instance."""
    with dg.DagsterInstance.ephemeral() as instance:
        results = {
            region: defs.resolve_job_def(f"{region}_blobs_training").execute_in_process(instance=instance)
            for region in ("emea", "apac")
        }
        yield SimpleNamespace(instance=instance, results=results)


def test_both_instances_stand_beside_the_users_own_assets(defs: dg.Definitions) -> None:
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    nouns = (
        "dataset", "validated_data", "features", "trained_model", "evaluation", "onnx_model", "registered_model",
    )  # fmt: skip
    assert keys == {"newsletter", *(f"{r}/{r}_blobs/{noun}" for r in ("emea", "apac") for noun in nouns)}


def test_jobs_sensors_and_pools_of_the_instances_are_different(defs: dg.Definitions) -> None:
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
        for region in ("emea", "apac")
    }
    assert pools["emea"]
    assert not pools["emea"] & pools["apac"]


def test_a_trigger_runs_the_sensor_of_its_instance_only(defs: dg.Definitions) -> None:
    running = {
        sensor.name
        for sensor in defs.get_repository_def().sensor_defs
        if sensor.default_status == dg.DefaultSensorStatus.RUNNING
    }
    assert running == {"apac_blobs_new_data"}


def test_both_train_with_their_own_settings(runs: SimpleNamespace) -> None:
    for region, epochs, batch_size, seed in (("emea", 20, 32, 42), ("apac", 25, 16, 7)):
        assert runs.results[region].success
        training = runs.results[region].output_for_node(f"{region}__{region}_blobs__trained_model").training
        assert (training.hyperparameters["epochs"], training.hyperparameters["batch_size"]) == (
            epochs,
            batch_size,
        )
        assert training.seed == seed


def test_models_aliases_and_files_are_separate(runs: SimpleNamespace, folder: Path) -> None:
    registered = {
        region: runs.results[region].output_for_node(f"{region}__{region}_blobs__registered_model")
        for region in ("emea", "apac")
    }
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
        ("project: nosuch", "no model project 'nosuch': installed are"),
        (
            "project: blobs\n  hyperparameters: {epochs: 0}",
            "epochs = 0: Input should be greater than or equal to 1",
        ),
        ("project: blobs\n  gates: {floor: 1}", "floor"),
        ("project: blobs\n  epochs: 3", "epochs"),
    ],
)
def test_a_wrong_setting_is_told(
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
    told, error = "", raised.value
    while error is not None:
        told, error = f"{told}\n{error}", error.__cause__
    assert message in told
    for name in [name for name in sys.modules if name.split(".")[0] == "wrong"]:
        del sys.modules[name]


def test_dg_lists_the_component_with_its_schema(folder: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("dg"), "list", "components", "--json"],
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
    components = {entry["key"]: entry for entry in json.loads(done.stdout)["items"]}
    assert "training graph" in components["jukebox_orch.components.TrainingPipeline"]["summary"]
