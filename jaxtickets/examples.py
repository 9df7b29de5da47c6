"""Images as a train step sees them, and one random key per example."""

import jax
import jax.numpy as jnp
import numpy as np


def example_keys(seed, step, tag: int, examples):
    """`[batch]` keys, each a function of (seed, step, tag, the example's place in the whole batch)."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), tag)
    return jax.vmap(lambda example: jax.random.fold_in(key, example))(examples)


def to_float(images):
    """uint8 images in [0, 255] as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def to_uint8(images):
    """The inverse of `to_float`, with rounding; what lies outside of [-1, 1] is black or white."""
    return ((images + 1) * 127.5 + 0.5).clip(0, 255).astype(np.uint8)


def training_images(images, seed, step, examples, flip: bool):
    """The uint8 images of a batch as `[batch, h, w, c]` float32 in [-1, 1], mirrored at random if `flip`."""
    images = to_float(images)
    return _random_flip(images, example_keys(seed, step, 0, examples)) if flip else images


def _random_flip(images, keys):
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
