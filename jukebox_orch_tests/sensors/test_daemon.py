"""The sensors in a real daemon with a real instance start one run per event, also across restarts."""

import hashlib
import time
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from jukebox_orch.projects.jukebox import sample
from jukebox_orch_tests.support.daemon import DaemonDeployment
from jukebox_orch_tests.support.git_server import Repository, git_http_server
from jukebox_orch_tests.support.run_api import TOKEN, run_api, webserver
from jukebox_orch_tests.support.servers import alertmanager, s3_server

NEW_DATA = {"patterns": ["*.csv"], "quiet_seconds": 0, "interval_seconds": 1}


def drop(folder: Path, name: str, content: str) -> str:
    """Write a file under another name, rename it, and return its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial"
    partial.write_text(content)
    partial.rename(folder / name)
    return hashlib.sha256(content.encode()).hexdigest()


def event_of(run: dg.DagsterRun) -> str:
    return run.tags["jukebox/event"]


def files_of(run) -> list[str]:
    return [file["sha256"] for file in run.run_config["source"]["files"]]


@pytest.mark.timeout(300)
def test_files_tags_and_alerts_start_one_run_across_restart(tmp_path):
    repository = Repository(tmp_path / "git")
    repository.tag("v1.0.0")
    landing = tmp_path / "landing"
    landing.mkdir()
    deployment = DaemonDeployment(tmp_path)
    with git_http_server(tmp_path / "git") as git_url, alertmanager(tmp_path) as prometheus:
        deployment.configure(
            new_data={"location": str(landing), **NEW_DATA},
            git_tags={
                "repository": f"{git_url}/models.git",
                "require_matching_code": True,
                "interval_seconds": 1,
            },
            model_alerts={
                "url": prometheus.url,
                "matchers": ['model="toy"'],
                "cooldown_seconds": 0,
                "interval_seconds": 1,
            },
        )
        (tmp_path / "commit").write_text("0" * 40)
        prometheus.fire({"model": "toy", "severity": "critical"}, {"model": "other"})  # before a daemon runs
        with deployment.daemon():
            deployment.wait(
                lambda: "1 tag recorded without one" in "".join(deployment.skip_reasons("toy_git_tags"))
            )
            digest = drop(landing, "day1.csv", "1")
            (landing / "link.csv").symlink_to(landing / "day1.csv")
            commit = repository.tag("v1.1.0", annotated=True)
            deployment.wait(lambda: deployment.finished(2))
            waiting = f"v1.1.0 ({commit[:12]}) seen, this deployment is v1.0.5"
            deployment.wait(lambda: waiting in deployment.skip_reasons("toy_git_tags")[0])
            (tmp_path / "commit").write_text(commit)
            deployment.wait(lambda: deployment.finished(3))
        drop(landing, "copy-of-day1.csv", "1")
        with deployment.daemon():
            began = time.time()
            names = ("toy_new_data", "toy_git_tags", "toy_model_alerts")
            deployment.wait(
                lambda: all(
                    sum(tick.timestamp > began for tick in deployment.ticks(name)) > 1 for name in names
                )
            )
    runs = deployment.runs()
    assert {run.status.value for run in runs} == {"SUCCESS"}
    by_event = {run.tags["jukebox/event"]: run for run in runs}
    assert len(runs) == len(by_event) == 3
    assert files_of(by_event["new_data"]) == [digest]
    assert by_event["git_tag"].tags["git/commit"] == commit
    assert by_event["git_tag"].run_config == {"version": "1.1.0"}
    assert by_event["model_alert"].tags["jukebox/alert_severity"] == "critical"
    ticks = deployment.ticks("toy_new_data")
    assert all(tick.status.value in ("SUCCESS", "SKIPPED") for tick in ticks)
    assert "refused (symbolic link): 'link.csv'" in deployment.skip_reasons("toy_new_data")[0]


@pytest.mark.timeout(300)
def test_new_bucket_objects_start_one_run_that_reads_them(tmp_path):
    (tmp_path / "s3" / "landing").mkdir(parents=True)
    with s3_server(tmp_path / "s3") as environment:
        deployment = DaemonDeployment(tmp_path, **environment)
        deployment.configure(new_data={"location": "s3://landing/days", **NEW_DATA})
        digests = [drop(tmp_path / "s3" / "landing" / "days", f"{i}.csv", str(i)) for i in range(3)]
        with deployment.daemon():
            deployment.wait(lambda: deployment.finished(1))
    (run,) = deployment.runs()
    assert run.status.value == "SUCCESS"
    assert sorted(files_of(run)) == sorted(digests)


@pytest.mark.timeout(300)
def test_corrupted_cursor_is_reported_and_rebuilt_without_second_run(tmp_path):
    deployment = DaemonDeployment(tmp_path)
    landing = tmp_path / "landing"
    deployment.configure(new_data={"location": str(landing), **NEW_DATA})
    first = drop(landing, "day1.csv", "1")
    with deployment.daemon():
        deployment.wait(lambda: deployment.finished(1))
        deployment.wait(lambda: deployment.ticks("toy_new_data")[0].status.value == "SKIPPED")
    instance = deployment.instance
    (state,) = [s for s in instance.all_instigator_state() if s.instigator_name == "toy_new_data"]
    data = cast("Any", state.instigator_data)
    instance.update_instigator_state(state.with_data(data._replace(cursor=data.cursor[:-30])))
    with deployment.daemon():
        deployment.wait(lambda: any("it is not JSON" in r for r in deployment.skip_reasons("toy_new_data")))
        second = drop(landing, "day2.csv", "2")
        deployment.wait(lambda: deployment.finished(2))
    assert [files_of(run) for run in deployment.runs()] == [[first], [second]]


@pytest.mark.timeout(600)
def test_every_trigger_trains_on_data_of_deployment(tmp_path):
    """Test the jukebox project with every trigger, the HTTP call among them, as deployed on one machine."""
    repository = Repository(tmp_path / "git")
    repository.tag("v1.0.0")
    charts, projects = tmp_path / "charts", tmp_path / "projects.yaml"
    partial = tmp_path / "partial"
    partial.mkdir()
    for name, table in sample.generate().items():
        pd.DataFrame(table).to_parquet(partial / f"{name}.parquet")
    partial.rename(charts)
    deployment = DaemonDeployment(
        tmp_path,
        "jukebox_orch.definitions",
        JUKEBOX_ORCH_PROJECTS=str(projects),
    )
    with git_http_server(tmp_path / "git") as git_url, alertmanager(tmp_path) as prometheus:
        triggers = {
            "new_data": {"location": str(charts), **NEW_DATA, "patterns": ["*.parquet"]},
            "git_tags": {"repository": f"{git_url}/models.git", "interval_seconds": 1},
            "model_alerts": {"url": prometheus.url, "matchers": ['model="jukebox"'], "interval_seconds": 1},
            "schedule": {"cron": "* * * * *"},
        }
        settings = {
            "source": {"location": str(charts)},
            "hyperparameters": {"epochs": 2},
            "gates": {"metric_floor": None},
        }
        projects.write_text(yaml.safe_dump({"jukebox": {**settings, "triggers": triggers}}))
        with (
            deployment.daemon(),
            webserver(tmp_path, ["-m", "jukebox_orch.definitions"], deployment.environment) as port,
            run_api(tmp_path, port) as (client, _),
        ):
            recorded = "1 tag recorded without one"
            deployment.wait(lambda: recorded in "".join(deployment.skip_reasons("jukebox_git_tags")))
            repository.tag("v1.1.0")
            prometheus.fire({"model": "jukebox"})
            answer = client.post(
                "/runs",
                json={"job": "jukebox_training"},
                headers={"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "nightly"},
            )
            assert answer.status_code == 202, answer.text
            expected = {"new_data", "git_tag", "model_alert", "http", "schedule"}
            deployment.wait(
                lambda: expected <= {event_of(run) for run in deployment.runs() if run.is_finished},
                seconds=400,
            )
    runs = [run for run in deployment.runs() if run.is_finished]
    assert {run.status.value for run in runs} == {"SUCCESS"}, deployment.log()
    client = MlflowClient(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    assert [model.name for model in client.search_registered_models()] == ["jukebox"]
    versions = client.search_model_versions("name='jukebox'")
    assert {version.tags["dataset_name"] for version in versions} == {str(charts)}
    key = dg.AssetKey(["jukebox", "dataset"])
    made = deployment.instance.fetch_materializations(key, limit=100).records
    names = {record.run_id: record.asset_materialization.metadata["dataset name"].value for record in made}  # pyright: ignore[reportOptionalMemberAccess]
    assert set(names.values()) == {str(charts)}
    assert {run.run_id for run in runs} <= names.keys()  # another scheduled run may have begun
    started_by_data = next(run for run in runs if event_of(run) == "new_data")
    (version,) = (v for v in versions if v.tags["jukebox/event"] == "new_data")
    for tag in ("jukebox/event_id", "jukebox/file_digests"):
        assert version.tags[tag] == started_by_data.tags[tag]
