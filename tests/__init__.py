"""Every test. `make test` runs them."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""Folder of the checkout."""
