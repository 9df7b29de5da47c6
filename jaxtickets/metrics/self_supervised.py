"""Feature networks for images without labels: trained to tell how an image was transformed.

Each image of a batch is turned by a multiple of 90 degrees (Gidaris et al. 2018), blurred and made noisy, and in colour
its hues are rotated and its colours weakened; the network names each of these. `docs/decisions/metrics.md` says why
this task was chosen. The networks themselves, and how they are trained and kept, are those of `classifier`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtickets.metrics import classifier
from jaxtickets.metrics.classifier import Classifier, Classifiers, Task

NAME = "self_supervised"
VERSION = 1  # To be raised when the transformations or the training change, so that cached weights are not reused.
TURNS = 4
BLURS = (0.0, 0.088)  # Standard deviations of the Gaussian, as fractions of the image's side.
NOISES = (0.0, 0.3)  # Standard deviations, for images in [-1, 1].
HUES = 4  # Multiples of 90 degrees.
COLOURS = (1.0, 0.5, 0.0)  # What is left of the distance to grey.
GREY = np.array([0.299, 0.587, 0.114])  # The luma of red, green and blue (ITU-R BT.601).


def blur_matrix(size: int, sigma: float) -> np.ndarray:
    """`[size, size]`: its product with a column of pixels is the column blurred by a Gaussian, edges repeated."""
    if sigma == 0:
        return np.eye(size, dtype=np.float32)
    reach = np.arange(-int(4 * sigma) - 1, int(4 * sigma) + 2)
    weights = np.exp(-np.square(reach) / (2 * sigma**2))
    matrix = np.zeros((size, size))
    for row in range(size):
        np.add.at(matrix[row], np.clip(row + reach, 0, size - 1), weights / weights.sum())
    return matrix.astype(np.float32)


def hue_matrix(turn: float, colour: float) -> np.ndarray:
    """`[3, 3]`: multiplies RGB rows from the right; rotates about the grey axis by `turn` radians, then fades.

    colour: what is left of the distance to the pixel's grey.
    """
    mean, cross = np.full((3, 3), 1 / 3), np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation = mean + np.cos(turn) * (np.eye(3) - mean) + np.sin(turn) * cross
    fade = colour * np.eye(3) + (1 - colour) * np.tile(GREY, (3, 1))
    return (fade @ rotation).T.astype(np.float32)


class Transformed(NamedTuple):
    """Images `[batch, h, w, c]` in [-1, 1], and `{kind: which}`, integers `[batch]`: what was done to each of them."""

    images: jax.Array
    done: dict[str, jax.Array]


def kinds(channels: int) -> dict[str, int]:
    """The kinds of transformation and the number of choices of each."""
    colour = {"hue": HUES, "colour": len(COLOURS)} if channels == 3 else {}
    return {"turn": TURNS, "blur": len(BLURS), "noise": len(NOISES)} | colour


def transform(images, key) -> Transformed:
    """Transforms each of `images: [batch, size, size, c]` in [-1, 1] in a random way of its own."""
    n, size, channels = images.shape[0], images.shape[1], images.shape[3]
    keys = dict(zip((*kinds(3), "grain"), jax.random.split(key, 6), strict=True))
    done = {kind: jax.random.randint(keys[kind], (n,), 0, count) for kind, count in kinds(channels).items()}
    turn = done["turn"][:, None, None, None]
    images = jnp.where(turn % 2 == 1, jnp.rot90(images, axes=(1, 2)), images)
    images = jnp.where(turn >= 2, images[:, ::-1, ::-1], images)
    if channels == 3:
        options = [[hue_matrix(2 * np.pi * turn / HUES, colour) for colour in COLOURS] for turn in range(HUES)]
        images = jnp.einsum("bhwc,bcd->bhwd", images, jnp.asarray(np.array(options))[done["hue"], done["colour"]])
    for number, sigma in enumerate(BLURS):
        if sigma:
            matrix = blur_matrix(size, size * sigma)
            blurred = jnp.einsum("jw,bhwc->bhjc", matrix, jnp.einsum("ih,bhwc->biwc", matrix, images))
            images = jnp.where((done["blur"] == number)[:, None, None, None], blurred, images)
    sigmas = jnp.asarray(NOISES)[done["noise"]][:, None, None, None]
    noise = sigmas * jax.random.normal(keys["grain"], images.shape)
    return Transformed(jnp.clip(images + noise, -1, 1), done)


def _by_kind(outputs, channels):
    """The logits of each kind: `{kind: [batch, choices]}`."""
    counts = kinds(channels)
    return dict(zip(counts, jnp.split(outputs, np.cumsum(list(counts.values()))[:-1], axis=-1), strict=True))


@functools.cache
def task(channels: int) -> Task:
    """Naming each transformation: the loss is the sum of the kinds' cross entropies."""

    def prepare(images, labels, key):
        del labels
        return transform(images, key)

    def loss(logits, done):
        each = _by_kind(logits, channels)
        terms = [optax.softmax_cross_entropy_with_integer_labels(each[kind], done[kind]).mean() for kind in done]
        return sum(terms)

    def right(logits, done):
        each = _by_kind(logits, channels)
        return jnp.stack([each[kind].argmax(axis=-1) == done[kind] for kind in done], axis=-1)

    return Task(sum(kinds(channels).values()), loss, right, prepare)


def train(name: str, images, held_out_images, seed: int = 0) -> Classifier:
    """Returns a network trained to name the transformations of `images: [n, size, size, channels]` uint8.

    Its `accuracy` is the share of transformations of `held_out_images` that it names rightly.
    """
    return classifier.fit(name, task(images.shape[-1]), images, None, held_out_images, None, seed)


def load(config) -> Classifiers:
    """The networks trained on the images of the data set at hand, or read from the user's cache directory."""
    training, held_out = classifier.of_config(config)

    def make(seed):
        return train(NAME, training.images, held_out.images, seed)

    key = f"{NAME}-v{VERSION}-{classifier.digest_of(training, held_out)}"
    return classifier.kept(NAME, key, make, config.data.name, "held-out accuracy at naming transformations")
