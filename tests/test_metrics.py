"""The Frechet distance against closed forms and SciPy, and the feature network."""

import numpy as np
import pytest
import scipy.linalg

from jaxtickets.metrics import Gaussian, classifier, frechet_distance
from jaxtickets.metrics.frechet import fit_gaussian


def random_gaussian(seed, size=16):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(size, size))
    return Gaussian(rng.normal(size=size), factor @ factor.T)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_distance_agrees_with_scipy(seed):
    first, second = random_gaussian(seed), random_gaussian(seed + 100)
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance).real
    expected = np.square(first.mean - second.mean).sum() + np.trace(first.covariance + second.covariance - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_has_its_closed_form_for_diagonal_covariances():
    # |m1 - m2|^2 + sum (s1 - s2)^2 for independent features with standard deviations s1 and s2.
    first = Gaussian(np.array([0.0, 1.0]), np.diag([1.0, 4.0]))
    second = Gaussian(np.array([3.0, 1.0]), np.diag([9.0, 16.0]))
    assert frechet_distance(first, second) == pytest.approx(9 + 4 + 4)


def test_frechet_distance_of_a_gaussian_to_itself_is_zero_and_it_is_symmetric():
    first, second = random_gaussian(1), random_gaussian(2)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))


def test_frechet_distance_stays_real_for_singular_covariances():
    rng = np.random.default_rng(0)
    few = fit_gaussian([rng.normal(size=(5, 20))])  # Rank 4 of 20.
    many = fit_gaussian([rng.normal(size=(500, 20))])
    root = scipy.linalg.sqrtm(few.covariance @ many.covariance).real
    expected = np.square(few.mean - many.mean).sum() + np.trace(few.covariance + many.covariance - 2 * root)
    assert frechet_distance(few, many) == pytest.approx(expected, rel=1e-5)


def test_a_gaussian_is_fitted_over_batches_as_numpy_fits_it_at_once():
    values = np.random.default_rng(0).normal(size=(100, 3))
    fitted = fit_gaussian([values[:30], values[30:]])
    np.testing.assert_allclose(fitted.mean, values.mean(axis=0))
    np.testing.assert_allclose(fitted.covariance, np.cov(values.T))


def test_the_feature_network_is_deterministic_and_survives_a_file(optimized, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 60)
    rng = np.random.default_rng(0)
    labels = np.arange(256) % 2
    images = np.clip(rng.normal(80, 30, size=(256, 16, 16, 1)) + 90 * labels[:, None, None, None], 0, 255)
    images = images.astype(np.uint8)
    first, second = (classifier.train("shades", images, labels, images, labels) for _ in range(2))
    assert first.digest == second.digest
    assert first.accuracy == 1.0
    restored = first.replace(params=classifier.unflatten(classifier.flatten(first.params)))
    assert restored.digest == first.digest
    assert restored(images[:4] / 127.5 - 1).shape == (4, 64)
