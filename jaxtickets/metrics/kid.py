"""The Kernel Inception Distance, KID (Binkowski et al. 2018): the squared maximum mean discrepancy of features.

Its estimate has no bias, so that numbers of different counts of samples compare, and it may be slightly below 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets.fields import Field, refuse, whole
from jaxtickets.metrics.fd import FEATURES
from jaxtickets.metrics.metric import Metric, Sets

SUBSETS = Field("eval.kid_subsets", 100, whole(1), "The number of random subsets that KID is the mean over.")
SUBSET_SIZE = Field("eval.kid_subset_size", 1000, whole(2), "The number of samples, and of images, in a subset of KID.")
SEED = 2020  # Of the subsets; torch-fidelity's, so that its KID of the same features is the same.


@jax.jit
def kernel_sums(first, second):
    """Sums over the rows of (a b / d + 1)^3 for features of d numbers (Binkowski et al. 2018, section 4).

    Returns:
      The sums `[n]` of each kernel of `first` with itself and of `second` with itself, without the diagonal, and of
      `first` with `second`, all `[n, d]`.
    """

    def cubes(products):
        return (products / first.shape[1] + 1) ** 3

    def sums(one, other):
        return cubes(jnp.matmul(one, other.T, precision=jax.lax.Precision.HIGHEST)).sum(axis=1)

    within = [sums(features, features) - cubes(jnp.square(features).sum(axis=1)) for features in (first, second)]
    return *within, sums(first, second)


def squared_discrepancy(first, second) -> float:
    """The unbiased estimate of MMD^2 of two equally large sets `[n, d]` (Gretton et al. 2012, lemma 6).

    The kernel is float32, on the device; its rows are added in float64.
    """
    n = len(first)
    one, other, between = (np.asarray(sums, np.float64).sum() for sums in kernel_sums(first, second))
    return float((one + other) / (n * (n - 1)) - 2 * between / n**2)


def draws(sets: Sets, config) -> np.ndarray:
    """KID of random subsets: `[subsets, parts of the features]`. No subset is larger than the smaller set.

    The samples' subset is drawn before the training images', as torch-fidelity does with its first and second input.
    """
    rng, both = np.random.RandomState(SEED), (sets.generated.array, sets.training.array)
    size, parts = min(config.eval.kid_subset_size, *map(len, both)), sets.generated.parts
    values = []
    for _ in range(config.eval.kid_subsets):
        # The second draw follows the first in the same stream.
        drawn = [array[rng.choice(len(array), size, replace=False)] for array in both]
        pairs = zip(*(np.split(features, parts, axis=1) for features in drawn), strict=True)
        values.append([squared_discrepancy(*pair) for pair in pairs])
    return np.array(values)


def kid(sets: Sets, config):
    """The mean over the subsets, and over the parts of the features."""
    return (np.mean(draws(sets, config)),)


def check(config) -> None:
    """Refuses subsets of more samples than there are."""
    samples, size = config.eval.samples, config.eval.kid_subset_size
    if samples < size:
        refuse("eval.samples", samples, f"at least {size}, config.eval.kid_subset_size, with the metric kid")


KID = Metric(
    "kid",
    "KID in {eval.features} features, {eval.samples:,} samples, {eval.kid_subsets} subsets of"
    " {eval.kid_subset_size:,}, seed {draws_seed}",
    features="{eval.features}",
    columns=("kid_{eval.features}",),
    measure=kid,
    fields=(FEATURES, SUBSETS, SUBSET_SIZE),
    check=check,
    draws=draws,
    draws_seed=SEED,
)
