"""The tutorial of examples/acme_iris in a new environment: its commands are run and their output is compared."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.installed import build_wheel
from jukebox_orch_tests.support.typed import copy_checkout, fences, read_blocks, terminal, type_blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TUTORIAL = CHECKOUT / "examples" / "acme_iris" / "README.md"
BLOCKS = read_blocks(TUTORIAL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("tutorial") / "checkout")


@pytest.fixture(scope="module")
def printed(checkout: Path) -> list[str]:
    return type_blocks(BLOCKS, checkout)


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=lambda n: f"line{BLOCKS[n].line}")
def test_block_prints_what_tutorial_shows(number: int, printed: list[str]) -> None:
    assert number < len(printed), "not reached: a block before it failed"
    BLOCKS[number].compare(printed[number])


def test_wheel_alone_creates_and_trains_project(printed: list[str], checkout: Path, tmp_path: Path) -> None:
    """The wheel, installed instead of the checkout, creates a project that fulfils the contract and trains."""
    python = checkout / ".venv" / "bin" / "python"
    home = tmp_path / "home"
    home.mkdir()

    def run(*command: object) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env={**terminal(tmp_path), "DAGSTER_HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    wheel = build_wheel(tmp_path / "dist", checkout)
    install = (python, "-m", "uv", "pip", "install", "--python", python, "--no-deps")
    run(*install, "--reinstall-package", "jukebox-orchestrator", wheel)
    shutil.rmtree(checkout / "jukebox_orch")  # so that the checkout cannot be imported
    shutil.rmtree(checkout / "jukebox_orch_tests")

    package = Path(run(python, "-c", "import jukebox_orch as j; print(j.__file__)").strip()).parent
    assert package.is_relative_to(checkout / ".venv")
    assert (package / "py.typed").is_file()
    assert not (package.parent / "jukebox_orch_tests").exists()
    templates = {str(p.relative_to(package / "skeleton")) for p in (package / "skeleton").rglob("*.tmpl")}
    here = CHECKOUT / "jukebox_orch" / "skeleton"
    assert templates == {str(p.relative_to(here)) for p in here.rglob("*.tmpl")} != set()

    bin_ = python.parent
    run(bin_ / "jukebox-orch", "new", "demo")
    run(*install, "-e", tmp_path / "demo")
    suite = run(
        bin_ / "pytest", "-c", "/dev/null", "--pyargs", "jukebox_orch.testing.suite", "--project", "demo"
    )
    assert re.search(r"2\d passed", suite), suite
    run(bin_ / "dagster", "job", "execute", "-m", "jukebox_orch.definitions", "-j", "demo_training")
    assert "model: demo-sample version 1" in run(bin_ / "jukebox-orch", "show", "demo")


def test_all_fences_of_tutorial_are_read() -> None:
    found = fences(TUTORIAL)
    assert set(found) == {"```bash", "```text", "```toml"}
    assert len(BLOCKS) == found.count("```bash")
    assert sum(bool(block.shown) for block in BLOCKS) == found.count("```text")
