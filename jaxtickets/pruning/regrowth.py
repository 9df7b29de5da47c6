"""Dynamic sparse training: weights are dropped and others grown while the number of weights stays the same."""

import math
from typing import Any

import numpy as np

from jaxtickets import pytrees
from jaxtickets.checks import check_share
from jaxtickets.errors import UserError
from jaxtickets.pruning.selection import keep_highest
from jaxtickets.pytrees import is_hole


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
    smallest positive and the largest negative weights). A layer with a weight or growth that is not finite, as where
    training diverges, keeps its mask.

    Args:
      params, masks: of a network in training.
      growth: a pytree like `masks`.
      fraction: in [0, 1].

    Raises:
      UserError: it is not, or masks or growth are not those of these parameters.
    """
    fraction = check_share(fraction, "fraction", and_one=True)
    pytrees.check_fit(masks, params)
    check_growth(growth, masks)

    def regrow(leaf, mask, wanted):
        if is_hole(mask):
            return mask
        leaf, mask, wanted = np.asarray(leaf), np.asarray(mask), np.asarray(wanted)
        if not (np.isfinite(leaf).all() and np.isfinite(wanted).all()):
            return mask
        return exchange(leaf, mask, wanted, round(fraction * np.count_nonzero(mask)))

    return pytrees.map_with_holes(regrow, params, masks, growth)


def check_growth(growth, masks) -> None:
    """Refuses growth that has no array like the mask of each prunable leaf.

    Raises:
      UserError: it has none.
    """
    for name, leaf, mask in pytrees.check_like(growth, masks, "growth", "masks"):
        if not is_hole(mask) and np.shape(leaf) != mask.shape:
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
