"""Differentiable augmentation: random changes of the images, real or generated, before a discriminator sees them.

With few real images the discriminator otherwise learns them by heart (Zhao et al. 2020). Each function takes one image
`[height, width, channels]` in [-1, 1] and a key; the ranges are those of their section 3 and their code.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxtickets.fields import Field, Registry, no_check
from jaxtickets.objectives.objective import fold


def color(image, key):
    """Brightness by up to 0.5, saturation by up to 2x, contrast by 0.5 to 1.5x."""
    brightness, saturation, contrast = jax.random.uniform(key, (3,))
    image = image + brightness - 0.5
    grey = image.mean(axis=-1, keepdims=True)
    image = grey + 2 * saturation * (image - grey)
    mean = image.mean()
    return mean + (contrast + 0.5) * (image - mean)


def translation(image, key):
    """A shift by up to an eighth of each side; what comes in is 0, the grey in the middle."""
    height, width, channels = image.shape
    reach = jnp.array([height // 8, width // 8])
    shift = jax.random.randint(key, (2,), -reach, reach + 1)
    padded = jnp.pad(image, ((height // 8,) * 2, (width // 8,) * 2, (0, 0)))
    return jax.lax.dynamic_slice(padded, (*(reach + shift), 0), image.shape)


def cutout(image, key):
    """A square of half of each side is set to 0; it may stand out over the edge."""
    height, width, _ = image.shape
    # A square of even size lies between pixels.
    bounds = jnp.array([size + 1 - size // 2 % 2 for size in (height, width)])
    centre = jax.random.randint(key, (2,), 0, bounds)
    row, column = jnp.arange(height) - centre[0], jnp.arange(width) - centre[1]
    within = [
        (-(size // 4) <= offset) & (offset < size // 2 - size // 4) for size, offset in ((height, row), (width, column))
    ]
    return image * ~(within[0][:, None] & within[1])[:, :, None]


class Augmentation(NamedTuple):
    """An augmentation as a plug-in: `function(image, key) -> image`."""

    function: Callable
    fields: tuple[Field, ...] = ()
    check: Callable = no_check

    @property
    def name(self) -> str:
        """What `config.objective.augmentations` calls it."""
        return self.function.__name__


AUGMENTATIONS = Registry(
    "objective.augmentations", Augmentation(color), Augmentation(translation), Augmentation(cutout)
)


def augment(names, images, keys):
    """`images: [batch, h, w, c]` through the named augmentations in turn, with `keys: [batch]`."""
    for tag, name in enumerate(names):
        images = jax.vmap(AUGMENTATIONS[name].function)(images, fold(keys, tag))
    return images
