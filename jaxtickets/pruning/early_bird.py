"""Detection of early-bird tickets: when a mask that is drawn again and again has stopped moving.

You et al. 2020, section 3.2.
"""

import jax
import numpy as np


def pack(masks) -> np.ndarray:
    """Masks of any structure as one vector of uint8, eight entries a byte; `None` leaves have no entry."""
    return np.packbits(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(masks)]))


def hamming_distances(newest: np.ndarray, earlier: list[np.ndarray], entries: int) -> np.ndarray:
    """`[n]`: the share of `entries`, in [0, 1], on which the newest of packed masks differs from each of n earlier."""
    return np.array([np.bitwise_count(newest ^ other).sum() / entries for other in earlier])


def emergence(distances: np.ndarray, queue: int = 5, threshold: float = 0.1) -> int | None:
    """The first of n masks that is nearer than `threshold` to each of the `queue - 1` before it; None if there is none.

    Args:
      distances: `[n, n]` normalised Hamming distances between the masks, in the order in which they were drawn.
    """
    for newest in range(queue - 1, len(distances)):
        if distances[newest, newest - queue + 1 : newest].max() < threshold:
            return newest
    return None
