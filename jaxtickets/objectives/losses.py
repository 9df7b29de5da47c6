"""The losses of generative adversarial networks by name, on the discriminator's outputs `[batch, 1]`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


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


DISTILLED = ("non_saturating", "hinge")  # Losses whose outputs are a probability's logits, or near enough.
LOSSES = {"non_saturating": non_saturating, "least_squares": least_squares, "hinge": hinge, "wasserstein": wasserstein}
SMOOTHED = ("non_saturating", "least_squares")  # Those that take a `real_label`.
