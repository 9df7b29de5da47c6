"""What an objective is: pure losses over one parameter pytree, one for each player of a training game."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from jaxtickets import models
from jaxtickets.fields import Field, no_check


class Batch(NamedTuple):
    """What a loss reads beside parameters and batch statistics.

    Attributes:
      images: `[batch, height, width, channels]`, float32 in [-1, 1].
      keys: `[batch]`, one random key per example, so that numbers do not depend on how a batch is split over devices.
      labels: `[batch]` int32 classes, or None; only conditional networks need them.
      teacher: None, or the dense run's trained components that the objective asked for (`Objective.teacher`):
        `params` and `batch_stats`, each `{component: {layer: ...}}`, and `weight`, 0.0 in the dense run and 1.0 later.
    """

    images: Any
    keys: Any
    labels: Any = None
    teacher: Any = None


class Player(NamedTuple):
    """One side of a training game; players move in order in every step.

    Attributes:
      components: the components that it trains.
      loss: `(params, batch_stats, batch: Batch) -> (loss, (batch_stats, scalars))`.
      every: it moves in each step whose number (from 1) this divides.
      learning_rate: its own; None is `config.optimizer.learning_rate`.
      constrain: what its parameters go through after each of its moves, or None.
      ema_decay: above 0 a running average of its parameters is kept with this decay, and evaluated in their place.
      tempered: `(temperature) -> loss`, the loss whose classifier outputs are divided by the temperature; None where
        the loss has no such outputs.
    """

    components: tuple[str, ...]
    loss: Callable
    every: int = 1
    learning_rate: float | None = None
    constrain: Callable | None = None
    ema_decay: float = 0.0
    tempered: Callable | None = None


class Objective(NamedTuple):
    """The players of a training game and what can be asked of the trained networks.

    All functions are pure and take parameters that are already masked. Shapes are those of `Batch`.

    Attributes:
      components: the Flax modules by component name (`models.Component`).
      players: the players by name, in the order of their moves.
      evaluate: `(params, batch_stats, images, keys) -> {term: [batch, ...]}` in evaluation mode, or None.
      summarize: `{term: mean over all examples} -> {column: number}`, or None if the means are what is wanted.
      sample: `(params, batch_stats, keys: [batch], labels) -> images`; draws its own noise from the keys. Or None.
      classes: above 0 `sample` needs `labels: [batch]` int32 below that.
      reconstruct: `(params, batch_stats, images) -> images`, or None.
      encode: `(params, batch_stats, images) -> [batch, latents]`, the (means of the) latents given the images, or None.
      log_weight: `(params, batch_stats, images, keys) -> [batch]`, log p(x, z) - log q(z | x) in nats for one z drawn
        from q(z | x) with the image's key, normalised densities of images in [-1, 1]; or None. Its mean over z is the
        evidence lower bound, and the logarithm of the mean of its exponential is log p(x).
      decode: `(params, batch_stats, latents, labels) -> images` of the latents that `encode` gives, or of `[batch, n]`
        standard normal ones where images are sampled; or None.
      latents: the number n of standard normal latents; 0 where `sample` draws others or none.
      kept: the components that start each round as the dense run has trained them, instead of rewinding.
      teacher: the components of the trained dense run that the losses of later rounds are given (`Batch.teacher`).
    """

    components: dict[str, models.Component]
    players: dict[str, Player]
    evaluate: Callable | None = None
    summarize: Callable | None = None
    sample: Callable | None = None
    classes: int = 0
    reconstruct: Callable | None = None
    encode: Callable | None = None
    log_weight: Callable | None = None
    decode: Callable | None = None
    latents: int = 0
    kept: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Game:
    """An objective as a plug-in: `config.objective.name` chooses it.

    Attributes:
      name, fields, check: see `jaxtickets.fields`.
      make: `(components: {name: models.Component}, config) -> Objective`.
      components: the names of the components that it trains.
      metrics: the metrics that judge it where `config.eval.metrics` is empty; the first decides the verdict.
      offers: the functions of its objective that further metrics may call: some of "reconstruct", "encode" and
        "log_weight". A config is checked by them before the objective is made.
      registries: of the plug-ins that its own fields choose from, such as losses.
      counterparts: for a component its counterpart in a game of another kind, whose tickets can be transferred to it.

    Raises:
      ValueError: it has no metric.
    """

    name: str
    make: Callable
    components: tuple[str, ...]
    metrics: tuple[str, ...]
    offers: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    check: Callable = no_check
    registries: tuple = ()
    counterparts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.metrics:
            raise ValueError(f"game {self.name!r}: at least one metric must judge it")


def normal(keys, size: int):
    """Standard normal numbers `[batch, size]`, one row from each of `keys: [batch]`."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


def fold(keys, tag: int):
    """Other keys `[batch]`, one from each of `keys: [batch]`: for a further use of randomness in the same loss."""
    return jax.vmap(lambda key: jax.random.fold_in(key, tag))(keys)
