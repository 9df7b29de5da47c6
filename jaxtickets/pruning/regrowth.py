"""Dynamic sparse training: weights are dropped and others grown while the number of weights stays the same."""

import math
from typing import Any

import jax
import numpy as np

from jaxtickets import pytrees
from jaxtickets.checks import check_share
from jaxtickets.errors import UserError
from jaxtickets.pruning.selection import finite, keep_highest


def cosine(fraction: float, progress: float) -> float:
    """fraction / 2 * (1 + cos(pi * progress)), for progress in [0, 1] (Evci et al. 2020, section 3)."""
    fraction, progress = (
        check_share(value, name, and_one=True) for name, value in (("fraction", fraction), ("progress", progress))
    )
    return fraction / 2 * (1 + math.cos(math.pi * progress))


def drop_and_grow(params, masks, growth, fraction: float) -> Any:
    """In each layer `round(fraction * kept)` weights of the smallest magnitude go, and as many of the others come.

    The grown weights have the highest `growth` among all weights that are not kept, dropped ones included. |gradient|
    makes it RigL (Evci et al. 2020, algorithm 1), random numbers SET (Mocanu et al. 2018, algorithm 2; theirs drops the
    smallest positive and the largest negative weights).

    Args:
      params, masks: of a network in training.
      growth: a pytree like `masks`.
      fraction: in [0, 1].

    Raises:
      UserError: it is not, or masks or growth are not those of these parameters, or a weight or its growth is not
        finite.
    """
    fraction = check_share(fraction, "fraction", and_one=True)
    pytrees.check_fit(masks, params)
    check_growth(growth, masks)
    for what, tree in (("params", params), ("growth", growth)):
        for name, leaf, mask in pytrees.check_like(tree, masks, what, "masks"):
            if mask is not None:
                finite(name, leaf, what)

    def regrow(leaf, mask, wanted):
        mask = np.asarray(mask)
        n_grown = round(fraction * np.count_nonzero(mask))
        return exchange(np.asarray(leaf), mask, np.asarray(wanted), n_grown)

    return jax.tree.map(
        lambda leaf, mask, wanted: None if mask is None else regrow(leaf, mask, wanted), params, masks, growth
    )


def check_growth(growth, masks) -> None:
    """Refuses growth that has no array like the mask of each prunable leaf.

    Raises:
      UserError: it has none.
    """
    for name, leaf, mask in pytrees.check_like(growth, masks, "growth", "masks"):
        if mask is not None and np.shape(leaf) != mask.shape:
            raise UserError(f"growth: {name or 'it'} has the shape {np.shape(leaf)}; allowed is {mask.shape}")


def exchange(leaf, mask, growth, n_grown, keep_highest=keep_highest):
    """The mask of one layer in which `n_grown` weights have made room for others; see `drop_and_grow`.

    Args:
      leaf, mask, growth: arrays of one shape, of NumPy or JAX.
      keep_highest: that of `pruning.selection`, or of `pruning.traced` with traced arrays.
    """
    mask = mask.ravel()
    (stay,) = keep_highest([abs(leaf.astype("float32")).ravel()], [mask], mask.sum() - n_grown)
    (grown,) = keep_highest([growth.astype("float32").ravel()], [~stay], n_grown)
    return (stay | grown).reshape(leaf.shape)
