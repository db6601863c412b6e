"""Makes a package look installed: the metadata that `pip install` would write, in a folder on the import path."""

from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, distribution: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Write `<distribution>-1.0.dist-info` with entry points: group -> name -> object."""
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
