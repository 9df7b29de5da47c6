"""How different samples are from one another, beside held-out images: a sign of mode collapse.

It reads features that other metrics have computed, of at most `MOST` images of both kinds, and takes milliseconds.
"""

import numpy as np

from jaxtickets.collapse import COLUMN
from jaxtickets.metrics.distances import nearest
from jaxtickets.metrics.features import Features

MOST = 1000


def column(name: str) -> str:
    """The column of a feature network's diversity in `rounds.csv`."""
    return f"{COLUMN}{name}"


def label(name: str) -> str:
    """The column in words."""
    return f"median distance of a sample to the nearest other one, held-out images have 1, in {name} features"


def diversity(generated: np.ndarray, held_out: Features) -> float | None:
    """The median distance of a sample to the nearest other sample, over that of as many held-out images.

    About 1 where samples are as different as real images, 0 where each has a copy. A nearest neighbour sees what a
    variance does not: copies of ten different images vary as much as real ones do. None where held-out images have no
    such distance: there are fewer than two, or most have a copy.

    Args:
      generated: `[n, features]`.
    """
    n = min(MOST, len(generated), len(held_out.array))
    if n < 2:
        return None
    reference = held_out.once(("nearest other", n), lambda: _median(held_out.some(n)))
    return _median(generated[:n]) / reference if reference > 0 else None


def _median(features) -> float:
    """The median distance of the features `[n, f]` to the nearest other one."""
    spread = float(np.sqrt(np.var(features, axis=0, dtype=np.float64).sum()))
    _, others = nearest(features, features, 1, leave_out_self=True)  # Whose distances are inexact.
    differences = np.asarray(features, np.float64) - np.asarray(features, np.float64)[others[:, 0]]
    found = float(np.median(np.sqrt(np.sum(differences**2, axis=1))))
    return found if found > 2e-3 * spread else 0.0  # Copies, whose features differ by their places in batches.
