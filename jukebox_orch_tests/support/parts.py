"""Real parts that tests use. Without one a test is skipped, or fails with `--require-parts`.

A pytest plugin; a conftest names it in `pytest_plugins`.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from jukebox_orch_tests import CHECKOUT

_DATA = Path(os.environ.get("JUKEBOX_ORCH_TEST_DATA") or CHECKOUT.parent / "shared" / "data")
_state = {"required": False}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-parts",
        action="store_true",
        help="fail, instead of skip, a test whose real part (a server, a program, data) is absent",
    )


def pytest_configure(config: pytest.Config) -> None:
    _state["required"] = bool(config.getoption("--require-parts"))


def absent(part: str, how: str) -> NoReturn:
    """Skip the test, or fail it with `--require-parts`. The message names the absent part and how to get it."""
    message = f"{part} is absent: {how}"
    if _state["required"]:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def program(name: str, how: str) -> str:
    """Return the path of a program on PATH."""
    found = shutil.which(name)
    return found or absent(name, how)


def real_data() -> Path:
    """Return the folder with the published songs and rankings of the jukebox."""
    if not (_DATA / "song_rankings.parquet").is_file():
        absent(
            "the real data", f"no song_rankings.parquet in {_DATA}; set JUKEBOX_ORCH_TEST_DATA to its folder"
        )
    return _DATA
