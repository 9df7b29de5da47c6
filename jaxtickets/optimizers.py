"""Optimisers by name, as plug-ins, and the optimiser of each player of an objective."""

from collections.abc import Callable
from typing import NamedTuple

import optax

from jaxtickets.fields import Field, Registry, fraction, no_check

BETA1 = Field("optimizer.beta1", 0.9, fraction(), "Adam's decay of the mean gradient.")
BETA2 = Field(
    "optimizer.beta2", 0.999, fraction(), "The decay of the mean squared gradient; PyTorch's RMSProp has 0.99."
)


class Optimizer(NamedTuple):
    """An optimiser as a plug-in: `make(learning_rate, options)` with `options` a `config.optimizer`."""

    name: str
    make: Callable
    fields: tuple[Field, ...] = ()
    check: Callable = no_check


def _adam(learning_rate, options):
    """Adam (Kingma, Ba 2015)."""
    return optax.adam(learning_rate, b1=options.beta1, b2=options.beta2)


def _rmsprop(learning_rate, options):
    """RMSProp (Tieleman, Hinton 2012): the gradient over (the root of its mean square + 1e-8), as in PyTorch.

    Optax adds epsilon inside the root by default, which shrinks the steps of all gradients below about 1e-4.
    """
    return optax.rmsprop(learning_rate, decay=options.beta2, eps=1e-8, eps_in_sqrt=False)


OPTIMIZERS = Registry(
    "optimizer.name", Optimizer("adam", _adam, (BETA1, BETA2)), Optimizer("rmsprop", _rmsprop, (BETA2,))
)


def make_optimizers(objective, options) -> dict[str, optax.GradientTransformation]:
    """The optimiser of each player, with L2 weight decay, at the player's learning rate or `options.learning_rate`.

    The decay is added to the gradient, as PyTorch's `Adam(weight_decay=...)` does.

    Args:
      objective: an `Objective`.
      options: a `config.optimizer`.
    """

    def optimizer(player):
        decay = optax.add_decayed_weights(options.weight_decay) if options.weight_decay else optax.identity()
        rate = options.learning_rate if player.learning_rate is None else player.learning_rate
        return optax.chain(decay, OPTIMIZERS[options.name].make(rate, options))

    return {name: optimizer(player) for name, player in objective.players.items()}
