"""The table of Keras layers in the docs is what the product does."""

import pytest

from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.layer_table import table


@pytest.mark.timeout(400)
def test_documented_layers_are_exported_or_refused_as_documented():
    assert table() == (CHECKOUT / "docs" / "layers.md").read_text()
