"""Mode collapse: samples that are nearly the same image, over and over.

A row of `rounds.csv` has a column `diversity_<features>` for each feature network of its metrics on samples
(`metrics/diversity.py`). Everything here is a pure function of rows.
"""

from collections.abc import Mapping
from typing import Any

COLUMN = "diversity_"
LIMIT = 0.3  # Below this the samples have collapsed (docs/decisions/training.md, with the figures).


def diversities(row: Mapping[str, Any]) -> dict[str, float]:
    """The diversities of a row by column."""
    return {name: value for name, value in row.items() if name.startswith(COLUMN) and isinstance(value, int | float)}


def has_collapsed(row: Mapping[str, Any]) -> bool:
    """Whether the samples of a round have collapsed, in the eyes of any feature network."""
    return any(value < LIMIT for value in diversities(row).values())


def told(row: Mapping[str, Any]) -> str:
    """The lowest diversity of a row in words."""
    name, value = min(diversities(row).items(), key=lambda found: found[1])
    return f"{name} {value:.2g}"
