"""Scores: how much each prunable weight matters. The lowest are pruned first."""

import jax


def magnitude(params, masks):
    """|w| of every prunable weight (Han et al. 2015; Frankle, Carbin 2019); `None` on the other leaves."""
    return jax.tree.map(lambda leaf, mask: None if mask is None else abs(leaf), params, masks)
