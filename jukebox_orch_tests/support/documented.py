"""Reads the `kfp-bridge` commands of the documentation, so that tests run them unchanged."""

import re
import shlex

from jukebox_orch_tests import CHECKOUT

PAGES = ("README.md", "docs/kfp-bridge.md")


def typed(command: str) -> list[list[str]]:
    """Return each distinct `kfp-bridge COMMAND …` of the pages' shell blocks in order, as a list of arguments."""
    lines: dict[str, None] = {}
    for page in PAGES:
        text = (CHECKOUT / page).read_text(encoding="utf-8")
        for block in re.findall(r"```(?:bash|console)\n(.*?)```", text, re.DOTALL):
            joined = block.replace("\\\n", " ")
            lines |= dict.fromkeys(line for line in joined.splitlines() if line.startswith("kfp-bridge "))
    commands = [shlex.split(line, comments=True) for line in lines]
    return [line for line in commands if line[1] == command]
