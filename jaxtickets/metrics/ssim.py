"""The structural similarity of reconstructions of held-out images (Wang, Bovik, Sheikh, Simoncelli 2004)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets.metrics.metric import Metric

WINDOW, SIGMA = 11, 1.5  # Section III.B: a Gaussian window of 11 x 11 pixels.
C1, C2 = 0.01**2, 0.03**2  # Equations 7 and 9, for pixels in [0, 1].


def _windows(size: int) -> np.ndarray:
    """`[places, size]`: the window's weights at each place where it lies within the image.

    In an image smaller than the window this is the largest window of an odd size that fits.
    """
    width = min(WINDOW, size - (size % 2 == 0))
    weights = np.exp(-np.square(np.arange(width) - width // 2) / (2 * SIGMA**2))
    places = np.zeros((size - width + 1, size))
    for place, row in enumerate(places):
        row[place : place + width] = weights / weights.sum()
    return places.astype(np.float32)


def similarities(first, second):
    """The mean SSIM (equations 13 and 17) of each pair of images `[batch, h, w, c]` in [-1, 1]: `[batch]`.

    Pixels are moved to [0, 1], since luminance is compared by its ratio. Each channel is compared by itself, and the
    mean is over all places of the window and all channels.
    """
    first, second = (first + 1) / 2, (second + 1) / 2
    rows, columns = (_windows(size) for size in first.shape[1:3])

    def local_mean(images):
        return jnp.einsum("ih,bhwc,jw->bijc", rows, images, columns, precision=jax.lax.Precision.HIGHEST)

    mean_1, mean_2 = local_mean(first), local_mean(second)
    variance_1 = local_mean(jnp.square(first)) - jnp.square(mean_1)
    variance_2 = local_mean(jnp.square(second)) - jnp.square(mean_2)
    covariance = local_mean(first * second) - mean_1 * mean_2
    luminance = (2 * mean_1 * mean_2 + C1) / (jnp.square(mean_1) + jnp.square(mean_2) + C1)
    structure = (2 * covariance + C2) / (variance_1 + variance_2 + C2)
    return (luminance * structure).mean(axis=(1, 2, 3))


def evaluate(objective, config):
    """The similarity of each image to its reconstruction, which is clipped to [-1, 1], as it is saved."""
    del config

    def terms(params, batch_stats, images, keys):
        del keys
        return {"ssim": similarities(images, jnp.clip(objective.reconstruct(params, batch_stats, images), -1, 1))}

    return terms


SSIM = Metric(
    "ssim",
    "mean SSIM of {held_out:,} reconstructed held-out images",
    terms=("ssim",),
    better="higher",
    best=1.0,
    evaluate=evaluate,
    requires=("reconstruct",),
)
