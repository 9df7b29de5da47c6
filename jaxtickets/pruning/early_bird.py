"""Detection of early-bird tickets: when a mask that is drawn again and again has stopped moving.

You et al. 2020, section 3.2. Masks that never left the initialisation stand still as well, so their distance from the
mask of step 0 counts too (docs/decisions/early-bird.md).
"""

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets.checks import check_count, check_share
from jaxtickets.errors import UserError
from jaxtickets.pruning import channels


def pack(masks) -> np.ndarray:
    """Masks of any structure as one vector of uint8, eight entries a byte; `None` leaves have no entry."""
    return np.packbits(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(masks)]))


def unpack(packed: np.ndarray, like):
    """The inverse of `pack`: masks of the structure and the shapes of `like`.

    Raises:
      ValueError: they have another number of entries.
    """
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(mask_lib.unpack_leaf(packed, (int(ends[-1]),)), ends[:-1])
    return structure.unflatten(part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True))


def hamming_distances(newest: np.ndarray, earlier: list[np.ndarray], n: int) -> np.ndarray:
    """`[n]`: the share of `n` entries, in [0, 1], on which the newest of packed masks differs from each earlier one."""
    return np.array([np.bitwise_count(newest ^ other).sum() / n for other in earlier])


def distance_by_chance(masks, others) -> float:
    """The normalised Hamming distance from `others` that is expected of random masks.

    The random masks keep the same number of entries of each leaf as `masks`, any of them with equal probability. Of n
    entries, of which one mask keeps a and the other b, a (n - b) / n + b (n - a) / n differ on average.
    """
    expected = 0.0
    for leaf, other in zip(jax.tree.leaves(masks), jax.tree.leaves(others), strict=True):
        n, a, b = leaf.size, np.count_nonzero(leaf), np.count_nonzero(other)
        expected += (a * (n - b) + b * (n - a)) / n
    return expected / max(1, entries(masks))


def share_moved(masks, start) -> float:
    """The distance from the masks of step 0 over the one expected by chance, in the component that has moved least.

    0 is the mask of step 0 itself; random masks have about 1. Components that keep everything, or nothing, of each leaf
    can't move and do not count; if there is no other, it is 0.

    Args:
      masks, start: `{component: ...}`.
    """
    shares = []
    for name, own in masks.items():
        if chance := distance_by_chance(own, start[name]):
            shares.append(np.bitwise_count(pack(own) ^ pack(start[name])).sum() / entries(own) / chance)
    return float(min(shares, default=0.0))


def is_by_position(masks) -> bool:
    """Whether each leaf keeps its first entries: the selection does so where all scores are equal."""
    return all(np.all(np.ravel(leaf)[:-1] >= np.ravel(leaf)[1:]) for leaf in jax.tree.leaves(masks))


def entries(masks) -> int:
    """The number of entries of masks."""
    return sum(leaf.size for leaf in jax.tree.leaves(masks))


def emergence(
    distances: np.ndarray, queue: int = 5, threshold: float = 0.1, moved: np.ndarray | None = None, least: float = 0.0
) -> int | None:
    """The first of n masks that is a ticket; None if there is none.

    It is nearer than `threshold` to each of the `queue - 1` masks before it, and has moved by at least `least` from the
    mask of step 0.

    Args:
      distances: `[n, n]` normalised Hamming distances between the masks, in the order in which they were drawn.
      moved: `[n]`, see `share_moved`; None asks nothing of it.

    Raises:
      UserError: the distances are no square matrix, or an argument is not what it can be.
    """
    queue = check_count(queue, "queue", 2)
    check_share(threshold, "threshold", and_one=True)
    if np.ndim(distances) != 2 or len({*np.shape(distances)}) != 1:
        raise UserError(f"distances: has the shape {np.shape(distances)}; allowed is a square matrix of numbers")
    for newest in range(queue - 1, len(distances)):
        is_still = distances[newest, newest - queue + 1 : newest].max() < threshold
        if is_still and (moved is None or moved[newest] >= least):
            return newest
    return None


def gamma_l1(networks, weight: float):
    """The weight of |gamma| of the components that are pruned, as a tree like the parameters; None if it is 0."""
    if not weight:
        return None
    is_gamma = channels.is_gamma(networks.params, networks.axis_names.params, networks.batch_stats)
    weights = {name: weight if jax.tree.leaves(own) else None for name, own in networks.dense_masks.items()}
    return {
        component: jax.tree.map(lambda gamma, weight=weights[component]: weight if gamma else None, layers)
        for component, layers in is_gamma.items()
    }
