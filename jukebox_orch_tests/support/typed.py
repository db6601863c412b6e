"""Types the commands of a page in a new environment and compares their output with what the page shows."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from jukebox_orch_tests import CHECKOUT

# Variables of a new terminal, without those of this environment or of the `make` that runs the tests.
_TERMINAL = re.compile(r"PATH|HOME|LANG|LC_\w+|USER|UV_\w+|PIP_\w+|\w+_proxy|SSL_CERT_\w+", re.IGNORECASE)
_MARK = "--- next block"


@dataclass(frozen=True)
class Block:
    """Commands of a page, their line, and the output that the next block shows."""

    commands: str
    line: int
    shown: tuple[str, ...]

    def compare(self, output: str) -> None:
        """Fail unless the commands succeeded and printed the lines that the page shows, in order."""
        assert not re.search(r"ended with exit code \d+$", output), output[-4000:]
        position = 0
        for line in self.shown:
            pattern = ".*".join(map(re.escape, line.strip().split("…")))
            found = re.compile(pattern).search(output, position)
            assert found, f"the page shows {line!r} after the lines above it; the output is\n{output[-4000:]}"
            position = found.end()


def read_blocks(page: Path) -> list[Block]:
    """Return the shell blocks in order; a text block belongs to the shell block before it."""
    text = page.read_text()
    blocks: list[Block] = []
    for match in re.finditer(r"^```(bash|text)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        language, content = match.groups()
        if language == "bash":
            blocks.append(Block(content, text.count("\n", 0, match.start()) + 2, ()))
        else:
            last = blocks.pop()
            blocks.append(Block(last.commands, last.line, tuple(content.splitlines())))
    return blocks


def fences(page: Path) -> list[str]:
    """Return the lines that open a block; one that the pattern above does not match would be skipped silently."""
    return [line for line in page.read_text().splitlines() if line.startswith("```") and line != "```"]


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


def type_blocks(blocks: list[Block], checkout: Path) -> list[str]:
    """Run the blocks in one shell that stops at the first error; return the output of each that was reached."""
    script = checkout.with_name("typed.sh")
    script.write_text("".join(f"echo '{_MARK}'\n{block.commands}" for block in blocks))
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
