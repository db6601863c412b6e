"""Simulates installed packages, builds the wheel and creates environments with it."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jukebox_orch_tests import CHECKOUT

_UV = [sys.executable, "-m", "uv"]


def install(folder: Path, distribution: str, entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Write the metadata that `pip install` would write: `<distribution>-1.0.dist-info` in a folder on the import path.

    Args:
        entry_points: group -> name -> object.
    """
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))


def build_wheel(folder: Path, checkout: Path = CHECKOUT) -> Path:
    """Build the product's wheel into the folder."""
    subprocess.run([*_UV, "build", "-q", "--wheel", "--out-dir", str(folder), str(checkout)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def new_environment(folder: Path, wheel: Path, extras: Sequence[str] = ()) -> Path:
    """Create a virtual environment with the wheel and its locked dependencies; return its `bin` folder."""
    subprocess.run([*_UV, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    suffix = f"[{','.join(extras)}]" if extras else ""
    subprocess.run(
        [
            *(*_UV, "pip", "install", "-q", "--python", str(folder)),
            *("--constraint", str(CHECKOUT / "requirements.lock")),
            f"jukebox-orchestrator{suffix} @ {wheel.as_uri()}",
        ],
        check=True,
    )
    return folder / "bin"
