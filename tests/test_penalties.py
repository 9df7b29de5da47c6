"""Tests of the gradient penalties against closed forms, with critics whose gradients are known."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtickets import models
from jaxtickets.config import get_config
from jaxtickets.objectives import PENALTIES, Batch
from jaxtickets.objectives.gan import gan

SHAPE = (4, 3, 2)
BATCH = 6
rng = np.random.default_rng(0)
REAL, FAKE = rng.uniform(-1, 1, (2, BATCH, *SHAPE)).astype(np.float32)
WEIGHTS = rng.normal(size=SHAPE).astype(np.float32)
NORM = float(np.sqrt((WEIGHTS.astype(np.float64) ** 2).sum()))
OF_LINEAR = {"wgan_gp": (NORM - 1) ** 2, "dragan": (NORM - 1) ** 2, "r1": NORM**2 / 2}


@functools.cache
def keys():
    return jax.random.split(jax.random.key(0), BATCH)


def penalty_of(name, critic, images=slice(None)):
    """A penalty of a critic over some of the images, by default over all."""
    return PENALTIES[name].function(critic, REAL[images], FAKE[images], keys()[images])


def linear(weights):
    """D(x) = <weights, x>, whose gradient is `weights` everywhere."""
    return lambda images: (images * weights).sum(axis=(1, 2, 3))[:, None]


def quadratic(images):
    """D(x) = <x, x> / 2, whose gradient is x."""
    return jnp.square(images).sum(axis=(1, 2, 3))[:, None] / 2


def norms(images):
    return np.sqrt((np.asarray(images, np.float64) ** 2).sum(axis=(1, 2, 3)))


def points(penalty):
    """The images at which a penalty takes the critic's gradient."""
    seen = []

    def critic(images):
        seen.append(np.asarray(jax.lax.stop_gradient(images)))
        return linear(WEIGHTS)(images)

    penalty_of(penalty, critic)
    (images,) = seen
    return images


def uniforms(shape):
    return np.stack([np.asarray(jax.random.uniform(key, shape)) for key in keys()])


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_linear_critic_has_the_same_penalty_everywhere(penalty):
    assert penalty_of(penalty, linear(WEIGHTS)) == pytest.approx(OF_LINEAR[penalty], rel=1e-5)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_gradient_for_a_linear_critics_weights_is_along_them(penalty):
    gradient = jax.grad(lambda weights: penalty_of(penalty, linear(weights)))(WEIGHTS)
    # d (|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|, and d (|w|^2 / 2) / dw = w.
    along = {"r1": 1.0}.get(penalty, 2 * (NORM - 1) / NORM)
    np.testing.assert_allclose(gradient, along * WEIGHTS, rtol=1e-4)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_flat_critic_has_a_finite_differentiable_penalty(penalty):
    loss = jax.value_and_grad(lambda weights: penalty_of(penalty, linear(weights)))
    value, gradient = loss(np.zeros(SHAPE, np.float32))
    assert value == pytest.approx({"r1": 0.0}.get(penalty, 1.0), abs=1e-5)
    assert np.all(np.isfinite(gradient))


def test_r1_is_taken_at_the_real_images():
    assert penalty_of("r1", quadratic) == pytest.approx((norms(REAL) ** 2 / 2).mean(), rel=1e-5)
    np.testing.assert_array_equal(points("r1"), REAL)


def test_wgan_gp_is_taken_between_real_and_generated_images():
    between = points("wgan_gp").astype(np.float64)
    shares = ((between - REAL) / (FAKE - REAL)).reshape(BATCH, -1)
    np.testing.assert_allclose(shares, np.broadcast_to(shares[:, :1], shares.shape), rtol=1e-3, atol=1e-4)
    assert np.all((shares > -1e-4) & (shares < 1 + 1e-4))
    np.testing.assert_allclose(shares[:, 0], uniforms(()), atol=1e-4)
    assert len(np.unique(shares[:, 0].round(4))) == BATCH


def test_wgan_gp_of_a_quadratic_critic_is_that_of_its_points_norms():
    share = uniforms((1, 1, 1)).astype(np.float64)
    expected = ((norms((1 - share) * REAL + share * FAKE) - 1) ** 2).mean()
    assert penalty_of("wgan_gp", quadratic) == pytest.approx(expected, rel=1e-5)


def test_dragan_is_taken_within_half_a_deviation_above_real_images():
    distance = points("dragan").astype(np.float64) - REAL
    reach = 0.5 * REAL.astype(np.float64).reshape(BATCH, -1).std(axis=1)[:, None, None, None]
    assert np.all(distance > -1e-6)
    assert np.all(distance < reach + 1e-6)
    # Pixels differ within an image, and lengths between images.
    assert np.all(distance.std(axis=(1, 2, 3)) > 0)
    assert len(np.unique((distance / reach).mean(axis=(1, 2, 3)).round(4))) == BATCH


def test_dragan_of_a_quadratic_critic_is_that_of_its_points_norms():
    expected = ((norms(points("dragan")) - 1) ** 2).mean()
    assert penalty_of("dragan", quadratic) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_penalty_is_the_mean_over_images_judged_alone(penalty):
    whole = penalty_of(penalty, quadratic)
    alone = [penalty_of(penalty, quadratic, slice(i, i + 1)) for i in range(BATCH)]
    assert whole == pytest.approx(np.mean(alone), rel=1e-5)


class LinearCritic(nn.Module):
    """D(x) = <weights, x>."""

    @nn.compact
    def __call__(self, images, train, labels=None):
        return linear(self.param("weights", nn.initializers.zeros, SHAPE))(images)


class OneImage(nn.Module):
    """Makes the same image of all latents."""

    @nn.compact
    def __call__(self, latents, train, labels=None):
        image = self.param("image", nn.initializers.zeros, SHAPE)
        return jnp.broadcast_to(image, (len(latents), *SHAPE))


COMPONENTS = {"generator": models.Component(OneImage(), (2,)), "discriminator": models.Component(LinearCritic(), SHAPE)}
PARAMS = {"generator": {"image": FAKE[0]}, "discriminator": {"weights": WEIGHTS}}


def linear_gan(**options):
    config = get_config()
    config.objective.update(options)
    return gan(COMPONENTS, config)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_discriminators_loss_has_the_weighted_penalty_on_top(penalty):
    objective = linear_gan(loss="wasserstein", penalty=penalty, penalty_weight=3.0)
    loss, (_, scalars) = objective.players["discriminator"].loss(
        PARAMS, {"generator": {}, "discriminator": {}}, Batch(REAL, keys())
    )
    real, fake = ((images.astype(np.float64) * WEIGHTS).sum(axis=(1, 2, 3)).mean() for images in (REAL, FAKE[:1]))
    assert scalars["penalty"] == pytest.approx(OF_LINEAR[penalty], rel=1e-5)
    assert loss == pytest.approx(fake - real + 3 * OF_LINEAR[penalty], rel=1e-4)
    assert scalars["discriminator_real"] == pytest.approx(real, rel=1e-4)
    assert scalars["discriminator_fake"] == pytest.approx(fake, rel=1e-4)


def test_the_generators_loss_has_no_penalty():
    losses = [
        linear_gan(loss="wasserstein", penalty=penalty)
        .players["generator"]
        .loss(PARAMS, {name: {} for name in PARAMS}, Batch(REAL, keys()))[0]
        for penalty in ("none", "wgan_gp")
    ]
    assert losses[0] == losses[1] == pytest.approx(-float((FAKE[0] * WEIGHTS).sum()), rel=1e-4)


def test_both_players_judge_augmented_images():
    # All images are 1 everywhere and the critic sums them up, so it counts the values that no cutout has set to zero.
    params = {
        "generator": {"image": np.ones(SHAPE, np.float32)},
        "discriminator": {"weights": np.ones(SHAPE, np.float32)},
    }
    stats = {name: {} for name in params}
    objective = linear_gan(loss="wasserstein", augmentations=("cutout",))
    batch = Batch(np.ones((BATCH, *SHAPE), np.float32), keys())
    _, (_, scalars) = objective.players["discriminator"].loss(params, stats, batch)
    generator_loss, _ = objective.players["generator"].loss(params, stats, batch)
    whole, cut = np.prod(SHAPE), 2 * 1 * 2  # Half of 4 rows, half of 3 columns, 2 channels.
    for judged in (scalars["discriminator_real"], scalars["discriminator_fake"], -generator_loss):
        assert whole - cut <= judged < whole
