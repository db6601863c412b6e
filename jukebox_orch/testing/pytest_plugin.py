"""The pytest option `--project`, registered by the entry point group `pytest11`; imports only pytest."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--project NAME`, which `jukebox_orch.testing.suite` reads."""
    parser.getgroup("jukebox_orch").addoption(
        "--project",
        metavar="NAME",
        help="name of the installed model project to test with `--pyargs jukebox_orch.testing.suite`",
    )
