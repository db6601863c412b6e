"""Tests of the product, of the bridge and of the manifests; the folders mirror the product's."""

from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
"""Root of the checkout."""
