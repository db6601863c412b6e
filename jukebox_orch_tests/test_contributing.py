"""CONTRIBUTING.md's tree and table against the checkout: every folder is listed, every path exists."""

import re
from pathlib import Path

from jukebox_orch_tests import CHECKOUT

PAGE = (CHECKOUT / "CONTRIBUTING.md").read_text()
TREE = PAGE.split("```")[1]


def listed() -> set[Path]:
    """Return the paths of the tree, relative to the checkout. The name of a folder ends with `/`."""
    paths, parents = set(), [Path()]
    for line in TREE.strip().splitlines():
        indent, name = re.fullmatch(r"( *)(\S+) .*", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        depth = len(indent) // 2
        path = parents[depth] / name
        parents[depth + 1 :] = [path]
        paths.add(path)
    return paths


def folders(package: str, depth: int) -> set[Path]:
    found = {path.parent.relative_to(CHECKOUT) for path in (CHECKOUT / package).rglob("*.py")}
    return {path for path in found if 1 < len(path.parts) <= depth}


def test_tree_lists_every_folder_of_both_packages():
    ours = {path for path in listed() if path.parts[0] in ("jukebox_orch", "kfp_bridge")}
    expected = folders("jukebox_orch", 3) | folders("kfp_bridge", 2)
    assert expected <= ours
    assert not [path for path in ours if not (CHECKOUT / path).exists()]


def test_tree_lists_every_top_level_module():
    modules = {
        path.relative_to(CHECKOUT)
        for path in (CHECKOUT / "jukebox_orch").glob("*.py")
        if path.name != "__init__.py"
    }
    assert modules <= listed()


def test_paths_of_the_table_exist():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "`" in line]
    paths = [path for row in rows for path in re.findall(r"`([\w./]+(?:/|\.py))`", row.split("|")[2])]
    assert len(paths) > 20
    roots = (
        "",
        "jukebox_orch",
        "kfp_bridge/reading",
        "jukebox_orch/sensors/new_data",
        "jukebox_orch_tests/support",
    )
    assert not [path for path in paths if not any((CHECKOUT / root / path).exists() for root in roots)]
