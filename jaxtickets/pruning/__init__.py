"""Scores -> selection -> masks, as pure functions over pytrees."""

from jaxtickets.pruning.scores import magnitude
from jaxtickets.pruning.selection import prune, sparsities

__all__ = ["magnitude", "prune", "sparsities"]
