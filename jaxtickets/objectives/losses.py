"""The losses of generative adversarial networks by name, on the discriminator's outputs `[batch, 1]`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtickets import models
from jaxtickets.fields import Field, Registry, no_check, refuse


class Loss(NamedTuple):
    """discriminator: `(real outputs, fake outputs) -> loss`; generator: `(fake outputs) -> loss`."""

    discriminator: Callable
    generator: Callable


def non_saturating(real_label: float = 1.0) -> Loss:
    """-log D(x) - log(1 - D(G(z))) and -log D(G(z)), D = sigmoid of the output (Goodfellow et al. 2014, section 3).

    `real_label` below 1 smooths the target of real images (Salimans et al. 2016, section 3.4).
    """

    def discriminator(real, fake):
        return optax.sigmoid_binary_cross_entropy(real, real_label).mean() + jax.nn.softplus(fake).mean()

    return Loss(discriminator, lambda fake: jax.nn.softplus(-fake).mean())


def least_squares(real_label: float = 1.0) -> Loss:
    """(D(x) - b)^2 / 2 + D(G(z))^2 / 2 and (D(G(z)) - 1)^2 / 2 with b = `real_label` (Mao et al. 2017, equation 9)."""

    def discriminator(real, fake):
        return (jnp.square(real - real_label).mean() + jnp.square(fake).mean()) / 2

    return Loss(discriminator, lambda fake: jnp.square(fake - 1).mean() / 2)


def hinge() -> Loss:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))) and -D(G(z)) (Miyato et al. 2018, equations 16 and 17)."""
    return Loss(
        lambda real, fake: jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean(), lambda fake: -fake.mean()
    )


def wasserstein() -> Loss:
    """D(G(z)) - D(x) and -D(G(z)) (Arjovsky, Chintala, Bottou 2017, equation 2); the critic must be bounded."""
    return Loss(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean())


def tempered(loss: Loss, temperature: float) -> Loss:
    """`loss` of outputs over `temperature`."""
    return Loss(
        lambda real, fake: loss.discriminator(real / temperature, fake / temperature),
        lambda fake: loss.generator(fake / temperature),
    )


def bernoulli_divergence(teacher, student):
    """KL(sigmoid(teacher) || sigmoid(student)), the mean over outputs: what a sparse discriminator is taught with.

    Chen et al. 2021 (ICLR), section 3.2: the dense, trained discriminator teaches at the real images.
    """
    probability = jax.nn.sigmoid(teacher)
    cross_entropy = optax.sigmoid_binary_cross_entropy(student, probability)
    return (cross_entropy - optax.sigmoid_binary_cross_entropy(teacher, probability)).mean()


def _check_wasserstein(config):
    options, norm = config.objective, models.discriminator_norm(config.model)
    if not (options.clip or options.penalty != "none" or norm == "spectral"):
        allowed = (
            "that with a bounded critic: config.objective.clip above 0, a config.objective.penalty, or "
            "config.model.discriminator_norm='spectral'"
        )
        refuse("objective.loss", options.loss, allowed)


class GanLoss(NamedTuple):
    """A loss as a plug-in.

    Attributes:
      make: `() -> Loss`, or `(real_label) -> Loss` if `smoothed`.
      smoothed: whether the target of real images can be smoothed (`config.objective.real_label`).
      distilled: whether outputs are the logits of a probability, or near enough, so that a discriminator can teach
        another.
      clipped: whether the loss is that of a critic whose weights can be clipped.
    """

    make: Callable
    smoothed: bool = False
    distilled: bool = False
    clipped: bool = False
    fields: tuple[Field, ...] = ()
    check: Callable = no_check

    @property
    def name(self) -> str:
        """What `config.objective.loss` calls it."""
        return self.make.__name__


LOSSES = Registry(
    "objective.loss",
    GanLoss(non_saturating, smoothed=True, distilled=True),
    GanLoss(least_squares, smoothed=True),
    GanLoss(hinge, distilled=True),
    GanLoss(wasserstein, clipped=True, check=_check_wasserstein),
)
