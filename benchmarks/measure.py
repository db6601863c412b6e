"""Measures processes by the accounting of the operating system."""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNS = 3


@dataclass(frozen=True)
class Usage:
    """One finished process.

    Attributes:
        wall, cpu: seconds; cpu is user and system time of the process and its children.
        peak: maximum resident MiB of the largest single process.
        output: stdout and stderr.
    """

    wall: float
    cpu: float
    peak: float
    output: str


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Usage:
    """Run a process to its end and return its usage.

    Raises:
        RuntimeError: the process failed; the message has its output.
    """
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os.chdir(cwd or ".")
            os.execvpe(command[0], list(command), {**os.environ, **(environment or {})})
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - started
        output.seek(0)
        text = output.read().decode(errors="replace")
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}:\n{text[-3000:]}")
    return Usage(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text)


def repeat(name: str, once: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run three times, print median and spread of every figure, and return the medians."""
    runs = [once() for _ in range(RUNS)]
    medians = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
    shown = [
        f"{key} {medians[key]:.4g} ({min(r[key] for r in runs):.4g}..{max(r[key] for r in runs):.4g})"
        for key in medians
    ]
    print(f"{name}: {', '.join(shown)}", flush=True)
    return medians


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below the folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def last_json(text: str) -> dict[str, float]:
    """Return the JSON object on the last line of a process's output."""
    return json.loads(text.strip().splitlines()[-1])


PYTHON = sys.executable
