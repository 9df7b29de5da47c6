"""Tests of the losses against written-out numbers, NumPy and SciPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from conftest import init

from jaxtickets import models
from jaxtickets.config import get_config
from jaxtickets.models.quantized import Codebook
from jaxtickets.objectives import LOSSES, Batch
from jaxtickets.objectives.autoencoders import autoencoder, gaussian_kl, vae, vq_vae
from jaxtickets.objectives.gan import gan


@pytest.fixture(autouse=True)
def float32_products():
    """Full precision: by default GPUs round the factors of products to fewer digits than these comparisons need."""
    with jax.default_matmul_precision("float32"):
        yield


def configured(**options):
    """A config with `config.objective` at its defaults but for `options`."""
    config = get_config()
    config.objective.update(options)
    return config


def test_non_saturating_losses_are_minus_log_probabilities():
    real, fake = np.float32([[0.3], [-2.0]]), np.float32([[1.5], [0.1]])
    sigmoid = scipy.special.expit
    expected = -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean()
    loss = LOSSES["non_saturating"].make()
    assert loss.discriminator(real, fake) == pytest.approx(expected, rel=1e-6)
    assert loss.generator(fake) == pytest.approx(-np.log(sigmoid(fake)).mean(), rel=1e-6)


def test_label_smoothing_moves_the_real_target_only():
    real, fake = np.float32([[0.3], [-2.0]]), np.float32([[1.5], [0.1]])
    sigmoid = scipy.special.expit
    smoothed = -(0.9 * np.log(sigmoid(real)) + 0.1 * np.log(1 - sigmoid(real))).mean()
    expected = smoothed - np.log(1 - sigmoid(fake)).mean()
    loss = LOSSES["non_saturating"].make(0.9)
    assert loss.discriminator(real, fake) == pytest.approx(expected, rel=1e-6)
    assert loss.generator(fake) == LOSSES["non_saturating"].make().generator(fake)


# The discriminator's and the generator's loss, for outputs [2, -1] of real images and [0.5, -3] of generated ones.
WRITTEN_OUT = {
    # (max(0, 1 - 2) + max(0, 1 + 1)) / 2 + (max(0, 1 + 0.5) + max(0, 1 - 3)) / 2 = 1 + 0.75; -(0.5 - 3) / 2
    "hinge": (1.75, 1.25),
    # ((2 - 1)^2 + (-1 - 1)^2) / 4 + (0.5^2 + 3^2) / 4 = 1.25 + 2.3125; ((0.5 - 1)^2 + (-3 - 1)^2) / 4
    "least_squares": (3.5625, 4.0625),
    # (0.5 - 3) / 2 - (2 - 1) / 2; -(0.5 - 3) / 2
    "wasserstein": (-1.75, 1.25),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_the_other_losses_are_their_written_out_numbers(name):
    real, fake = np.float32([[2], [-1]]), np.float32([[0.5], [-3]])
    discriminator, generator = WRITTEN_OUT[name]
    loss = LOSSES[name].make()
    assert loss.discriminator(real, fake) == pytest.approx(discriminator, rel=1e-6)
    assert loss.generator(fake) == pytest.approx(generator, rel=1e-6)


def test_label_smoothing_of_least_squares_moves_the_real_target_only():
    real, fake = np.float32([[2], [-1]]), np.float32([[0.5], [-3]])
    loss = LOSSES["least_squares"].make(0.8)
    # ((2 - 0.8)^2 + (-1 - 0.8)^2) / 4 + 2.3125
    assert loss.discriminator(real, fake) == pytest.approx(1.17 + 2.3125, rel=1e-6)
    assert loss.generator(fake) == pytest.approx(4.0625, rel=1e-6)


def test_every_loss_has_a_test():
    assert set(LOSSES) == {"non_saturating", *WRITTEN_OUT}


def test_gaussian_kl_agrees_with_numerical_integration():
    mean, log_variance = 0.7, -0.4
    x = np.linspace(-12, 12, 200_001)
    variance = np.exp(log_variance)
    log_q = -0.5 * ((x - mean) ** 2 / variance + log_variance + np.log(2 * np.pi))
    log_p = -0.5 * (x**2 + np.log(2 * np.pi))
    integral = np.trapezoid(np.exp(log_q) * (log_q - log_p), x)
    assert gaussian_kl(jnp.array([[mean]]), jnp.array([[log_variance]]))[0] == pytest.approx(integral, rel=1e-5)


# Autoencoders with fully connected layers, which NumPy computes too.

LINEAR_SHAPE = (6, 6, 2)
LINEAR_SIZES = dict(width=16, latent_size=3, image_size=6, channels=2)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (5, *LINEAR_SHAPE)).astype(np.float32)


def layers(params, x, *names):
    """Fully connected layers with ReLUs between them, in NumPy."""
    for name in names:
        x = np.maximum(x, 0) if name != names[0] else x
        x = x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"], np.float64)
    return x


def encode(params, images):
    return layers(params["encoder"], images.reshape(len(images), -1), "down_1", "down_2", "down_3", "project")


def decode(params, codes):
    flat = layers(params["decoder"], codes, "unproject", "up_3", "up_2", "up_1")
    return np.tanh(flat).reshape(-1, *LINEAR_SHAPE)


def test_the_vae_loss_is_summed_squared_error_plus_beta_kl():
    components, keys = models.NETWORKS["linear_vae"].make(**LINEAR_SIZES), jax.random.split(jax.random.key(2), 5)
    params, batch_stats = init(components)
    objective = vae(components, configured(beta=4.0))
    loss, (_, scalars) = jax.jit(objective.players["vae"].loss)(params, batch_stats, Batch(IMAGES, keys))

    mean, log_variance = np.split(encode(params, IMAGES), 2, axis=1)
    latents = mean + np.exp(log_variance / 2) * np.stack([jax.random.normal(key, (3,)) for key in keys])
    errors = ((IMAGES - decode(params, latents)) ** 2).sum(axis=(1, 2, 3))
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1)
    assert loss == pytest.approx((errors + 4 * kl).mean(), rel=1e-5)
    assert scalars["reconstruction"] == pytest.approx(errors.mean(), rel=1e-5)
    assert scalars["kl"] == pytest.approx(kl.mean(), rel=1e-4)

    # On held-out images beta does not count.
    terms = jax.jit(objective.evaluate)(params, batch_stats, IMAGES, keys)
    np.testing.assert_allclose(terms["reconstruction"], errors, rtol=1e-5)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(terms["negative_elbo"], errors + kl, rtol=1e-5)
    np.testing.assert_allclose(objective.reconstruct(params, batch_stats, IMAGES), decode(params, mean), atol=1e-5)


def test_the_autoencoder_loss_is_the_mean_squared_error():
    components = models.NETWORKS["linear_ae"].make(**LINEAR_SIZES)
    params, batch_stats = init(components)
    objective = autoencoder(components, configured())
    loss, _ = jax.jit(objective.players["autoencoder"].loss)(params, batch_stats, Batch(IMAGES, None))
    reconstructions = decode(params, encode(params, IMAGES))
    errors = ((IMAGES - reconstructions) ** 2).mean(axis=(1, 2, 3))
    assert loss == pytest.approx(errors.mean(), rel=1e-5)
    terms = jax.jit(objective.evaluate)(params, batch_stats, IMAGES, None)
    np.testing.assert_allclose(terms["reconstruction_error"], errors, rtol=1e-5)
    np.testing.assert_allclose(objective.reconstruct(params, batch_stats, IMAGES), reconstructions, atol=1e-5)


# A VQ-VAE whose encoder and decoder are one matrix each, so that NumPy has all gradients.

CODES, CODE_SIZE = 7, 3
PIXELS = (4, 5, 2)  # The shape of the images; each of 4x5 pixels is quantised.


class Matrix(nn.Module):
    """Multiplies the channels of each pixel by a matrix."""

    features: int

    @nn.compact
    def __call__(self, x, train, labels=None):
        return x @ self.param("matrix", nn.initializers.normal(1.0), (x.shape[-1], self.features))


@functools.cache
def linear_vq_vae(decay=0.0, **changes):
    """`(objective, params, batch_stats, images)`; the last two codes are too far from the images to be used."""
    components = {
        "encoder": models.Component(Matrix(CODE_SIZE), PIXELS),
        "decoder": models.Component(Matrix(PIXELS[-1]), (*PIXELS[:2], CODE_SIZE)),
        "codebook": models.Component(Codebook(CODES, CODE_SIZE, decay), (*PIXELS[:2], CODE_SIZE)),
    }
    params, batch_stats = init(components)
    codes = np.random.default_rng(0).normal(size=(CODES, CODE_SIZE)).astype(np.float32)
    codes[-2:] += 100
    if decay:
        batch_stats["codebook"]["total"] = codes / CODES
    else:
        params["codebook"]["embedding"] = codes
    images = np.random.default_rng(1).uniform(-1, 1, (6, *PIXELS)).astype(np.float32)
    return vq_vae(components, configured(**changes)), params, batch_stats, images


def quantised(params, codes, images):
    """`(pixels x: [n, channels], vectors z: [n, code size], indices of the codes nearest to each z: [n])`."""
    x = images.reshape(-1, PIXELS[-1]).astype(np.float64)
    z = x @ np.asarray(params["encoder"]["matrix"], np.float64)
    return x, z, ((z[:, None] - codes[None]) ** 2).sum(axis=-1).argmin(axis=1)


def test_each_vector_is_quantised_to_its_nearest_code():
    rng = np.random.default_rng(0)
    codes, vectors = rng.normal(size=(CODES, CODE_SIZE)), rng.normal(size=(3, 4, 5, CODE_SIZE))
    variables = {"params": {"embedding": codes.astype(np.float32)}}
    nearest, indices = Codebook(CODES, CODE_SIZE).apply(variables, vectors.astype(np.float32), train=False)
    expected = ((vectors[..., None, :] - codes) ** 2).sum(axis=-1).argmin(axis=-1)
    assert len(np.unique(expected)) == CODES
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(nearest, codes[expected], rtol=1e-6)


@pytest.mark.parametrize("commitment", [0.0, 0.25, 2.0])
def test_the_vq_vaes_loss_and_gradients_are_those_of_numpy(commitment):
    objective, params, batch_stats, images = linear_vq_vae(commitment=commitment)
    loss = jax.jit(jax.value_and_grad(objective.players["vq_vae"].loss, has_aux=True))
    (value, (_, scalars)), gradients = loss(params, batch_stats, Batch(images, None))

    codes, decoder = (
        np.asarray(params[name][leaf], np.float64) for name, leaf in (("codebook", "embedding"), ("decoder", "matrix"))
    )
    x, z, indices = quantised(params, codes, images)
    e = codes[indices]
    error, gap = e @ decoder - x, z - e
    assert scalars["reconstruction_error"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert scalars["codebook"] == pytest.approx((gap**2).mean(), rel=1e-5)
    assert scalars["commitment"] == pytest.approx((gap**2).mean(), rel=1e-5)
    assert value == pytest.approx((error**2).mean() + (1 + commitment) * (gap**2).mean(), rel=1e-5)

    def check(ours, expected):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())

    # Straight through: the decoder's gradient at the codes reaches the encoder's output unchanged.
    from_decoder = 2 * error / error.size
    check(gradients["decoder"]["matrix"], e.T @ from_decoder)
    check(gradients["encoder"]["matrix"], x.T @ (from_decoder @ decoder.T + commitment * 2 * gap / gap.size))

    # The gradient of a code points from the mean of its vectors to it.
    embedding = np.asarray(gradients["codebook"]["embedding"])
    used, counts = np.unique(indices, return_counts=True)
    for code, count in zip(used, counts, strict=True):
        check(embedding[code], 2 * count * (codes[code] - z[indices == code].mean(axis=0)) / gap.size)
    unused = np.setdiff1d(np.arange(CODES), used)
    assert len(used) > 2
    assert len(unused) >= 2
    assert np.all(embedding[unused] == 0)


def test_running_codes_follow_the_vectors_nearest_to_them():
    decay = 0.9
    objective, params, batch_stats, images = linear_vq_vae(decay)
    assert params["codebook"] == {}
    share, total = (np.asarray(batch_stats["codebook"][name], np.float64) for name in ("share", "total"))
    np.testing.assert_allclose(share, 1 / CODES, rtol=1e-6)
    loss = jax.jit(objective.players["vq_vae"].loss)
    for _ in range(3):
        codes = total / ((share + 1e-5) / (1 + CODES * 1e-5))[:, None]
        _, z, indices = quantised(params, codes, images)
        value, (batch_stats, scalars) = loss(params, batch_stats, Batch(images, None))
        gap = ((z - codes[indices]) ** 2).mean()
        assert scalars["commitment"] == pytest.approx(gap, rel=1e-4)
        # The loss has no second term, because codes are not trained by a gradient.
        assert value == pytest.approx(float(scalars["reconstruction_error"]) + 0.25 * gap, rel=1e-4)
        for code in range(CODES):
            own = indices == code
            share[code] = decay * share[code] + (1 - decay) * own.mean()
            total[code] = decay * total[code] + (1 - decay) * z[own].sum(axis=0) / len(z)
        np.testing.assert_allclose(batch_stats["codebook"]["share"], share, rtol=1e-4)
        np.testing.assert_allclose(batch_stats["codebook"]["total"], total, rtol=1e-4, atol=1e-5)


def test_running_codes_start_equally_used_and_rest_outside_training():
    codes, size = 8, 5
    codebook = Codebook(codes, size, 0.99)
    vectors = np.random.default_rng(0).normal(size=(2, 4, 4, size)).astype(np.float32)
    variables = codebook.init(jax.random.key(0), vectors, train=True)
    assert "params" not in variables
    start = jax.device_get(variables["batch_stats"])
    (nearest, indices), after = codebook.apply(variables, vectors, train=False, mutable=["batch_stats"])
    assert jax.tree.all(jax.tree.map(np.array_equal, after.get("batch_stats", start), start))
    np.testing.assert_allclose(nearest, codes * start["total"][indices], rtol=1e-5)


def test_a_running_code_without_vectors_stays_where_it_was():
    # Its share and its total fade together; 1e-5 is added to each share before the sum of all is brought back to 1.
    share, total = np.float32([1, 3e-5]), np.float32([[0.5, 0.5], [4e-5, -8e-5]])
    variables = {"batch_stats": {"share": share, "total": total}}
    vectors = np.float32([[[[1, -2]]]])
    nearest, indices = Codebook(2, 2, 0.9).apply(variables, vectors, train=False)
    np.testing.assert_array_equal(indices, [[[1]]])
    np.testing.assert_allclose(nearest, vectors * (1 + 2e-5), rtol=1e-6)


def test_evaluating_counts_the_codes_of_each_image():
    objective, params, batch_stats, images = linear_vq_vae()
    terms = objective.evaluate(params, batch_stats, images, None)
    codes = np.asarray(params["codebook"]["embedding"], np.float64)
    x, _, indices = quantised(params, codes, images)
    shares = [np.bincount(row, minlength=CODES) / row.size for row in indices.reshape(len(images), -1)]
    np.testing.assert_allclose(terms["shares"], shares, rtol=1e-6)
    errors = ((codes[indices] @ np.asarray(params["decoder"]["matrix"]) - x) ** 2).reshape(len(images), -1).mean(axis=1)
    np.testing.assert_allclose(terms["reconstruction_error"], errors, rtol=1e-4)


@pytest.mark.parametrize(
    ("shares", "usage", "perplexity"),
    [
        ([1, 0, 0, 0], 0.25, 1),
        ([1 / 3, 1 / 3, 0, 1 / 3], 0.75, 3),
        ([0.25, 0.25, 0.25, 0.25], 1, 4),
        ([0.5, 0.25, 0.25, 0], 0.75, 2**1.5),  # An entropy of 1.5 bits.
    ],
)
def test_usage_and_perplexity_of_a_codebook(shares, usage, perplexity):
    objective, *_ = linear_vq_vae()
    metrics = objective.summarize({"reconstruction_error": 0.5, "shares": np.float32(shares)})
    assert metrics == pytest.approx(
        {"reconstruction_error": 0.5, "codebook_usage": usage, "codebook_perplexity": perplexity}, rel=1e-5
    )


# Conditional networks.


@functools.cache
def conditional():
    """A class-conditional SNGAN ResNet, without spectral norms, because these couple the classes."""
    options = {"classes": 10, "discriminator_norm": "none"}
    components = models.NETWORKS["sngan_resnet"].make(width=4, latent_size=4, image_size=16, channels=1, **options)
    params, batch_stats = init(components)
    return gan(components, configured(loss="wasserstein")), params, batch_stats


def test_a_conditional_generators_images_depend_on_labels():
    objective, params, batch_stats = conditional()
    keys, labels = jnp.repeat(jax.random.key(0)[None], 3), np.int32([1, 1, 7])  # The same latents for all three.
    sample = jax.jit(objective.sample)
    first, same, other = np.asarray(sample(params, batch_stats, keys, labels))
    np.testing.assert_array_equal(first, same)
    np.testing.assert_array_equal(first, other)

    norm = params["generator"]["up_16"]["norm_2"]
    scale = np.asarray(norm["scale"]).copy()
    scale[7] += 1
    changed = {**params["generator"], "up_16": {**params["generator"]["up_16"], "norm_2": {**norm, "scale": scale}}}
    first_again, same, other = np.asarray(sample({**params, "generator": changed}, batch_stats, keys, labels))
    np.testing.assert_array_equal(first_again, first)
    np.testing.assert_array_equal(same, first)
    assert np.abs(other - first).max() > 1e-3


def test_gradients_reach_exactly_the_classes_that_a_player_has_seen():
    objective, params, batch_stats = conditional()
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 1)).astype(np.float32)
    batch = Batch(images, jax.random.split(jax.random.key(3), 3), np.int32([2, 5, 2]))

    @jax.jit
    def gradients(params):
        return {
            name: jax.grad(player.loss, has_aux=True)(params, batch_stats, batch)[0][name]
            for name, player in objective.players.items()
        }

    def seen(rows):
        return set(np.flatnonzero(np.abs(rows).reshape(10, -1).max(axis=1)))

    ours = jax.device_get(gradients(params))
    drawn = seen(ours["generator"]["up_16"]["norm_2"]["scale"])
    assert 1 <= len(drawn) <= 3
    assert seen(ours["discriminator"]["embedding"]["embedding"]) == drawn | {2, 5}
