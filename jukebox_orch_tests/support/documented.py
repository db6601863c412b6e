"""The `kfp-bridge` commands that the documentation has typed, so that tests run them as they stand."""

import re
import shlex

from jukebox_orch_tests import CHECKOUT

PAGES = ("README.md", "docs/kfp-bridge.md")


def typed(command: str) -> list[list[str]]:
    """Each distinct `kfp-bridge COMMAND …` of the pages' shell blocks, in reading order, as words."""
    lines: dict[str, None] = {}
    for page in PAGES:
        text = (CHECKOUT / page).read_text(encoding="utf-8")
        for block in re.findall(r"```(?:bash|console)\n(.*?)```", text, re.DOTALL):
            joined = block.replace("\\\n", " ")
            lines |= dict.fromkeys(line for line in joined.splitlines() if line.startswith("kfp-bridge "))
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line[1] == command]
