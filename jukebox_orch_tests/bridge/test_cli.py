"""The command line: the documented commands work; an error has its reason and the documented exit code."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jukebox_orch_tests.bridge.kfp.server import running_kfp_server
from kfp_bridge.cli import app

TOY = [
    "-m",
    "jukebox_orch_tests.bridge.graphs",
    "-a",
    "toy",
    "--job",
    "toy_training",
    "--image",
    "registry.example/toy:1",
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "toy.yaml"
    result = run("export", *TOY, "-o", path)
    assert result.exit_code == 0, result.output
    assert "6 tasks, 8 parameters, image registry.example/toy:1" in result.output
    return path


@pytest.mark.parametrize(
    "command", ["export", "verify", "diff", "run-local", "upload", "submit", "schedule", "sync"]
)
def test_every_command_has_help(command: str):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_report_is_table_and_json(tmp_path: Path):
    result = run(
        "export", *TOY, "-o", tmp_path / "toy.yaml", "--report", "--report-json", tmp_path / "report.json"
    )
    assert result.exit_code == 0
    assert "toy_training as pipeline toy-training" in result.output
    rows = json.loads((tmp_path / "report.json").read_text())
    assert {"subject": "sensor new_rows", "outcome": "not exported"}.items() <= rows[-1].items()
    assert {row["outcome"] for row in rows} == {"mapped", "not exported"}


def test_verify_and_diff_report_differences(pipeline: Path, tmp_path: Path):
    assert run("verify", pipeline, *TOY).exit_code == 0
    edited = tmp_path / "edited.yaml"
    edited.write_text(pipeline.read_text().replace("maxRetryCount: 3", "maxRetryCount: 2"))
    result = run("verify", edited, *TOY)
    assert result.exit_code == 1
    assert "task toy-dataset: retry" in result.output
    assert run("diff", pipeline, pipeline).exit_code == 0
    assert run("diff", pipeline, edited).exit_code == 1


def test_pod_config_affects_export_and_verify(tmp_path: Path):
    pods = tmp_path / "pods.yaml"
    pods.write_text("container_config: {env: [{name: TRACKING_URI, value: http://other}]}\n")
    assert run("export", *TOY, "-o", tmp_path / "toy.yaml", "--pod-config", pods).exit_code == 0
    assert run("verify", tmp_path / "toy.yaml", *TOY, "--pod-config", pods).exit_code == 0
    result = run("verify", tmp_path / "toy.yaml", *TOY)
    assert result.exit_code == 1
    assert "task toy-dataset: pod env" in result.output
    pods.write_text("[1]")
    assert run("export", *TOY, "-o", tmp_path / "toy.yaml", "--pod-config", pods).exit_code == 2


def test_unmapped_asset_fails_strict_export_with_exit_1(tmp_path: Path):
    code = tmp_path / "code.py"
    code.write_text(
        "import dagster as dg\n@dg.asset\ndef one(): return 1\ndefs = dg.Definitions(assets=[one])\n"
    )
    arguments = ["export", "-f", code, "--image", "image:1", "-o", tmp_path / "one.yaml"]
    result = run(*arguments)
    assert result.exit_code == 1
    assert "asset one: kfp/artifact_type: declare metadata" in result.output
    assert not (tmp_path / "one.yaml").exists()
    assert run(*arguments, "--no-strict").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--image", "i", "-o", "x.yaml"], "either -m MODULE or -f FILE"),
        (["export", "-m", "no_such_module", "--image", "i", "-o", "x.yaml"], "cannot load no_such_module"),
        (["verify", "absent.yaml", *TOY], "absent.yaml: no such file"),
        (["run-local", "absent.yaml"], "absent.yaml: no such file"),
        (["upload", "absent.yaml", "--host", "nowhere"], "expected a URL"),
    ],
)
def test_bad_input_exits_2_with_reason(arguments: list[str], message: str):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_run_local_refuses_unknown_parameter_and_used_folder(pipeline: Path, tmp_path: Path):
    assert run("run-local", pipeline, "--processes", "-p", "epoch=1").exit_code == 2
    (tmp_path / "something").touch()
    result = run("run-local", pipeline, "--processes", "-o", tmp_path)
    assert result.exit_code == 2
    assert "is not empty" in result.output


def test_upload_submit_schedule_and_sync_commands(pipeline: Path, monkeypatch: pytest.MonkeyPatch):
    with running_kfp_server() as server:
        server.token = "secret"
        monkeypatch.setenv("KFP_TOKEN", "secret")
        monkeypatch.setenv("KFP_HOST", server.url)
        assert "uploaded" in run("upload", pipeline).output
        assert "already there" in run("upload", pipeline).output
        started = run("submit", pipeline, "--run-name", "one", "-p", "epochs=2", "-p", "layers=[1]")
        assert started.exit_code == 0
        assert "started as one" in started.output
        assert "already there as one" in run("submit", pipeline, "--run-name", "one").output
        (stored,) = server.runs.values()
        assert stored.runtime_config.parameters == {"epochs": 2, "layers": [1]}
        server.finish(stored.run_id, "FAILED")
        waited = run("submit", pipeline, "--run-name", "one", "--wait", "5")
        assert waited.exit_code == 1
        assert "FAILED" in waited.output
        assert "nightly: 0 0 2 * * *: created" in run("schedule", pipeline).output
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        unset = run("sync", pipeline)
        assert unset.exit_code == 2
        assert "DAGSTER_HOME is not set" in unset.output
