"""Autoencoders, variational and vector-quantised ones too: one player that trains all components together."""

import jax
import jax.numpy as jnp

from jaxtickets import models
from jaxtickets.fields import Field, at_least
from jaxtickets.objectives.objective import Batch, Game, Objective, Player, normal


def squared_error(images, reconstructions):
    """Squared error summed over pixels and channels: `[batch]`."""
    return jnp.square(images - reconstructions).sum(axis=(1, 2, 3))


def gaussian_kl(mean, log_variance):
    """KL(N(mean, exp(log_variance)) || N(0, 1)) summed over latents: `[batch]` (Kingma, Welling 2014, appendix B)."""
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance).sum(axis=-1)


def vae(components, config) -> Objective:
    """The (beta-)VAE: squared error summed over pixels + beta x KL, averaged over the batch.

    Squared error is the negative log likelihood of a Gaussian decoder with variance 1/2, up to a constant, so
    `negative_elbo` = reconstruction + KL, whatever beta is, in nats up to that constant
    (Kingma, Welling 2014, equation 3; beta: Higgins et al. 2017, equation 4).
    """
    options = config.objective
    (latent_size,) = components["decoder"].input_shape

    def terms(params, batch_stats, images, keys, train):
        code, batch_stats = models.apply(components, params, batch_stats, "encoder", images, train)
        mean, log_variance = jnp.split(code, 2, axis=-1)
        latents = mean + jnp.exp(0.5 * log_variance) * normal(keys, latent_size)
        reconstructions, batch_stats = models.apply(components, params, batch_stats, "decoder", latents, train)
        return squared_error(images, reconstructions), gaussian_kl(mean, log_variance), batch_stats

    def loss(params, batch_stats, batch: Batch):
        reconstruction, kl, batch_stats = terms(params, batch_stats, batch.images, batch.keys, train=True)
        value = (reconstruction + options.beta * kl).mean()
        scalars = {"loss": value, "reconstruction": reconstruction.mean(), "kl": kl.mean()}
        return value, (batch_stats, scalars)

    def evaluate(params, batch_stats, images, keys):
        reconstruction, kl, _ = terms(params, batch_stats, images, keys, train=False)
        return {"negative_elbo": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    def decode(params, batch_stats, latents, labels=None):
        del labels
        return models.apply(components, params, batch_stats, "decoder", latents, train=False)[0]

    def sample(params, batch_stats, keys, labels=None):
        del labels
        return decode(params, batch_stats, normal(keys, latent_size))

    def encode(params, batch_stats, images):
        code, _ = models.apply(components, params, batch_stats, "encoder", images, train=False)
        return code[:, :latent_size]

    def reconstruct(params, batch_stats, images):
        return decode(params, batch_stats, encode(params, batch_stats, images))

    def log_weight(params, batch_stats, images, keys):
        code, _ = models.apply(components, params, batch_stats, "encoder", images, train=False)
        mean, log_variance = jnp.split(code, 2, axis=-1)
        noise = normal(keys, latent_size)
        latents = mean + jnp.exp(0.5 * log_variance) * noise
        pixels = images[0].size
        likelihood = -squared_error(images, decode(params, batch_stats, latents)) - 0.5 * pixels * jnp.log(jnp.pi)
        # log p(z) - log q(z | x); the normalising constants of the two Gaussians cancel.
        prior = 0.5 * (jnp.square(noise) + log_variance - jnp.square(latents)).sum(axis=-1)
        return likelihood + prior

    return Objective(
        components=components,
        players={"vae": Player(("encoder", "decoder"), loss)},
        evaluate=evaluate,
        sample=sample,
        reconstruct=reconstruct,
        encode=encode,
        log_weight=log_weight,
        decode=decode,
        latents=latent_size,
    )


def autoencoder(components, config) -> Objective:
    """The autoencoder: mean squared error over pixels and channels, images in [-1, 1]."""
    del config

    def encode(params, batch_stats, images):
        return models.apply(components, params, batch_stats, "encoder", images, train=False)[0]

    def decode(params, batch_stats, latents, labels=None):
        del labels
        return models.apply(components, params, batch_stats, "decoder", latents, train=False)[0]

    def error(params, batch_stats, images, train):
        code, batch_stats = models.apply(components, params, batch_stats, "encoder", images, train)
        reconstructions, batch_stats = models.apply(components, params, batch_stats, "decoder", code, train)
        return jnp.square(images - reconstructions).mean(axis=(1, 2, 3)), reconstructions, batch_stats

    def loss(params, batch_stats, batch: Batch):
        errors, _, batch_stats = error(params, batch_stats, batch.images, train=True)
        return errors.mean(), (batch_stats, {"loss": errors.mean()})

    def evaluate(params, batch_stats, images, keys):
        del keys
        return {"reconstruction_error": error(params, batch_stats, images, train=False)[0]}

    def reconstruct(params, batch_stats, images):
        return decode(params, batch_stats, encode(params, batch_stats, images))

    return Objective(
        components=components,
        players={"autoencoder": Player(("encoder", "decoder"), loss)},
        evaluate=evaluate,
        reconstruct=reconstruct,
        encode=encode,
        decode=decode,
    )


def vq_vae(components, config) -> Objective:
    """The VQ-VAE (van den Oord, Vinyals, Kavukcuoglu 2017, equation 3), all terms as means over their elements.

    Mean squared error + (sg[z] - e)^2 + commitment x (z - sg[e])^2 for encoder outputs z, their nearest codes e and the
    stopped gradient sg. The decoder reads z + sg[e - z]: e itself, while its gradient reaches the encoder as it is
    (straight-through). Where codes are running averages (`config.model.codebook_decay`), the second term has no
    parameter and is left out. There is no prior over codes, so nothing is sampled: the metric is the
    reconstruction error, and beside it the usage of the codebook.
    """
    options = config.objective

    def terms(params, batch_stats, images, train):
        vectors, batch_stats = models.apply(components, params, batch_stats, "encoder", images, train)
        (nearest, indices), batch_stats = models.apply(components, params, batch_stats, "codebook", vectors, train)
        straight_through = vectors + jax.lax.stop_gradient(nearest - vectors)
        reconstructions, batch_stats = models.apply(components, params, batch_stats, "decoder", straight_through, train)
        return reconstructions, vectors, nearest, indices, batch_stats

    def loss(params, batch_stats, batch: Batch):
        images = batch.images
        reconstructions, vectors, nearest, _, batch_stats = terms(params, batch_stats, images, train=True)
        scalars = {
            "reconstruction_error": jnp.square(images - reconstructions).mean(),
            "codebook": jnp.square(jax.lax.stop_gradient(vectors) - nearest).mean(),
            "commitment": jnp.square(vectors - jax.lax.stop_gradient(nearest)).mean(),
        }
        value = scalars["reconstruction_error"] + options.commitment * scalars["commitment"]
        if jax.tree.leaves(params["codebook"]):
            value += scalars["codebook"]
        return value, (batch_stats, {"loss": value, **scalars})

    def evaluate(params, batch_stats, images, keys):
        del keys
        reconstructions, _, _, indices, _ = terms(params, batch_stats, images, train=False)
        counts = jax.nn.one_hot(indices, components["codebook"].module.codes).mean(axis=(1, 2))
        return {"reconstruction_error": jnp.square(images - reconstructions).mean(axis=(1, 2, 3)), "shares": counts}

    def summarize(means):
        """codebook_usage: the share of codes used at all; codebook_perplexity: as many codes used equally often."""
        shares = means["shares"]
        entropy = -(shares * jnp.log(jnp.where(shares > 0, shares, 1))).sum()
        usage = {"codebook_usage": (shares > 0).mean(), "codebook_perplexity": jnp.exp(entropy)}
        return {"reconstruction_error": means["reconstruction_error"], **usage}

    def reconstruct(params, batch_stats, images):
        return terms(params, batch_stats, images, train=False)[0]

    return Objective(
        components=components,
        players={"vq_vae": Player(tuple(components), loss)},
        evaluate=evaluate,
        summarize=summarize,
        reconstruct=reconstruct,
    )


# Kalibhat et al. 2021, section 4.3.
COUNTERPARTS = {"decoder": "generator", "encoder": "discriminator"}
VAE = Game(
    name="vae",
    make=vae,
    components=("encoder", "decoder"),
    metrics=("fd", "negative_elbo"),
    offers=("reconstruct", "encode", "log_weight"),
    fields=(Field("objective.beta", 1.0, at_least(0), "The weight of the KL term."),),
    counterparts=COUNTERPARTS,
)
VQ_VAE = Game(
    name="vq_vae",
    make=vq_vae,
    components=("encoder", "decoder", "codebook"),
    metrics=("reconstruction_error", "codebook"),
    offers=("reconstruct",),
    fields=(Field("objective.commitment", 0.25, at_least(0), "The weight of the commitment term."),),
    counterparts=COUNTERPARTS,
)
AUTOENCODER = Game(
    name="autoencoder",
    make=autoencoder,
    components=("encoder", "decoder"),
    metrics=("reconstruction_error",),
    offers=("reconstruct",),
    counterparts=COUNTERPARTS,
)
