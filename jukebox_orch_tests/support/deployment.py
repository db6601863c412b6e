"""An instance, an artifact store, a model store and MLflow in one folder, to run test projects in."""

import functools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
import yaml
from mlflow import MlflowClient

from jukebox_orch import assets
from jukebox_orch.assets.training_graph import TrainingGraph
from jukebox_orch.contract import ModelProject
from jukebox_orch.deployed_code import DeployedCode
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.storage.artifact_store import ArtifactStore
from jukebox_orch.storage.model_store import ModelStore
from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.projects import Blobs

SMALL = {"hyperparameters": {"epochs": 4}, "gates": {"metric_floor": 0.5}}


@functools.cache
def _code_version(project: type[ModelProject]) -> str:
    return TrainingGraph(project()).code_version


class SteadyGraph(TrainingGraph):
    """A graph whose code version is computed once, because edits of the checkout during the tests would change it."""

    code_version = property(lambda graph: _code_version(type(graph.project)))  # pyright: ignore


class Deployment:
    """A deployment whose runs are executed in this process, or by `dagster job execute` in another."""

    def __init__(self, folder: Path, *, mlflow: str = "", artifacts: str = "", models: str = ""):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / "dagster.yaml", folder)
        self.folder = folder
        self.instance = dg.DagsterInstance.from_config(str(folder))
        self.artifacts = artifacts or str(folder / "artifacts")
        self.models = models or str(folder / "models")
        self.mlflow_uri = mlflow or f"sqlite:///{folder / 'mlflow.db'}"

    def copy(self, folder: Path) -> "Deployment":
        """Copy everything to another folder, and change the recorded paths to it."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("*.lock", "empty"))
        for database in [*folder.rglob("*.db")]:
            _replace(database, str(self.folder), str(folder))
        return Deployment(folder)

    def mlflow(self) -> MlflowResource:
        """Create the resource again, because MLflow's global address is that of the newest resource."""
        root = str(self.folder / "mlflow") if self.mlflow_uri.startswith("sqlite") else ""
        return MlflowResource(tracking_uri=self.mlflow_uri, artifact_root=root)

    def client(self) -> MlflowClient:
        return self.mlflow().client()

    def store(self) -> ModelStore:
        return ModelStore(root=self.models)

    def artifact_store(self) -> ArtifactStore:
        return ArtifactStore(root=self.artifacts)

    def definitions(self, project: ModelProject | None = None, **options: Any) -> dg.Definitions:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assets, "TrainingGraph", SteadyGraph)
            graph = assets.build_training_graph(project or Blobs(), **options)
        return dg.Definitions.merge(
            graph,
            dg.Definitions(
                resources={
                    "artifact_store": self.artifact_store(),
                    "model_store": self.store(),
                    "mlflow": self.mlflow(),
                    "code": DeployedCode("c0ffee", "1.0.0"),
                },
                executor=dg.in_process_executor,
            ),
        )

    def run(
        self,
        job: str = "training",
        *,
        project: ModelProject | None = None,
        only: list[str] | None = None,
        tags: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> dg.ExecuteInProcessResult:
        """Run a job of the project, or materialize the assets in `only` as the UI does."""
        project = project or Blobs()
        definitions = self.definitions(project)
        if only:
            keys = [dg.AssetKey([project.name, asset]) for asset in only]
            selection = dg.AssetSelection.assets(*keys) | dg.AssetSelection.checks_for_assets(*keys)
            adhoc = dg.define_asset_job("adhoc", selection=selection)
            found = dg.Definitions.merge(definitions, dg.Definitions(jobs=[adhoc])).resolve_job_def("adhoc")
        else:
            found = definitions.resolve_job_def(f"{project.name}_{job}")
        return found.execute_in_process(
            run_config=settings, instance=self.instance, raise_on_error=False, tags=dict(tags or {})
        )

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process that uses this deployment."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JUKEBOX_ORCH_", "MLFLOW_"))}
        return {
            **inherited,
            "DAGSTER_HOME": str(self.folder),
            "JUKEBOX_ORCH_ARTIFACTS": self.artifacts,
            "JUKEBOX_ORCH_MODEL_STORE": self.models,
            **({} if self.mlflow_uri.startswith("sqlite") else {"MLFLOW_TRACKING_URI": self.mlflow_uri}),
            **more,
        }

    def execute(
        self,
        job: str,
        config: Mapping[str, Any] | None = None,
        *,
        module: str = "jukebox_orch_tests.support.code_location",
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run `dagster job execute` in a new process with an empty working folder."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        arguments = ["-m", module, "-j", job]
        if config:
            file = self.folder / f"config-{uuid4()}.yaml"
            file.write_text(yaml.safe_dump(dict(config)))
            arguments += ["-c", str(file)]
        result = subprocess.run(
            [sys.executable, "-m", "dagster", "job", "execute", *arguments],
            cwd=empty,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert not list(empty.iterdir()), "the run left files in its working folder"
        return result

    def materialization(self, key: str) -> dg.AssetMaterialization:
        """Return the newest materialization of an asset, for example "blobs/features"."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(key.split("/")))
        assert event is not None, f"{key} was never materialized"
        assert event.asset_materialization is not None
        return event.asset_materialization

    def version(self, key: str) -> str:
        """Return the data version of the newest materialization of an asset."""
        return (self.materialization(key).tags or {})["dagster/data_version"]

    def events(self, kind: dg.DagsterEventType, run_id: str = "") -> list[dg.DagsterEvent]:
        """Return the events of one kind of a run, by default of the newest."""
        run_id = run_id or self.instance.get_runs(limit=1)[0].run_id
        events = (entry.dagster_event for entry in self.instance.all_logs(run_id))
        return [event for event in events if event and event.event_type == kind]

    def metadata(self, key: str) -> dict[str, Any]:
        return {name: value.value for name, value in self.materialization(key).metadata.items()}

    def value(self, key: str) -> Any:
        """Return the newest value of an asset, verified."""
        return self.artifact_store().read(self.materialization(key).metadata, dg.AssetKey(key.split("/")))

    def aliases(self, model: str = "blobs") -> dict[str, str]:
        found = self.client().search_registered_models(f"name = '{model}'")
        return {alias: str(version) for m in found for alias, version in m.aliases.items()}

    def versions(self, model: str = "blobs") -> list[int]:
        """Return the version numbers, ascending; a server gives them as text, the embedded store as numbers."""
        return sorted(int(v.version) for v in self.client().search_model_versions(f"name = '{model}'"))


def _replace(database: Path, old: str, new: str) -> None:
    """Replace a text in every text column of an SQLite database."""
    with sqlite3.connect(database) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for column in connection.execute(f"PRAGMA table_info('{table}')").fetchall():
                name, kind = column[1], column[2].upper()
                if "CHAR" in kind or "TEXT" in kind:
                    connection.execute(
                        f'UPDATE "{table}" SET "{name}" = REPLACE("{name}", ?, ?) WHERE "{name}" LIKE ?',
                        (old, new, f"%{old}%"),
                    )
    connection.close()


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Return the results of the run's checks by "asset:check"."""
    return {f"{e.asset_key.path[-1]}:{e.check_name}": e for e in result.get_asset_check_evaluations()}


def made(result: dg.ExecuteInProcessResult) -> list[str]:
    """Return the names of the assets that the run materialized, in order."""
    return [e.asset_key.path[-1] for e in result.get_asset_materialization_events() if e.asset_key]


def failures(result: dg.ExecuteInProcessResult) -> str:
    """Return every message of the run's failed steps, causes included."""
    texts = []
    for event in result.all_events:
        if event.is_step_failure:
            texts.append(json.dumps(event.event_specific_data, default=str))
    return "\n".join(texts)


def tamper(folder: Path, how: str) -> None:
    """Change the first file of a folder, or the contents of the folder."""
    file = sorted(folder.iterdir())[0]
    if how == "changed":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "removed":
        file.unlink()
    elif how == "renamed":
        file.rename(folder / "other.parquet")
    elif how == "added":
        (folder / "more.parquet").write_bytes(b"")
    elif how == "a folder added":
        (folder / "more").mkdir()
