"""Active latent units (Burda, Grosse, Salakhutdinov 2016, section 5.2): those that tell images apart."""

import jax.numpy as jnp
import numpy as np

from jaxtickets.metrics.metric import Metric

THRESHOLD = 0.01


def evaluate(objective, config):
    """The mean of each latent given the image, and its square: `[batch, latents]`."""
    del config

    def terms(params, batch_stats, images, keys):
        del keys
        means = objective.encode(params, batch_stats, images)
        return {"means": means, "squares": jnp.square(means)}

    return terms


def active(means, config):
    """The number of latents u whose mean E[u | x] has a variance above 0.01 over the held-out images x."""
    del config
    return (np.sum(means["squares"] - np.square(means["means"]) > THRESHOLD),)


ACTIVE_UNITS = Metric(
    "active_units",
    "active latent units on {held_out:,} held-out images",
    terms=("means", "squares"),
    columns=("active_units",),
    measure=active,
    decides=False,
    better="higher",
    evaluate=evaluate,
    requires=("encode",),
)
