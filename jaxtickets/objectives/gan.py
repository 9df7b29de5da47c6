"""Generative adversarial networks (Goodfellow et al. 2014): two players, two losses."""

import jax
import jax.numpy as jnp

from jaxtickets import models
from jaxtickets.objectives.augmentation import augment
from jaxtickets.objectives.losses import LOSSES, SMOOTHED, bernoulli_divergence, tempered
from jaxtickets.objectives.objective import Objective, Player, fold, normal
from jaxtickets.objectives.penalties import PENALTIES


def gan(components, options, temperature: float = 1.0) -> Objective:
    """The GAN of a `generator` and a `discriminator`; the discriminator moves first.

    Loss, penalty and augmentation combine as `options` say; outputs are divided by `temperature` in the losses. Real
    and generated images pass through the discriminator separately, and each player draws latents (and labels,
    uniformly) of its own, as in the paper's reference code. Every pass in training mode moves the running statistics
    of its batch norms. A `teacher` adds the divergence of the discriminator from it at the (augmented) real images.
    """
    (latent_size,) = components["generator"].input_shape
    classes = components["generator"].classes
    criterion = LOSSES[options.loss](*([options.real_label] if options.loss in SMOOTHED else []))
    if temperature != 1:
        criterion = tempered(criterion, temperature)

    def fake(params, batch_stats, keys):
        labels = jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(fold(keys, 0)) if classes else None
        latents = normal(keys, latent_size)
        images, batch_stats = models.apply(components, params, batch_stats, "generator", latents, True, labels)
        return images, labels, batch_stats

    def judge(params, batch_stats, images, keys, labels):
        images = augment(options.augmentations, images, keys)
        return models.apply(components, params, batch_stats, "discriminator", images, True, labels)

    def discriminator_loss(params, batch_stats, images, keys, labels=None, teacher=None):
        fakes, fake_labels, batch_stats = fake(params, batch_stats, keys)
        real, batch_stats = judge(params, batch_stats, images, fold(keys, 1), labels)
        generated, batch_stats = judge(params, batch_stats, fakes, fold(keys, 2), fake_labels)
        loss = criterion.discriminator(real, generated)
        scalars = {"discriminator_real": real.mean(), "discriminator_fake": generated.mean()}
        if options.penalty != "none":

            def critic(images):
                return judge(params, batch_stats, images, fold(keys, 1), labels)[0]

            penalty = PENALTIES[options.penalty](critic, images, fakes, fold(keys, 3))
            loss += options.penalty_weight * penalty
            scalars["penalty"] = penalty
        if teacher is not None:
            seen = augment(options.augmentations, images, fold(keys, 1))
            trees = ({"discriminator": teacher[field]} for field in ("params", "batch_stats"))
            taught, _ = models.apply(components, *trees, "discriminator", seen, False, labels)
            distillation = bernoulli_divergence(taught, real)
            loss += teacher["weight"] * distillation
            scalars["distillation"] = distillation
        return loss, (batch_stats, {"discriminator_loss": loss, **scalars})

    def generator_loss(params, batch_stats, images, keys, labels=None, teacher=None):
        del images, labels, teacher
        fakes, fake_labels, batch_stats = fake(params, batch_stats, keys)
        generated, batch_stats = judge(params, batch_stats, fakes, fold(keys, 2), fake_labels)
        loss = criterion.generator(generated)
        return loss, (batch_stats, {"generator_loss": loss})

    def clip(params):
        """Weight clipping (Arjovsky, Chintala, Bottou 2017, algorithm 1)."""
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -options.clip, options.clip), params)

    def generate(params, batch_stats, latents, labels=None):
        return models.apply(components, params, batch_stats, "generator", latents, False, labels)[0]

    return Objective(
        components=components,
        players={
            "discriminator": Player(("discriminator",), discriminator_loss, constrain=clip if options.clip else None),
            "generator": Player(("generator",), generator_loss, every=options.n_critic, averaged=options.ema_decay > 0),
        },
        generate=generate,
    )
