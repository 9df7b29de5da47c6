"""Grids of images for the eye."""

import numpy as np

from jaxtickets.examples import to_uint8

GRID = 8  # The number of images per row of a grid.


def image_grid(images) -> np.ndarray:
    """Images `[n, h, w, c]` in [-1, 1] as a grid `[height, width, 3]` uint8; small images are enlarged."""
    images = to_uint8(images)
    if images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    enlarge = max(1, 64 // images.shape[1])
    images = images.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    gap = 4
    images = np.pad(images, ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    n, height, width, channels = images.shape
    grid = images.reshape(n // GRID, GRID, height, width, channels).swapaxes(1, 2)
    return grid.reshape(n // GRID * height, GRID * width, channels)[:-gap, :-gap]
