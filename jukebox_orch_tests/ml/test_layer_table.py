"""The table of Keras layers in the docs is what the product does."""

import re

import keras
import pytest

from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.layer_table import table


@pytest.mark.timeout(400)
def test_documented_layers_are_exported_or_refused_as_documented():
    assert table() == (CHECKOUT / "docs" / "layers.md").read_text()


def test_every_layer_of_keras_is_in_the_table():
    """A layer of a new release needs a row."""
    rows = re.findall(r"^\| (.+?) \|", (CHECKOUT / "docs" / "layers.md").read_text(), re.MULTILINE)
    documented = {word for row in rows for word in row.split()}
    names: dict[type, set[str]] = {}
    for name, value in vars(keras.layers).items():
        if isinstance(value, type) and issubclass(value, keras.Layer) and value is not keras.Layer:
            names.setdefault(value, set()).add(name)
    assert len(names) > 100
    assert [sorted(aliases) for aliases in names.values() if not aliases & documented] == []
