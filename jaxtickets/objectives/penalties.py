"""Penalties on the discriminator's gradient with respect to its images, one value per example.

Each takes `critic: images -> outputs [batch, 1]`, which must judge every image alone (no batch norm), the real
and the generated images, and one key per example, and gives the mean over the batch before it is weighted.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxtickets.fields import Field, Registry, at_least, no_check

WEIGHT = Field("objective.penalty_weight", 10.0, at_least(0), "The weight of the penalty in the discriminator's loss.")


def _gradient_norms_squared(critic, images):
    gradients = jax.grad(lambda images: critic(images).sum())(images)
    return jnp.square(gradients).sum(axis=(1, 2, 3))


def _distance_from_one(critic, images):
    # The gradient of a square root at 0 is infinite.
    return jnp.square(jnp.sqrt(_gradient_norms_squared(critic, images) + 1e-12) - 1).mean()


def _uniform(keys, shape):
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)


def wgan_gp(critic, real, fake, keys):
    """(|grad D| - 1)^2 between each real image and a generated one (Gulrajani et al. 2017, equation 3; weight 10)."""
    between = _uniform(keys, (1, 1, 1))
    return _distance_from_one(critic, real + between * (fake - real))


def r1(critic, real, fake, keys):
    """|grad D|^2 / 2 at the real images (Mescheder, Geiger, Nowozin 2018, equation 9; weight 10)."""
    del fake, keys
    return _gradient_norms_squared(critic, real).mean() / 2


def dragan(critic, real, fake, keys):
    """(|grad D| - 1)^2 near the real images (Kodali et al. 2017, section 2.3; weight 10).

    As in their code a point lies somewhere on the way to the image plus uniform noise of half a standard deviation,
    here the image's own, so that the value does not depend on what else is in the batch.
    """
    del fake
    noise = jax.vmap(lambda key: jax.random.uniform(key, real.shape[1:]))(keys)
    spread = 0.5 * real.std(axis=(1, 2, 3), keepdims=True)
    between = _uniform(jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys), (1, 1, 1))
    return _distance_from_one(critic, real + between * spread * noise)


class Penalty(NamedTuple):
    """A penalty as a plug-in: `function(critic, real, fake, keys) -> penalty`."""

    function: Callable
    fields: tuple[Field, ...] = (WEIGHT,)
    check: Callable = no_check

    @property
    def name(self) -> str:
        """What `config.objective.penalty` calls it."""
        return self.function.__name__


PENALTIES = Registry("objective.penalty", Penalty(wgan_gp), Penalty(r1), Penalty(dragan))
