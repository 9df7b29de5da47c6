"""The peak signal-to-noise ratio of reconstructions of held-out images."""

import jax.numpy as jnp

from jaxtickets.metrics.metric import Metric

RANGE = 2.0  # Images span it, from -1 to 1.
SMALLEST = 1e-10  # A mean squared error below it counts as this, so that the ratio stays finite: 106 dB.


def ratios(images, reconstructions):
    """10 log10(range^2 / mean squared error) in dB for each of `[batch, h, w, c]`: `[batch]`."""
    errors = jnp.square(images - reconstructions).mean(axis=(1, 2, 3))
    return 10 * jnp.log10(RANGE**2 / jnp.maximum(errors, SMALLEST))


def evaluate(objective, config):
    """The ratio of each image; reconstructions are clipped to [-1, 1], as they are saved."""
    del config

    def terms(params, batch_stats, images, keys):
        del keys
        return {"psnr": ratios(images, jnp.clip(objective.reconstruct(params, batch_stats, images), -1, 1))}

    return terms


PSNR = Metric(
    "psnr",
    "mean PSNR in dB of {held_out:,} reconstructed held-out images",
    terms=("psnr",),
    decides=False,
    better="higher",
    evaluate=evaluate,
    requires=("reconstruct",),
)
