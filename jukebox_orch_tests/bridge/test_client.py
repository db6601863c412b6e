"""Upload, submit, schedule and sync: idempotent, retried after network failures, with changing tokens."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from jukebox_orch_tests.bridge import graphs as bridge_graphs
from jukebox_orch_tests.bridge.kfp.server import KfpServer, running_kfp_server
from kfp_bridge.compiling.compiler import export
from kfp_bridge.errors import BridgeError, RunError
from kfp_bridge.pipeline_graph import CodeLocation
from kfp_bridge.pipeline_spec import read_pipeline_spec
from kfp_bridge.reading.graph import read_graph
from kfp_bridge.running.local import run_as_processes
from kfp_bridge.service.client import KfpHost, version_name
from kfp_bridge.service.cron import kfp_cron
from kfp_bridge.service.sync import RUN_ID, sync


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "toy.yaml"
    source = CodeLocation(module="jukebox_orch_tests.bridge.graphs", attribute="toy")
    export(read_graph(bridge_graphs.toy, source, job="toy_training"), "image:1", path)
    return path


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with running_kfp_server() as running:
        yield running


@pytest.fixture
def host(server: KfpServer) -> KfpHost:
    return KfpHost(server.url)


def test_same_file_twice_is_one_version(server: KfpServer, host: KfpHost, pipeline: Path, tmp_path: Path):
    first, second = host.upload(pipeline), host.upload(pipeline)
    assert (first.created, second.created) == (True, False)
    assert first.version_id == second.version_id
    assert first.name == version_name("toy-training", pipeline.read_bytes())
    changed = tmp_path / "changed.yaml"
    changed.write_text(pipeline.read_text().replace("image:1", "image:2"))
    assert host.upload(changed).created
    assert (len(server.pipelines), len(server.versions)) == (1, 2)


def test_run_has_parameters_version_and_service_account(server: KfpServer, host: KfpHost, pipeline: Path):
    version = host.upload(pipeline)
    run, started = host.submit(
        version, "first", {"epochs": 3}, service_account="trainer", pipeline_root="s3://bucket/root"
    )
    assert started
    stored = server.runs[run.run_id]
    assert stored.pipeline_version_reference.pipeline_version_id == version.version_id
    assert stored.runtime_config.parameters == {"epochs": 3}
    assert stored.runtime_config.pipeline_root == "s3://bucket/root"
    assert stored.service_account == "trainer"
    assert server.experiments[stored.experiment_id].display_name == "Default"


def test_run_with_same_name_is_not_started_again(server: KfpServer, host: KfpHost, pipeline: Path):
    version = host.upload(pipeline)
    first, _ = host.submit(version, "nightly-2024-01-01", {})
    again, started = host.submit(version, "nightly-2024-01-01", {})
    assert not started
    assert again.run_id == first.run_id
    host.submit(version, "nightly-2024-01-01", {}, experiment="other")
    assert len(server.runs) == 2


def test_requests_are_retried_while_server_fails(server: KfpServer, host: KfpHost, pipeline: Path):
    server.fail_next = 3
    assert host.upload(pipeline).created


def test_lost_response_creates_no_second_object(server: KfpServer, host: KfpHost, pipeline: Path):
    server.lose_next = 1
    version = host.upload(pipeline)
    server.lose_next = 1
    host.upload(Path(pipeline))
    server.lose_next = 2
    host.submit(version, "once", {})
    assert (len(server.pipelines), len(server.versions), len(server.runs), len(server.experiments)) == (
        1,
        1,
        1,
        1,
    )


def test_permanently_failing_server_is_named(server: KfpServer, pipeline: Path):
    server.fail_next = 100
    with pytest.raises(RunError, match=r"127\.0\.0\.1.*HTTP 503 Service Unavailable: try again"):
        KfpHost(server.url, attempts=2).upload(pipeline)


def test_unreachable_or_invalid_host_is_named(pipeline: Path):
    with pytest.raises(RunError, match=r"http://127\.0\.0\.1:9"):
        KfpHost("http://127.0.0.1:9", attempts=1).upload(pipeline)
    with pytest.raises(BridgeError, match="expected a URL"):
        KfpHost("ml-pipeline:8888")


def test_refused_request_is_not_retried(server: KfpServer, host: KfpHost, pipeline: Path):
    server.token = "secret"
    with pytest.raises(RunError, match="HTTP 401 Unauthorized: no or wrong token"):
        host.upload(pipeline)
    assert len(server.requests) == 1


def test_token_file_is_reread_for_every_request(server: KfpServer, pipeline: Path, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("one\n")
    server.token = "one"
    host = KfpHost(server.url, token_file=token)
    host.upload(pipeline)
    server.token = "two"
    token.write_text("two")
    assert not host.upload(pipeline).created
    token.unlink()
    with pytest.raises(BridgeError, match=r"token file .*token: No such file"):
        host.upload(pipeline)


def test_wait_ends_with_run_or_timeout(server: KfpServer, host: KfpHost, pipeline: Path):
    run, _ = host.submit(host.upload(pipeline), "first", {})
    with pytest.raises(RunError, match="is still RUNNING after 0 s"):
        host.wait(run.run_id, timeout=0, poll=0.01)
    server.finish(run.run_id, "FAILED")
    assert host.wait(run.run_id, timeout=5).state == "FAILED"


def test_schedules_become_recurring_runs_once(
    server: KfpServer, host: KfpHost, pipeline: Path, tmp_path: Path
):
    spec, version = read_pipeline_spec(pipeline), host.upload(pipeline)
    assert host.schedule(version, spec, controller_timezone="UTC", experiment="Default") == [
        "nightly: 0 0 2 * * *: created"
    ]
    assert host.schedule(version, spec, controller_timezone="UTC", experiment="Default") == [
        "nightly: 0 0 2 * * *: unchanged"
    ]
    (stored,) = server.recurring_runs.values()
    assert stored.trigger.cron_schedule.cron == "0 0 2 * * *"
    assert stored.runtime_config.parameters == {"epochs": 9}
    assert stored.mode == "DISABLE"
    assert stored.service_account == "trainer"
    changed = tmp_path / "changed.yaml"
    changed.write_text(pipeline.read_text().replace("image:1", "image:2"))
    lines = host.schedule(
        host.upload(changed), read_pipeline_spec(changed), controller_timezone="UTC", experiment="Default"
    )
    assert lines == ["nightly: 0 0 2 * * *: replaced"]
    assert len(server.recurring_runs) == 1


def test_schedule_in_other_timezone_is_refused(host: KfpHost, pipeline: Path):
    with pytest.raises(
        BridgeError, match="runs in UTC, but KFP uses the timezone of its controller, Europe/Berlin"
    ):
        host.schedule(
            host.upload(pipeline),
            read_pipeline_spec(pipeline),
            controller_timezone="Europe/Berlin",
            experiment="Default",
        )


@pytest.mark.parametrize(
    ("cron", "expected"),
    [("*/5 * * * *", "0 */5 * * * *"), ("@daily", "@daily"), ("0 2 * JUL MON-FRI", "0 0 2 * JUL MON-FRI")],
)
def test_cron_gets_seconds_field(cron: str, expected: str):
    assert kfp_cron(cron) == expected


@pytest.mark.parametrize("cron", ["0 2 * * 7", "0 0 L * *", "* * * *", "0 0 * * 1#2", "@every_minute"])
def test_cron_unsupported_by_kfp_is_refused(cron: str):
    with pytest.raises(BridgeError, match="KFP"):
        kfp_cron(cron)


@pytest.fixture(scope="module")
def finished(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_as_processes(read_pipeline_spec(pipeline), {}, tmp_path_factory.mktemp("finished"))


def store_like_kfp(run: Path, root: Path, run_id: str, tasks: list[str]) -> None:
    """Copy the artifacts to where KFP stores them: <root>/<pipeline>/<run id>/<task>/<uuid>/<name>."""
    for task in tasks:
        shutil.copytree(
            run / task,
            root / "toy-training" / run_id / task / "0a1b2c",
            ignore=shutil.ignore_patterns("work"),
        )


@pytest.fixture
def home(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        yield instance


def test_sync_reports_every_event_once(
    server: KfpServer,
    host: KfpHost,
    pipeline: Path,
    finished: Path,
    home: dg.DagsterInstance,
    tmp_path: Path,
):
    root = tmp_path / "store"
    spec, version = read_pipeline_spec(pipeline), host.upload(pipeline)
    # Three runs, so that the list has pages: one succeeded, one failed at the second task, one is still running.
    runs = [host.submit(version, name, {})[0].run_id for name in ("good", "failed", "running")]
    store_like_kfp(finished, root, runs[0], list(spec.tasks))
    store_like_kfp(finished, root, runs[1], ["toy-dataset"])
    store_like_kfp(finished, root, runs[2], ["toy-dataset"])
    server.finish(runs[0], "SUCCEEDED")
    server.finish(runs[1], "FAILED")

    first = {
        s.run_id: (s.state, s.materializations, s.checks) for s in sync(host, "toy-training", home, str(root))
    }
    assert first == {runs[0]: ("SUCCEEDED", 4, 4), runs[1]: ("FAILED", 1, 2)}
    assert all(s.materializations == s.checks == 0 for s in sync(host, "toy-training", home, str(root)))

    server.finish(runs[2], "SUCCEEDED")
    third = {s.run_id: s.materializations for s in sync(host, "toy-training", home, str(root))}
    assert third == {runs[0]: 0, runs[1]: 0, runs[2]: 1}

    materializations = home.fetch_materializations(dg.AssetKey(["toy", "trained_model"]), limit=10).records
    (record,) = materializations
    materialization = record.asset_materialization
    assert materialization is not None
    assert materialization.tags is not None
    assert materialization.tags[RUN_ID] == runs[0]
    assert materialization.metadata["accuracy"].value == 0.875
    path = Path(str(materialization.metadata["path"].value))
    assert path == root / "toy-training" / runs[0] / "toy-trained-model" / "0a1b2c" / "toy_trained_model"
    assert path.is_file()
    assert home.fetch_materializations(dg.AssetKey(["toy", "dataset"]), limit=10).records


def test_sync_names_missing_pipeline(host: KfpHost, home: dg.DagsterInstance):
    with pytest.raises(BridgeError, match="has no pipeline 'absent'"):
        sync(host, "absent", home)


def test_sync_refuses_record_of_unknown_version(
    server: KfpServer, host: KfpHost, pipeline: Path, home: dg.DagsterInstance, tmp_path: Path
):
    run, _ = host.submit(host.upload(pipeline), "bad", {})
    server.finish(run.run_id, "SUCCEEDED")
    record = tmp_path / "toy-training" / run.run_id / "task" / "uuid" / "dagster_record"
    record.parent.mkdir(parents=True)
    record.write_text('{"version": 7}')
    with pytest.raises(BridgeError, match="record version 7, this bridge reads 1"):
        sync(host, "toy-training", home, str(tmp_path))
