"""Generative adversarial networks (Goodfellow et al. 2014): two players, two losses."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxtickets import models
from jaxtickets.fields import Field, at_least, choice, fraction, number, refuse, some_of, switch, whole
from jaxtickets.objectives.augmentation import AUGMENTATIONS, augment
from jaxtickets.objectives.losses import LOSSES, bernoulli_divergence, tempered
from jaxtickets.objectives.objective import Batch, Game, Objective, Player, fold, normal
from jaxtickets.objectives.penalties import PENALTIES

FIELDS = (
    Field("objective.loss", "non_saturating", choice(LOSSES), "The loss of the two players."),
    Field(
        "objective.real_label",
        1.0,
        number(lambda value: 0.5 < value <= 1, "a number above 0.5 and at most 1"),
        "The discriminator's target for real images; below 1 is label smoothing.",
    ),
    Field(
        "objective.penalty", "none", choice("none", PENALTIES), "The penalty on the discriminator's gradient, if any."
    ),
    Field(
        "objective.clip",
        0.0,
        at_least(0),
        "Above 0 the discriminator's parameters are clipped to [-clip, clip] after each of its steps (WGAN).",
    ),
    Field("objective.n_critic", 1, whole(1), "The generator moves in every n-th step, the discriminator in each step."),
    Field(
        "objective.ema_decay",
        0.0,
        fraction(),
        "Above 0 a running average of the generator is kept with this decay, and evaluated in its place.",
    ),
    Field(
        "objective.augmentations",
        (),
        some_of(AUGMENTATIONS),
        "Differentiable augmentations of the images that the discriminator sees.",
    ),
    Field(
        "objective.distillation",
        0.0,
        at_least(0),
        "Above 0 the weight with which the dense run's discriminator teaches the sparse one.",
        needs="dense",
    ),
    Field(
        "optimizer.discriminator_learning_rate",
        0.0,
        at_least(0),
        "The discriminator's learning rate; 0 is optimizer.learning_rate.",
    ),
    Field(
        "rewind_discriminator",
        True,
        switch(),
        "False: the discriminator starts each round with the dense run's trained weights.",
        needs="dense",
    ),
)


def gan(components, config) -> Objective:
    """The GAN of a `generator` and a `discriminator`; the discriminator moves first.

    Loss, penalty and augmentations combine as `config.objective` says. Real and generated images pass through the
    discriminator separately, and each player draws latents (and labels, uniformly) of its own, as in the paper's
    reference code. Every pass in training mode moves the running statistics of its batch norms. A teacher adds the
    divergence of the discriminator from it at the (augmented) real images. Two learning rates for the two players are
    Heusel et al. 2017's two time-scale update rule.
    """
    options = config.objective
    (latent_size,) = components["generator"].input_shape
    classes = components["generator"].classes
    loss = LOSSES[options.loss]
    criterion = loss.make(*([options.real_label] if loss.smoothed else []))

    def fake(params, batch_stats, keys):
        labels = jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(fold(keys, 0)) if classes else None
        latents = normal(keys, latent_size)
        images, batch_stats = models.apply(components, params, batch_stats, "generator", latents, True, labels)
        return images, labels, batch_stats

    def judge(params, batch_stats, images, keys, labels):
        images = augment(options.augmentations, images, keys)
        return models.apply(components, params, batch_stats, "discriminator", images, True, labels)

    def discriminator_loss(criterion, params, batch_stats, batch: Batch):
        images, keys, labels, teacher = batch
        fakes, fake_labels, batch_stats = fake(params, batch_stats, keys)
        real, batch_stats = judge(params, batch_stats, images, fold(keys, 1), labels)
        generated, batch_stats = judge(params, batch_stats, fakes, fold(keys, 2), fake_labels)
        loss = criterion.discriminator(real, generated)
        scalars = {"discriminator_real": real.mean(), "discriminator_fake": generated.mean()}
        if options.penalty != "none":

            def critic(images):
                return judge(params, batch_stats, images, fold(keys, 1), labels)[0]

            penalty = PENALTIES[options.penalty].function(critic, images, fakes, fold(keys, 3))
            loss += options.penalty_weight * penalty
            scalars["penalty"] = penalty
        if teacher is not None:
            seen = augment(options.augmentations, images, fold(keys, 1))
            trees = (teacher["params"], teacher["batch_stats"])
            taught, _ = models.apply(components, *trees, "discriminator", seen, False, labels)
            distillation = bernoulli_divergence(taught, real)
            loss += teacher["weight"] * options.distillation * distillation
            scalars["distillation"] = distillation
        return loss, (batch_stats, {"discriminator_loss": loss, **scalars})

    def generator_loss(criterion, params, batch_stats, batch: Batch):
        fakes, fake_labels, batch_stats = fake(params, batch_stats, batch.keys)
        generated, batch_stats = judge(params, batch_stats, fakes, fold(batch.keys, 2), fake_labels)
        loss = criterion.generator(generated)
        return loss, (batch_stats, {"generator_loss": loss})

    def clip(params):
        """Weight clipping (Arjovsky, Chintala, Bottou 2017, algorithm 1)."""
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -options.clip, options.clip), params)

    def player(component, loss, **settings):
        """A player whose outputs can be divided by a temperature."""
        soften = lambda temperature: partial(loss, tempered(criterion, temperature))  # noqa: E731
        return Player((component,), partial(loss, criterion), tempered=soften, **settings)

    def decode(params, batch_stats, latents, labels=None):
        return models.apply(components, params, batch_stats, "generator", latents, False, labels)[0]

    def sample(params, batch_stats, keys, labels=None):
        return decode(params, batch_stats, normal(keys, latent_size), labels)

    return Objective(
        components=components,
        players={
            "discriminator": player(
                "discriminator",
                discriminator_loss,
                learning_rate=config.optimizer.discriminator_learning_rate or None,
                constrain=clip if options.clip else None,
            ),
            "generator": player("generator", generator_loss, every=options.n_critic, ema_decay=options.ema_decay),
        },
        sample=sample,
        classes=classes,
        decode=decode,
        latents=latent_size,
        kept=() if config.rewind_discriminator else ("discriminator",),
        teacher=("discriminator",) if options.distillation else (),
    )


def check(config) -> None:
    """Refuses parts of a GAN that exclude each other."""
    options, norm = config.objective, models.discriminator_norm(config.model)
    loss = LOSSES[options.loss]
    if options.penalty != "none" and norm == "batch":
        reason = "a penalty is on the gradient at each image alone, and a batch norm mixes them"
        field = "none, layer or spectral in config.model.discriminator_norm"
        refuse("objective.penalty", options.penalty, f"'none' with batch norm in the discriminator ({reason}); {field}")
    if options.real_label != 1 and not loss.smoothed:
        refuse("objective.real_label", options.real_label, f"1.0 with config.objective.loss={options.loss!r}")
    if options.clip and options.penalty != "none":
        allowed = f"0.0 with config.objective.penalty={options.penalty!r}: each of the two bounds the critic"
        refuse("objective.clip", options.clip, allowed)
    if options.clip and not loss.clipped:
        clipped = " or ".join(repr(name) for name, loss in LOSSES.items() if loss.clipped)
        allowed = f"0.0 with config.objective.loss={options.loss!r}: clipping bounds the critic of {clipped}"
        refuse("objective.clip", options.clip, allowed)
    if options.distillation and not loss.distilled:
        distilled = " or ".join(name for name, loss in LOSSES.items() if loss.distilled)
        allowed = f"0.0 with config.objective.loss={options.loss!r}; probabilities are with {distilled}"
        refuse("objective.distillation", options.distillation, allowed)
    if config.train.log_every % options.n_critic:
        allowed = f"a multiple of config.objective.n_critic={options.n_critic}, the steps in which the generator moves"
        refuse("train.log_every", config.train.log_every, allowed)
    if (calls := config.train.steps_per_call) > 1 and calls % options.n_critic:
        allowed = f"0, 1 or a multiple of config.objective.n_critic={options.n_critic}"
        refuse("train.steps_per_call", calls, f"{allowed}, the steps in which each player moves")


GAN = Game(
    name="gan",
    make=gan,
    components=("generator", "discriminator"),
    metrics=("fd",),
    fields=FIELDS,
    check=check,
    registries=(LOSSES, PENALTIES, AUGMENTATIONS),
    counterparts={"generator": "decoder", "discriminator": "encoder"},
)
