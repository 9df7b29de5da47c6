"""What an objective is: pure losses over one parameter pytree, one for each player."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxtickets import models


class Player(NamedTuple):
    """One side of a training game; players move in order in every step.

    Attributes:
      components: the components that it trains.
      loss: `(params, batch_stats, images, keys, labels, teacher) -> (loss, (batch_stats, scalars))`. `teacher` is
        None, or a discriminator to be followed: its `params` and `batch_stats`, and the `weight` of the term.
      every: it moves in each step whose number (from 1) this divides.
      constrain: what its parameters go through after each of its moves, or None.
      averaged: whether a running average of its parameters is kept, and evaluated in their place.
    """

    components: tuple[str, ...]
    loss: Callable
    every: int = 1
    constrain: Callable | None = None
    averaged: bool = False


class Objective(NamedTuple):
    """The players of a training game and what can be asked of the trained networks.

    All functions are pure and take parameters that are already masked. `images: [batch, height, width,
    channels]` are float32 in [-1, 1]; `keys: [batch]` hold one random key an example, so that the numbers do not
    depend on how a batch is split over devices; `labels: [batch]` int32 are only needed by conditional networks.

    Attributes:
      components: the Flax modules by component name.
      players: the players by name, in the order of their moves.
      evaluate: `(params, batch_stats, images, keys) -> {metric: [batch, ...]}` in evaluation mode, or None.
      summarize: `{metric: mean over all examples} -> {metric: number}`, or None if the means are what is wanted.
      generate: `(params, batch_stats, latents: [batch, latent_size], labels) -> images`, or None.
      reconstruct: `(params, batch_stats, images) -> images`, or None.
    """

    components: dict[str, models.Component]
    players: dict[str, Player]
    evaluate: Callable | None = None
    summarize: Callable | None = None
    generate: Callable | None = None
    reconstruct: Callable | None = None


def normal(keys, size: int):
    """Standard normal numbers `[batch, size]`, one row from each of `keys: [batch]`."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


def fold(keys, tag: int):
    """Other keys `[batch]`, one from each of `keys: [batch]`: for a further use of randomness in the same loss."""
    return jax.vmap(lambda key: jax.random.fold_in(key, tag))(keys)
