"""`jukebox-orch new` writes a project that passes the contract suite and can be trained."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jukebox_orch.cli import app
from jukebox_orch.contract import InputError
from jukebox_orch.skeleton import KINDS, write_project
from jukebox_orch_tests.support.installed import install


@pytest.fixture(scope="module", params=KINDS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project that processes with its folder on their import path see as installed."""
    target = write_project("acme_things", tmp_path_factory.mktemp("new"), request.param)
    metadata = tomllib.loads((target / "pyproject.toml").read_text())["project"]
    install(target, metadata["name"], metadata["entry-points"])
    return target


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment in the project's folder."""
    home = project / "home"
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "DAGSTER_HOME": str(home), "MLFLOW_TRACKING_URI": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def test_command_writes_project_and_prints_next_steps(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["new", "acme_things", "--folder", str(tmp_path)])
    assert result.exit_code == 0
    assert "uv pip install -e" in result.output
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "acme_things/README.md",
        "acme_things/pyproject.toml",
        "acme_things/acme_things/__init__.py",
        "acme_things/acme_things/sample.csv",
        "acme_things/tests/test_contract.py",
    }


def test_placeholders_are_replaced(project: Path) -> None:
    for path in project.rglob("*"):
        if path.is_file():
            assert not re.search(r"\$({|name|title)", path.read_text()), path
        assert "__name__" not in path.name
    ast.parse((project / "acme_things" / "__init__.py").read_text())


def test_new_project_passes_contract_suite(project: Path) -> None:
    done = run(
        project, "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={project}", "tests"
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"2\d passed", done.stdout), done.stdout[-3000:]


def test_new_project_trains_and_registers_model(project: Path) -> None:
    job = ("-m", "jukebox_orch.definitions", "-j", "acme_things_training")
    done = run(project, "dagster", "job", "execute", *job)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((project / "home" / "models" / "acme_things-sample").rglob("model.onnx"))) == 1


@pytest.mark.parametrize("name", ["keras", "json", "jukebox_orch", "numpy"])
def test_name_of_installed_package_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"'{name}' is the name of an installed package"):
        write_project(name, tmp_path)


@pytest.mark.parametrize("name", ["jukebox", "image_processor"])
def test_name_of_installed_project_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"'{name}' is the name of an installed project"):
        write_project(name, tmp_path)


@pytest.mark.parametrize("name", ["Acme", "1st", "acme-things", "class", "", "../x", "a" * 41])
def test_invalid_name_is_refused(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["new", name, "--folder", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not a valid project name" in result.output
    assert not list(tmp_path.iterdir())


def test_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_project("acme", tmp_path)
    assert (tmp_path / "acme" / "mine.txt").read_text() == "mine"
