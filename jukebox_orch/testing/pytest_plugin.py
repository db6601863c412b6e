"""The pytest option `--project`, registered by the entry point group `pytest11`; imports nothing but pytest."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--project NAME`, read by `jukebox_orch.testing.suite`."""
    parser.getgroup("jukebox_orch").addoption(
        "--project",
        metavar="NAME",
        help="installed model project that `--pyargs jukebox_orch.testing.suite` examines",
    )
