"""The importance-weighted estimate of the log-likelihood of held-out images (Burda, Grosse, Salakhutdinov 2016)."""

import jax
import jax.numpy as jnp

from jaxtickets.fields import Field, whole
from jaxtickets.metrics.metric import Metric

SAMPLES = Field(
    "eval.importance_samples", 100, whole(1), "The number of latents per image that log_likelihood is estimated with."
)


def evaluate(objective, config):
    """log 1/k sum p(x, z) / q(z | x) over k latents z from q(z | x), for each image x (equation 8): a lower bound.

    In nats, of the density at the image in [-1, 1]. The bound rises with k: for k = 1 it is the evidence lower bound.
    One latent per image is decoded at a time, whatever k is.
    """
    k = config.eval.importance_samples

    def terms(params, batch_stats, images, keys):
        def add(total, number):
            weights = objective.log_weight(params, batch_stats, images, jax.vmap(jax.random.fold_in)(keys, number))
            return jnp.logaddexp(total, weights), None

        numbers = jnp.broadcast_to(jnp.arange(k)[:, None], (k, len(images)))
        total, _ = jax.lax.scan(add, jnp.full(len(images), -jnp.inf), numbers)
        return {"log_likelihood": total - jnp.log(k)}

    return terms


LOG_LIKELIHOOD = Metric(
    "log_likelihood",
    "log-likelihood of {held_out:,} held-out images in nats, with its constant, a bound with {eval.importance_samples}"
    " latents each",
    terms=("log_likelihood",),
    decides=False,
    better="higher",
    fields=(SAMPLES,),
    evaluate=evaluate,
    requires=("log_weight",),
)
