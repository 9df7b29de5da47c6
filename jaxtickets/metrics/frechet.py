"""The Frechet distance between two sets of features, each summarised as a Gaussian."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Gaussian(NamedTuple):
    """mean: `[features]`; covariance: `[features, features]`, the unbiased estimate; both float64."""

    mean: np.ndarray
    covariance: np.ndarray


def fit_gaussian(batches: Iterable[np.ndarray]) -> Gaussian:
    """Returns the mean and the covariance of features, given in batches `[n, features]`."""
    features = np.concatenate([np.asarray(batch, np.float64) for batch in batches])
    return Gaussian(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def parts(gaussian: Gaussian, n: int) -> list[Gaussian]:
    """The Gaussians of each of `n` consecutive groups of features of equal size."""
    groups = np.arange(len(gaussian.mean)).reshape(n, -1)
    return [Gaussian(gaussian.mean[group], gaussian.covariance[np.ix_(group, group)]) for group in groups]


def _symmetric_sqrt(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson, Landau 1982; Heusel et al. 2017, equation 6).

    tr (C1 C2)^(1/2) is computed as the sum of the square roots of the eigenvalues of the symmetric matrix
    C1^(1/2) C2 C1^(1/2), which has the same eigenvalues as C1 C2 and never leaves the real numbers.
    """
    root = _symmetric_sqrt(first.covariance)
    eigenvalues = np.linalg.eigvalsh(root @ second.covariance @ root)
    cross = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    distance = np.square(first.mean - second.mean).sum() + traces - 2 * cross
    return float(max(distance, 0.0))
