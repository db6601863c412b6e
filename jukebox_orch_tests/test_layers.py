"""The layer rule rejects misplaced imports and modules, and tests of pure code load no heavy framework."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jukebox_orch_tests import CHECKOUT

PACKAGES = ("jukebox_orch", "kfp_bridge")
MISTAKES = {
    "unassigned module": ("jukebox_orch/helpers.py", "", "Layers of jukebox_orch"),
    "unassigned module of bridge": ("kfp_bridge/helpers.py", "", "Layers of kfp_bridge"),
    "upward import": (
        "jukebox_orch/ml/drift.py",
        "from jukebox_orch.registry import versions",
        "Layers of jukebox_orch",
    ),
    "type-only upward import": (
        "jukebox_orch/contract/task.py",
        "if TYPE_CHECKING:\n    from jukebox_orch.ml.artifacts import Report",
        "Layers of jukebox_orch",
    ),
    "import cycle": (
        "jukebox_orch/contract/settings.py",
        "def later():\n    from jukebox_orch.contract import project",
        "No import cycles",
    ),
    "bridge imports product": ("kfp_bridge/names.py", "import jukebox_orch", "do not import each other"),
    "plugin imports Dagster": ("jukebox_orch/projects/jukebox/rules.py", "import dagster", "neither Dagster"),
    "decision imports time": ("jukebox_orch/sensors/trigger_types.py", "import time", "Decisions of sensors"),
    "trigger imports other trigger": (
        "jukebox_orch/sensors/git_tags/remote.py",
        "from jukebox_orch.sensors.new_data import decision",
        "Triggers do not import",
    ),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy both packages with the import contracts of this checkout."""
    folder = tmp_path_factory.mktemp("sources")
    for package in PACKAGES:
        shutil.copytree(CHECKOUT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    return folder


def lint(sources: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    return subprocess.run(
        command, cwd=sources, env={"PYTHONPATH": str(sources)}, capture_output=True, text=True, check=False
    )


def test_layer_rule_holds(sources: Path) -> None:
    done = lint(sources)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("mistake", MISTAKES)
def test_layer_rule_rejects_misplaced_line(mistake: str, sources: Path) -> None:
    name, line, contract = MISTAKES[mistake]
    path = sources / name
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        done = lint(sources)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)
    assert done.returncode == 1
    broken = [row for row in done.stdout.splitlines() if row.endswith("BROKEN")]
    assert [row for row in broken if contract in row], done.stdout


def test_triggers_and_projects_are_independent_by_contract() -> None:
    """`exhaustive` covers layers only: a new trigger or project must be added to these lists."""
    tool = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]
    listed = {c["name"]: set(c.get("modules", [])) for c in tool["contracts"]}
    for folder, contract in (("sensors", "Triggers do not"), ("projects", "Built-in projects do not")):
        (modules,) = [found for name, found in listed.items() if name.startswith(contract)]
        packages = (CHECKOUT / "jukebox_orch" / folder).glob("*/__init__.py")
        assert modules == {f"jukebox_orch.{folder}.{path.parent.name}" for path in packages}


def test_collecting_pure_tests_loads_no_framework() -> None:
    code = (
        "import sys, pytest\n"
        "assert pytest.main(['-q', '--collect-only', '-p', 'no:cacheprovider', "
        "'jukebox_orch_tests/contract', 'jukebox_orch_tests/sensors/test_new_data.py']) == 0\n"
        "print(sorted({'mlflow', 'tensorflow', 'keras', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
