"""Autoencoders and variational autoencoders: one player that trains the encoder and the decoder together."""

import jax.numpy as jnp

from jaxtickets import models
from jaxtickets.objectives.objective import Objective, normal


def squared_error(images, reconstructions):
    """Squared error summed over pixels and channels: `[batch]`."""
    return jnp.square(images - reconstructions).sum(axis=(1, 2, 3))


def gaussian_kl(mean, log_variance):
    """KL(N(mean, exp(log_variance)) || N(0, 1)) summed over latents: `[batch]` (Kingma, Welling 2014, appendix B)."""
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance).sum(axis=-1)


def vae(components, options) -> Objective:
    """The (beta-)VAE: squared error summed over pixels + beta x KL, averaged over the batch.

    Squared error is the negative log likelihood of a Gaussian decoder with variance 1/2, up to a constant, so
    `negative_elbo` = reconstruction + KL, whatever beta is, in nats up to that constant
    (Kingma, Welling 2014, equation 3; beta: Higgins et al. 2017, equation 4).
    """
    (latent_size,) = components["decoder"].input_shape

    def terms(params, batch_stats, images, keys, train):
        code, batch_stats = models.apply(components, params, batch_stats, "encoder", images, train)
        mean, log_variance = jnp.split(code, 2, axis=-1)
        latents = mean + jnp.exp(0.5 * log_variance) * normal(keys, latent_size)
        reconstructions, batch_stats = models.apply(components, params, batch_stats, "decoder", latents, train)
        return squared_error(images, reconstructions), gaussian_kl(mean, log_variance), batch_stats

    def loss(params, batch_stats, images, keys):
        reconstruction, kl, batch_stats = terms(params, batch_stats, images, keys, train=True)
        value = (reconstruction + options.beta * kl).mean()
        scalars = {"loss": value, "reconstruction": reconstruction.mean(), "kl": kl.mean()}
        return value, (batch_stats, scalars)

    def evaluate(params, batch_stats, images, keys):
        reconstruction, kl, _ = terms(params, batch_stats, images, keys, train=False)
        return {"negative_elbo": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    def generate(params, batch_stats, latents):
        return models.apply(components, params, batch_stats, "decoder", latents, train=False)[0]

    def reconstruct(params, batch_stats, images):
        code, _ = models.apply(components, params, batch_stats, "encoder", images, train=False)
        return generate(params, batch_stats, code[:, :latent_size])

    return Objective(
        components=components,
        players={"vae": ("encoder", "decoder")},
        losses={"vae": loss},
        evaluate=evaluate,
        generate=generate,
        reconstruct=reconstruct,
    )


def autoencoder(components, options) -> Objective:
    """The autoencoder: mean squared error over pixels and channels, images in [-1, 1]."""
    del options

    def error(params, batch_stats, images, train):
        code, batch_stats = models.apply(components, params, batch_stats, "encoder", images, train)
        reconstructions, batch_stats = models.apply(components, params, batch_stats, "decoder", code, train)
        return jnp.square(images - reconstructions).mean(axis=(1, 2, 3)), reconstructions, batch_stats

    def loss(params, batch_stats, images, keys):
        del keys
        errors, _, batch_stats = error(params, batch_stats, images, train=True)
        return errors.mean(), (batch_stats, {"loss": errors.mean()})

    def evaluate(params, batch_stats, images, keys):
        del keys
        return {"reconstruction_error": error(params, batch_stats, images, train=False)[0]}

    def reconstruct(params, batch_stats, images):
        return error(params, batch_stats, images, train=False)[1]

    return Objective(
        components=components,
        players={"autoencoder": ("encoder", "decoder")},
        losses={"autoencoder": loss},
        evaluate=evaluate,
        reconstruct=reconstruct,
    )
