"""What an objective is: pure losses over one parameter pytree, one for each player."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxtickets import models


class Objective(NamedTuple):
    """The players of a training game and what can be asked of the trained networks.

    All functions are pure and take parameters that are already masked. `images: [batch, height, width,
    channels]` are float32 in [-1, 1]; `keys: [batch]` hold one random key an example, so that the numbers do not
    depend on how a batch is split over devices.

    Attributes:
      components: the Flax modules by component name.
      players: for each player the components that it trains; players move in this order in every step.
      losses: for each player `(params, batch_stats, images, keys) -> (loss, (batch_stats, scalars))`.
      evaluate: `(params, batch_stats, images, keys) -> {metric: [batch]}` in evaluation mode, or None.
      generate: `(params, batch_stats, latents: [batch, latent_size]) -> images`, or None.
      reconstruct: `(params, batch_stats, images) -> images`, or None.
    """

    components: dict[str, models.Component]
    players: dict[str, tuple[str, ...]]
    losses: dict[str, Callable]
    evaluate: Callable | None = None
    generate: Callable | None = None
    reconstruct: Callable | None = None


def normal(keys, size: int):
    """Standard normal numbers `[batch, size]`, one row from each of `keys: [batch]`."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)
