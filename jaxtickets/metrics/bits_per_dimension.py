"""Bits per dimension of held-out images: the length of a code for their 8-bit values, by the evidence lower bound."""

import math

import jax

from jaxtickets.metrics.metric import Metric
from jaxtickets.objectives import fold

BIN = 2 / 255  # The distance in [-1, 1] of two neighbouring 8-bit values.


def evaluate(objective, config):
    """-ELBO / (D log 2) + log2(127.5) for images of D numbers with uniform noise of one bin: `[batch]`.

    A density of x + u, u uniform over a value's bin, has the mean log-density of at most the log-probability of the
    value (Theis, van den Oord, Bethge 2016, section 3.1). Values are 2 / 255 apart in [-1, 1], so that a bin has
    the probability of the density times 1 / 127.5: the second term. The ELBO is the mean of `Objective.log_weight`,
    here at one latent per image, so the number is an upper bound; the latents' noise is averaged over the images.

    The VAE's likelihood is a Gaussian with variance 1/2 around the decoded image, far wider than a bin: with perfect
    reconstructions and no KL it has log2(127.5) + log2(pi) / 2 = 7.82 bits. Compare only networks with this likelihood.
    """
    del config

    def terms(params, batch_stats, images, keys):
        noise = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], minval=-0.5, maxval=0.5))(fold(keys, 1))
        bound = objective.log_weight(params, batch_stats, images + BIN * noise, fold(keys, 0))
        return {"bits_per_dimension": -bound / (images[0].size * math.log(2)) - math.log2(BIN)}

    return terms


def of_mean_image(error, size):
    """The bits without a code: `error` grows by the variance of the noise."""
    del size
    return (error + BIN**2 / 12 + math.log(math.pi) / 2) / math.log(2) - math.log2(BIN)


BITS_PER_DIMENSION = Metric(
    "bits_per_dimension",
    "bits per dimension of {held_out:,} held-out images, with the likelihood's constant, an upper bound",
    terms=("bits_per_dimension",),
    evaluate=evaluate,
    of_mean_image=of_mean_image,
    requires=("log_weight",),
)
