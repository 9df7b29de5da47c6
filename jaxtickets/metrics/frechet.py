"""The Frechet distance between two sets of features, each summarised as a Gaussian."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """mean: `[features]`; covariance: `[features, features]`, the unbiased estimate; both float64."""

    mean: np.ndarray
    covariance: np.ndarray


class Moments:
    """The sums of features and of their outer products over batches, in float64: as much memory for any number.

    The features are shifted by the mean of the first batch before they are multiplied, so that a covariance much
    smaller than the squared mean keeps its digits (Chan, Golub, LeVeque 1983, section 2).
    """

    def __init__(self):
        self._n = 0

    def add(self, batch: np.ndarray) -> None:
        """Adds the features `[n, features]`."""
        batch = np.asarray(batch, np.float64)
        if not self._n:
            self._shift = batch.mean(axis=0)
            self._sum, self._products = np.zeros(batch.shape[1]), np.zeros((batch.shape[1],) * 2)
        shifted = batch - self._shift
        self._sum += shifted.sum(axis=0)
        self._products += shifted.T @ shifted
        self._n += len(batch)

    @property
    def gaussian(self) -> Gaussian:
        """The mean and the covariance of all features added."""
        mean = self._sum / self._n
        covariance = (self._products - self._n * np.outer(mean, mean)) / (self._n - 1)
        return Gaussian(self._shift + mean, covariance)


def fit_gaussian(batches: Iterable[np.ndarray]) -> Gaussian:
    """Returns the mean and the covariance of features, given in batches `[n, features]`."""
    moments = Moments()
    for batch in batches:
        moments.add(batch)
    return moments.gaussian


def parts(gaussian: Gaussian, n: int) -> list[Gaussian]:
    """The Gaussians of each of `n` consecutive groups of features of equal size."""
    groups = np.arange(len(gaussian.mean)).reshape(n, -1)
    return [Gaussian(gaussian.mean[group], gaussian.covariance[np.ix_(group, group)]) for group in groups]


def symmetric_sqrt(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues; those of rounding errors count as 0."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def frechet_distance(first: Gaussian, second: Gaussian, root: np.ndarray | None = None) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson, Landau 1982; Heusel et al. 2017, equation 6).

    tr (C1 C2)^(1/2) is computed as the sum of the square roots of the eigenvalues of the symmetric matrix
    C2^(1/2) C1 C2^(1/2), which has the same eigenvalues as C1 C2 and never leaves the real numbers.

    Args:
      root: C2^(1/2), if it is at hand.
    """
    root = symmetric_sqrt(second.covariance) if root is None else root
    eigenvalues = np.linalg.eigvalsh(root @ first.covariance @ root)
    cross = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    distance = np.square(first.mean - second.mean).sum() + traces - 2 * cross
    return float(max(distance, 0.0))
