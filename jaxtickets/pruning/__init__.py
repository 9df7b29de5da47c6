"""Scores -> selection -> masks, as pure functions over pytrees."""

from jaxtickets.pruning.channels import CHANNEL_SCORES
from jaxtickets.pruning.early_bird import emergence
from jaxtickets.pruning.regrowth import cosine, drop_and_grow
from jaxtickets.pruning.scores import (
    SCORES,
    STEPS,
    gradients,
    grasp,
    magnitude,
    magnitude_change,
    movement,
    random,
    snip,
    synflow,
)
from jaxtickets.pruning.selection import cubic, densities, parse_structure, prune, sparsities

__all__ = [
    "CHANNEL_SCORES",
    "SCORES",
    "STEPS",
    "cosine",
    "cubic",
    "densities",
    "drop_and_grow",
    "emergence",
    "gradients",
    "grasp",
    "magnitude",
    "magnitude_change",
    "movement",
    "parse_structure",
    "prune",
    "random",
    "snip",
    "sparsities",
    "synflow",
]
