"""The pages of the example projects: their commands are typed in a new environment and their output is compared."""

from pathlib import Path

import pytest

from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.typed import copy_checkout, fences, read_blocks, type_blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PAGES = {
    page.parent.name: page
    for page in sorted(CHECKOUT.glob("examples/*/README.md"))
    if page.parent.name != "acme_iris"  # see test_tutorial.py
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("examples") / "checkout")


@pytest.mark.parametrize("project", PAGES)
def test_commands_of_example_print_what_its_page_shows(project: str, checkout: Path) -> None:
    blocks = read_blocks(PAGES[project])
    found = fences(PAGES[project])
    assert set(found) == {"```bash", "```text"}
    assert len(blocks) == found.count("```bash")
    printed = type_blocks(blocks, checkout)
    for block, output in zip(blocks, printed, strict=False):
        block.compare(output)
    assert len(printed) == len(blocks)


def test_every_kind_of_project_has_an_example() -> None:
    assert set(PAGES) == {"acme_demand", "acme_faults", "acme_orders", "acme_pairs"}
