"""The tutorial of examples/acme_iris in a new environment: its commands are run and their output is compared."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.installed import build_wheel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TUTORIAL = CHECKOUT / "examples" / "acme_iris" / "README.md"
# Variables of a new terminal, without those of this environment or of the `make` that runs the tests.
_TERMINAL = re.compile(r"PATH|HOME|LANG|LC_\w+|USER|UV_\w+|PIP_\w+|\w+_proxy|SSL_CERT_\w+", re.IGNORECASE)
_MARK = "--- next block"


@dataclass(frozen=True)
class Block:
    """Commands of the tutorial, their line, and the output that the next block shows."""

    commands: str
    line: int
    shown: tuple[str, ...]


def read_blocks(text: str) -> list[Block]:
    """Return the shell blocks in order; a text block belongs to the shell block before it."""
    blocks: list[Block] = []
    for match in re.finditer(r"^```(bash|text)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        language, content = match.groups()
        if language == "bash":
            blocks.append(Block(content, text.count("\n", 0, match.start()) + 2, ()))
        else:
            last = blocks.pop()
            blocks.append(Block(last.commands, last.line, tuple(content.splitlines())))
    return blocks


BLOCKS = read_blocks(TUTORIAL.read_text())


def terminal(folder: Path) -> dict[str, str]:
    """Return the environment variables of a new terminal whose programs write temporary files to the folder."""
    kept = {name: value for name, value in os.environ.items() if _TERMINAL.fullmatch(name)}
    return {**kept, "TMPDIR": str(folder)}


def copy_checkout(target: Path) -> Path:
    """Copy the files of this checkout that are or will be under version control."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, target / name)
    return target


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("tutorial") / "checkout")


@pytest.fixture(scope="module")
def printed(checkout: Path) -> list[str]:
    """Run the blocks in one shell that stops at the first error; return the output of each."""
    script = checkout.with_name("typed.sh")
    script.write_text("".join(f"echo '{_MARK}'\n{block.commands}" for block in BLOCKS))
    done = subprocess.run(
        ["bash", "-e", script],
        cwd=checkout,
        env=terminal(checkout.parent),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    outputs = done.stdout.split(f"{_MARK}\n")[1:]
    if done.returncode:
        outputs[-1] += f"\nended with exit code {done.returncode}"
    return outputs


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=lambda n: f"line{BLOCKS[n].line}")
def test_block_prints_what_tutorial_shows(number: int, printed: list[str]) -> None:
    assert number < len(printed), "not reached: a block before it failed"
    output = printed[number]
    assert not re.search(r"ended with exit code \d+$", output), output[-4000:]
    position = 0
    for line in BLOCKS[number].shown:
        pattern = ".*".join(map(re.escape, line.strip().split("…")))
        found = re.compile(pattern).search(output, position)
        assert found, f"the page shows {line!r} after the lines above it; the output is\n{output[-4000:]}"
        position = found.end()


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
    """A fence that the pattern does not match would be skipped silently."""
    fences = [line for line in TUTORIAL.read_text().splitlines() if line.startswith("```") and line != "```"]
    assert set(fences) == {"```bash", "```text", "```toml"}
    assert len(BLOCKS) == fences.count("```bash")
    assert sum(bool(block.shown) for block in BLOCKS) == fences.count("```text")
