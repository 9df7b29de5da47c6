"""The metrics on held-out images against SciPy, NumPy by brute force, and networks whose likelihood is known."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from ml_collections import ConfigDict

from jaxtickets.metrics import METRICS
from jaxtickets.metrics.held_out import error_of_mean_image
from jaxtickets.metrics.psnr import ratios
from jaxtickets.metrics.ssim import similarities
from jaxtickets.models import Component
from jaxtickets.objectives import OBJECTIVES

SHAPE, LATENTS = (4, 4, 1), 3
SCALES = np.array([1.0, 0.3, 0.05])  # Of the directions of the linear decoder.
CONFIG = ConfigDict({"objective": {"beta": 1.0}, "eval": {"importance_samples": 40}})


class Linear(nn.Module):
    """A layer without activation, from inputs of any shape to outputs of the given one."""

    outputs: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs, train, labels=None):
        out = nn.Dense(math.prod(self.outputs))(inputs.reshape(len(inputs), -1))
        return out.reshape(-1, *self.outputs)


@pytest.fixture(scope="module")
def linear_vae():
    """A VAE with a linear decoder x = W z + b, and the encoder that gives its exact posterior.

    W has orthogonal columns, so that the posterior is N(2 P W^T (x - b), P) with the diagonal P = (I + 2 W^T W)^-1.
    """
    components = {"encoder": Component(Linear((2 * LATENTS,)), SHAPE), "decoder": Component(Linear(SHAPE), (LATENTS,))}
    rng = np.random.default_rng(0)
    weights = np.linalg.qr(rng.normal(size=(16, LATENTS)))[0] * SCALES
    bias = rng.normal(size=16) / 10
    precision = 1 + 2 * np.square(SCALES)
    to_mean = 2 * weights / precision
    encoder = {
        "kernel": np.concatenate([to_mean, np.zeros((16, LATENTS))], axis=1),
        "bias": np.concatenate([-bias @ to_mean, -np.log(precision)]),
    }
    decoder = {"kernel": weights.T, "bias": bias}
    params = {"encoder": {"Dense_0": encoder}, "decoder": {"Dense_0": decoder}}
    params = jax.tree.map(jnp.float32, params)
    return OBJECTIVES["vae"].make(components, CONFIG), weights, bias, params


def images(seed, n, shape=SHAPE):
    return np.random.default_rng(seed).uniform(-1, 1, size=(n, *shape)).astype(np.float32)


def evaluate(name, objective, params, batch, seed=0):
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(jnp.arange(len(batch)))
    function = jax.jit(METRICS[name].evaluate(objective, CONFIG))
    return jax.device_get(function(params, {"encoder": {}, "decoder": {}}, batch, keys))


def mean(values):
    return float(np.mean(np.asarray(values, np.float64)))


def log_density(batch, weights, bias):
    """log N(x; b, W W^T + I / 2), the likelihood of the linear VAE."""
    covariance = weights @ weights.T + np.eye(16) / 2
    return scipy.stats.multivariate_normal(bias, covariance).logpdf(batch.reshape(len(batch), -1))


def test_with_the_exact_posterior_every_importance_weight_is_the_likelihood(linear_vae):
    objective, weights, bias, params = linear_vae
    batch = images(0, 20)
    expected = log_density(batch, weights, bias)
    np.testing.assert_allclose(
        evaluate("log_likelihood", objective, params, batch)["log_likelihood"], expected, rtol=1e-4
    )


def test_the_importance_weighted_bound_lies_between_the_elbo_and_the_likelihood(linear_vae):
    objective, weights, bias, params = linear_vae
    wide = jax.tree.map(jnp.array, params)
    wide["encoder"]["Dense_0"]["bias"] = (
        wide["encoder"]["Dense_0"]["bias"].at[LATENTS:].add(1.0)
    )  # A posterior too wide.
    batch = np.tile(images(0, 1), (500, 1, 1, 1))
    (expected,) = set(log_density(batch, weights, bias).round(4))
    keys = jax.random.split(jax.random.key(1), len(batch))
    statistics = {"encoder": {}, "decoder": {}}
    elbo = -mean(objective.evaluate(wide, statistics, batch, keys)["negative_elbo"]) - 8 * np.log(np.pi)
    one = mean(objective.log_weight(wide, statistics, batch, keys))
    bound = np.mean(evaluate("log_likelihood", objective, wide, batch)["log_likelihood"])
    assert one == pytest.approx(elbo, abs=0.15)  # The mean of the log-weights is the ELBO.
    assert elbo < expected - 0.5
    assert expected - 0.1 < bound < expected + 0.02


def test_bits_per_dimension_of_the_exact_posterior_are_those_of_the_dequantised_density(linear_vae):
    objective, weights, bias, params = linear_vae
    batch = np.tile(np.round((images(0, 1) + 1) * 127.5) / 127.5 - 1, (4000, 1, 1, 1)).astype(np.float32)
    noisy = batch + np.random.default_rng(1).uniform(-1, 1, batch.shape) / 255
    expected = -np.mean(log_density(noisy, weights, bias)) / (16 * np.log(2)) + np.log2(127.5)
    found = np.mean(evaluate("bits_per_dimension", objective, params, batch)["bits_per_dimension"])
    assert found == pytest.approx(expected, abs=1e-3)


def test_the_mean_image_has_the_number_that_a_network_without_a_code_measures_which_always_answers_it(linear_vae):
    vae, _, _, params = linear_vae
    rng = np.random.default_rng(0)
    training, held_out = (rng.integers(0, high, (n, *SHAPE), dtype=np.uint8) for high, n in ((200, 5000), (256, 3000)))
    bias = np.mean(training / 127.5 - 1, axis=0).ravel()
    params = jax.tree.map(jnp.zeros_like, params)
    params["decoder"]["Dense_0"]["bias"] = jnp.float32(bias)
    batch, error = (held_out / 127.5 - 1).astype(np.float32), error_of_mean_image(training, held_out)
    assert error == pytest.approx(np.mean(np.square(batch.reshape(-1, 16) - bias)), rel=1e-6)
    empty, keys = {"encoder": {}, "decoder": {}}, jax.random.split(jax.random.key(0), len(batch))
    ae = OBJECTIVES["autoencoder"].make(
        {"encoder": Component(Linear((LATENTS,)), SHAPE), "decoder": vae.components["decoder"]}, CONFIG
    )
    codes = {"encoder": {"Dense_0": jax.tree.map(lambda leaf: leaf[..., :LATENTS], params["encoder"]["Dense_0"])}}
    measured = {
        "negative_elbo": vae.evaluate(params, empty, batch, keys)["negative_elbo"],
        "bits_per_dimension": evaluate("bits_per_dimension", vae, params, batch)["bits_per_dimension"],
        "reconstruction_error": ae.evaluate({**params, **codes}, empty, batch, keys)["reconstruction_error"],
    }
    for name, values in measured.items():
        assert METRICS[name].of_mean_image(error, 16) == pytest.approx(mean(values), rel=1e-4), name


def test_latents_are_active_whose_mean_varies_by_more_than_a_hundredth(linear_vae):
    objective, weights, bias, params = linear_vae
    latents = np.random.default_rng(0).normal(size=(3000, LATENTS))
    batch = (latents @ weights.T + bias).reshape(-1, *SHAPE).astype(np.float32)
    terms = evaluate("active_units", objective, params, batch)
    means = {name: values.astype(np.float64).mean(axis=0) for name, values in terms.items()}
    variances = np.var(terms["means"].astype(np.float64), axis=0)
    assert (variances > 0.01).tolist() == [True, True, False]
    np.testing.assert_allclose(means["squares"] - means["means"] ** 2, variances, rtol=1e-5)
    assert METRICS["active_units"].row(METRICS["active_units"].measure(means, CONFIG), CONFIG) == {"active_units": 2}


def test_psnr_of_a_known_error_is_that_of_its_definition():
    first = images(0, 3, (8, 8, 3)) / 2
    np.testing.assert_allclose(ratios(first, first + 0.2), 10 * np.log10(4 / 0.04), rtol=1e-5)
    np.testing.assert_allclose(ratios(first, first), 10 * np.log10(4 / 1e-10), rtol=1e-5)
    rng = np.random.default_rng(1)
    second = first + rng.normal(0, 0.1, first.shape).astype(np.float32)
    errors = np.square(first.astype(np.float64) - second).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(ratios(first, second), 10 * np.log10(4 / errors), rtol=1e-5)


@pytest.mark.parametrize(("height", "width", "channels"), [(16, 20, 1), (32, 32, 3), (11, 13, 1)])
def test_ssim_is_that_of_scipys_gaussian_filter_where_the_window_lies_within_the_image(height, width, channels):
    first = (images(0, 4, (height, width, channels)).astype(np.float64) + 1) / 2
    second = np.clip(first + np.random.default_rng(1).normal(0, 0.15, first.shape), 0, 1)

    def smooth(array):
        full = scipy.ndimage.gaussian_filter(array, 1.5, radius=5, axes=(1, 2))
        return full[:, 5 : height - 5, 5 : width - 5]

    means = smooth(first), smooth(second)
    variances = [smooth(array**2) - mean**2 for array, mean in zip((first, second), means, strict=True)]
    covariance = smooth(first * second) - means[0] * means[1]
    c1, c2 = 0.01**2, 0.03**2
    local = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
    local /= (means[0] ** 2 + means[1] ** 2 + c1) * (variances[0] + variances[1] + c2)
    found = similarities(*(np.float32(2 * array - 1) for array in (first, second)))
    np.testing.assert_allclose(found, local.mean(axis=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("size", [1, 4, 8, 28])
def test_ssim_of_an_image_and_itself_is_one_at_any_size(size):
    first = images(0, 2, (size, size, 1))
    np.testing.assert_allclose(similarities(first, first), 1, rtol=1e-5)
    assert (similarities(first, -first) < 0.9).all()


def test_reconstructions_are_clipped_as_they_are_saved(linear_vae):
    objective = linear_vae[0]._replace(reconstruct=lambda params, batch_stats, images: 100 * images)
    batch = np.sign(images(0, 5, (12, 12, 1)))
    assert evaluate("psnr", objective, {}, batch)["psnr"].min() > 100
    np.testing.assert_allclose(evaluate("ssim", objective, {}, batch)["ssim"], 1, rtol=1e-5)
