"""Resizing of images to the size that a network reads, each way exactly as one of the usual programs does it.

Every way is linear and separable: one matrix for the rows and one for the columns, made on the host for each size, so
that a device resizes by two matrix products.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax


def resize(images, size: int, matrix: Callable[[int, int], np.ndarray]):
    """`images: [batch, h, w, c]` float32 -> `[batch, size, size, c]`.

    Args:
      matrix: one of the functions below: `(number of pixels, number of new pixels) -> [new pixels, pixels]`.
    """
    rows, columns = (matrix(pixels, size) for pixels in images.shape[1:3])
    highest = lax.Precision.HIGHEST
    images = jnp.einsum("hi,biwc->bhwc", rows, images, precision=highest)
    return jnp.einsum("wj,bhjc->bhwc", columns, images, precision=highest)


def bilinear_tensorflow(pixels: int, new_pixels: int) -> np.ndarray:
    """Bilinear, as `tf.image.resize_bilinear` of TensorFlow 1: the first new pixel is the first pixel.

    New pixel i lies at i * pixels / new_pixels, so that the image moves by up to half a pixel. No antialiasing.
    """
    return _bilinear(np.arange(new_pixels, dtype=np.float32) * np.float32(pixels / new_pixels), pixels)


def bilinear_pytorch(pixels: int, new_pixels: int) -> np.ndarray:
    """Bilinear, as PyTorch's `interpolate(mode="bilinear", align_corners=False)`, without antialiasing."""
    half = np.float32(0.5)
    positions = (np.arange(new_pixels, dtype=np.float32) + half) * np.float32(pixels / new_pixels) - half
    return _bilinear(np.maximum(positions, 0), pixels)


def _bilinear(positions, pixels):
    """Positions are float32, because the programs above compute them so."""
    low = np.floor(positions).astype(int)
    high = np.minimum(low + 1, pixels - 1)
    share = positions - low
    matrix = np.zeros((len(positions), pixels))
    new = np.arange(len(positions))
    np.add.at(matrix, (new, low), 1 - share)
    np.add.at(matrix, (new, high), share)
    return matrix.astype(np.float32)


def bicubic_pillow(pixels: int, new_pixels: int) -> np.ndarray:
    """Bicubic (Keys 1981, a = -0.5), as Pillow's `resize(resample=BICUBIC)`; antialiased where images get smaller."""
    scale = pixels / new_pixels
    width = max(scale, 1.0)
    centres = (np.arange(new_pixels)[:, None] + 0.5) * scale
    first = np.maximum(np.floor(centres - 2 * width + 0.5), 0)
    last = np.minimum(np.floor(centres + 2 * width + 0.5), pixels)
    pixel = np.arange(pixels)
    weights = _cubic((pixel - centres + 0.5) / width) * ((pixel >= first) & (pixel < last))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(x, a=-0.5):
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))
