"""Pruning: scores -> selection -> masks, as pure functions over pytrees."""

from jaxtickets.fields import Registry
from jaxtickets.pruning.axes import Axes, flax_axes
from jaxtickets.pruning.early_bird import emergence
from jaxtickets.pruning.pools import densities
from jaxtickets.pruning.regrowth import cosine, drop_and_grow
from jaxtickets.pruning.schedules import cubic, levels, sparsities
from jaxtickets.pruning.score import Score
from jaxtickets.pruning.scores import (
    CHANNEL_SCORES,
    WEIGHT_SCORES,
    gradients,
    grasp,
    magnitude,
    magnitude_change,
    movement,
    random,
    snip,
    synflow,
)
from jaxtickets.pruning.selection import prune
from jaxtickets.pruning.structures import known_axes, parse_structure

SCORES = Registry("prune.score", *WEIGHT_SCORES, *CHANNEL_SCORES)

__all__ = [
    "SCORES",
    "Axes",
    "Score",
    "cosine",
    "cubic",
    "densities",
    "drop_and_grow",
    "emergence",
    "flax_axes",
    "gradients",
    "grasp",
    "known_axes",
    "levels",
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
