"""Detection of early-bird tickets: when a mask that is drawn again and again has stopped moving.

You et al. 2020, section 3.2. Masks that never left the initialisation stand still as well, so their distance from the
mask of step 0 counts too (docs/decisions/early-bird.md).
"""

import jax
import numpy as np


def pack(masks) -> np.ndarray:
    """Masks of any structure as one vector of uint8, eight entries a byte; `None` leaves have no entry."""
    return np.packbits(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(masks)]))


def unpack(packed: np.ndarray, like):
    """The inverse of `pack`: masks of the structure and the shapes of `like`."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(np.unpackbits(packed, count=int(ends[-1])).astype(bool), ends[:-1])
    return structure.unflatten(part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True))


def hamming_distances(newest: np.ndarray, earlier: list[np.ndarray], entries: int) -> np.ndarray:
    """`[n]`: the share of `entries`, in [0, 1], on which the newest of packed masks differs from each of n earlier."""
    return np.array([np.bitwise_count(newest ^ other).sum() / entries for other in earlier])


def distance_by_chance(masks, others) -> float:
    """The normalised Hamming distance from `others` that is expected of random masks.

    The random masks keep the same number of entries of each leaf as `masks`, any of them with equal probability. Of n
    entries, of which one mask keeps a and the other b, a (n - b) / n + b (n - a) / n differ on average.
    """
    expected, entries = 0.0, 0
    for leaf, other in zip(jax.tree.leaves(masks), jax.tree.leaves(others), strict=True):
        n, a, b = leaf.size, np.count_nonzero(leaf), np.count_nonzero(other)
        expected += (a * (n - b) + b * (n - a)) / n
        entries += n
    return expected / entries


def shares_moved(from_start, chance) -> np.ndarray:
    """`[n]`: each distance from the mask of step 0 over the one expected by chance; 0 where chance is 0.

    0 is the mask of step 0 itself; random masks have 1 on average.
    """
    from_start, chance = np.asarray(from_start, float), np.asarray(chance, float)
    return np.divide(from_start, chance, out=np.zeros_like(from_start), where=chance > 0)


def emergence(
    distances: np.ndarray, queue: int = 5, threshold: float = 0.1, moved: np.ndarray | None = None, least: float = 0.0
) -> int | None:
    """The first of n masks that is a ticket; None if there is none.

    It is nearer than `threshold` to each of the `queue - 1` masks before it, and has moved by at least `least` from the
    mask of step 0.

    Args:
      distances: `[n, n]` normalised Hamming distances between the masks, in the order in which they were drawn.
      moved: `[n]`, see `shares_moved`; None asks nothing of it.
    """
    for newest in range(queue - 1, len(distances)):
        is_still = distances[newest, newest - queue + 1 : newest].max() < threshold
        if is_still and (moved is None or moved[newest] >= least):
            return newest
    return None
