"""A layer of a project's own. Imports Keras, so a project imports it inside its methods."""

from typing import Any

import keras


class Swirl(keras.layers.Layer):
    """x + strength * sin(x)."""

    def __init__(self, strength: float, **options: Any) -> None:
        super().__init__(**options)
        self.strength = strength

    def call(self, x: Any) -> Any:
        return x + self.strength * keras.ops.sin(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strength": self.strength}
