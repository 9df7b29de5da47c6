"""Generative adversarial networks (Goodfellow et al. 2014): two players, two losses."""

import jax
import optax

from jaxtickets import models
from jaxtickets.objectives.objective import Objective, normal


def non_saturating_discriminator(real_logits, fake_logits, real_label: float = 1.0):
    """Mean of -log D(x) and -log(1 - D(G(z))), D = sigmoid of the logits (Goodfellow et al. 2014, equation 1).

    `real_label` below 1 smooths the target of real images (Salimans et al. 2016, section 3.4).
    """
    real = optax.sigmoid_binary_cross_entropy(real_logits, real_label).mean()
    return real + jax.nn.softplus(fake_logits).mean()


def non_saturating_generator(fake_logits):
    """Mean of -log D(G(z)), the generator's loss of Goodfellow et al. 2014, section 3."""
    return jax.nn.softplus(-fake_logits).mean()


def gan(components, options) -> Objective:
    """The GAN of a `generator` and a `discriminator`; the discriminator moves first.

    Real and generated images pass through the discriminator separately, and each player draws latents of its own,
    as in the paper's reference code. Every pass in training mode moves the running statistics of its batch norms.
    """
    (latent_size,) = components["generator"].input_shape

    def fake(params, batch_stats, keys):
        return models.apply(components, params, batch_stats, "generator", normal(keys, latent_size), train=True)

    def judge(params, batch_stats, images):
        return models.apply(components, params, batch_stats, "discriminator", images, train=True)

    def discriminator_loss(params, batch_stats, images, keys):
        fakes, batch_stats = fake(params, batch_stats, keys)
        real_logits, batch_stats = judge(params, batch_stats, images)
        fake_logits, batch_stats = judge(params, batch_stats, fakes)
        loss = non_saturating_discriminator(real_logits, fake_logits, options.real_label)
        scalars = {
            "discriminator_loss": loss,
            "discriminator_real": jax.nn.sigmoid(real_logits).mean(),
            "discriminator_fake": jax.nn.sigmoid(fake_logits).mean(),
        }
        return loss, (batch_stats, scalars)

    def generator_loss(params, batch_stats, images, keys):
        fakes, batch_stats = fake(params, batch_stats, keys)
        fake_logits, batch_stats = judge(params, batch_stats, fakes)
        loss = non_saturating_generator(fake_logits)
        return loss, (batch_stats, {"generator_loss": loss})

    def generate(params, batch_stats, latents):
        return models.apply(components, params, batch_stats, "generator", latents, train=False)[0]

    return Objective(
        components=components,
        players={"discriminator": ("discriminator",), "generator": ("generator",)},
        losses={"discriminator": discriminator_loss, "generator": generator_loss},
        generate=generate,
    )
