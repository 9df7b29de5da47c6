"""Tests of the differentiable augmentations against NumPy."""

import functools

import jax
import numpy as np
import pytest

from jaxtickets.objectives import AUGMENTATIONS
from jaxtickets.objectives.augmentation import augment

BATCH, SIZE = 32, 16


@functools.cache
def compiled(*names):
    return jax.jit(lambda images, keys: augment(names, images, keys))


def augmented(images, *names, seed=0):
    return np.asarray(compiled(*names)(images, jax.random.split(jax.random.key(seed), len(images))))


@pytest.fixture(scope="module")
def images():
    """`[BATCH, SIZE, SIZE, 3]`, nowhere zero."""
    rng = np.random.default_rng(0)
    return (rng.uniform(0.1, 1, (BATCH, SIZE, SIZE, 3)) * rng.choice([-1, 1], (BATCH, SIZE, SIZE, 3))).astype(
        np.float32
    )


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_is_a_function_of_images_and_keys(images, name):
    first, second, other = (augmented(images, name, seed=seed) for seed in (0, 0, 1))
    assert first.shape == images.shape
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_image_of_a_batch_has_its_own_draw(images, name):
    same = np.broadcast_to(images[:1], images.shape)
    changed = augmented(same, name).reshape(BATCH, -1)
    assert len(np.unique(changed, axis=0)) > BATCH / 4


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_else_is_in_the_batch_changes_nothing(images, name):
    keys = jax.random.split(jax.random.key(0), BATCH)
    np.testing.assert_allclose(
        compiled(name)(images[4:8], keys[4:8]), np.asarray(compiled(name)(images, keys))[4:8], rtol=1e-5, atol=1e-6
    )


def test_without_names_nothing_changes(images):
    np.testing.assert_array_equal(augment((), images, jax.random.split(jax.random.key(0), BATCH)), images)


def test_the_gradient_is_that_of_a_finite_difference(images):
    # Each augmentation is affine in the image, so a finite difference of any length equals the derivative.
    rng = np.random.default_rng(1)
    weights, direction = (rng.normal(size=images.shape).astype(np.float32) for _ in range(2))
    keys = jax.random.split(jax.random.key(0), BATCH)

    @jax.jit
    def values_and_gradient(images):
        def summed(images):
            values = (weights * augment(tuple(AUGMENTATIONS), images, keys)).sum(axis=(1, 2, 3))
            return values.sum(), values

        return jax.grad(summed, has_aux=True)(images)

    gradient, values = values_and_gradient(images)
    difference = values_and_gradient(images + direction)[1] - values
    np.testing.assert_allclose((gradient * direction).sum(axis=(1, 2, 3)), difference, rtol=1e-3, atol=1e-3)
    assert np.all(abs(gradient).max(axis=(1, 2, 3)) > 0)


def shifted(image, down, right):
    """`image` moved by whole pixels; the pixels that come in are 0."""
    padded = np.pad(image, ((SIZE, SIZE), (SIZE, SIZE), (0, 0)))
    return padded[SIZE - down : 2 * SIZE - down, SIZE - right : 2 * SIZE - right]


def test_translation_moves_by_up_to_an_eighth_and_fills_in_zeros(images):
    reach = range(-(SIZE // 8), SIZE // 8 + 1)
    drawn = []
    for image, moved in zip(images, augmented(images, "translation"), strict=True):
        fits = [
            (down, right) for down in reach for right in reach if np.array_equal(shifted(image, down, right), moved)
        ]
        assert len(fits) == 1
        drawn += fits
    for shifts in zip(*drawn, strict=True):  # 32 draws miss one of 5 values with a probability of 1 in 250.
        assert set(shifts) == set(reach)


def test_cutout_sets_a_square_of_half_a_side_to_zero(images):
    heights = []
    for image, cut in zip(images, augmented(images, "cutout"), strict=True):
        zero = (cut == 0).all(axis=-1)
        rows, columns = np.flatnonzero(zero.any(axis=1)), np.flatnonzero(zero.any(axis=0))
        for within in (rows, columns):
            np.testing.assert_array_equal(within, np.arange(within[0], within[-1] + 1))
            assert len(within) <= SIZE // 2  # Less where the square reaches over the edge.
            assert len(within) == SIZE // 2 or within[0] == 0 or within[-1] == SIZE - 1
        np.testing.assert_array_equal(zero, np.isin(np.arange(SIZE), rows)[:, None] & np.isin(np.arange(SIZE), columns))
        np.testing.assert_array_equal(cut, np.where(zero[:, :, None], 0, image))
        heights.append(len(rows))
    assert max(heights) == SIZE // 2
    assert min(heights) >= SIZE // 4


def test_color_changes_brightness_then_saturation_then_contrast(images, monkeypatch):
    draws = np.float32([0.9, 0.25, 0.7])
    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "uniform", lambda key, shape: draws)
        changed = AUGMENTATIONS["color"].function(images[0], jax.random.key(0))
    bright = images[0].astype(np.float64) + 0.4  # 0.9 - 0.5
    grey = bright.mean(axis=-1, keepdims=True)
    saturated = 0.5 * bright + 0.5 * grey  # Half of the distance from grey: 2 x 0.25.
    expected = 1.2 * saturated - 0.2 * saturated.mean()  # 0.7 + 0.5
    np.testing.assert_allclose(changed, expected, rtol=1e-5, atol=1e-6)


def test_grey_images_have_no_saturation_to_change(images):
    grey = images[..., :1]
    changed = augmented(grey, "color")
    # Each image has one brightness and one contrast: together an affine function of its pixels.
    for before, after in zip(grey, changed, strict=True):
        slope, intercept = np.polyfit(before.ravel(), after.ravel(), 1)
        np.testing.assert_allclose(after, slope * before + intercept, atol=1e-5)
        assert 0.5 <= slope <= 1.5
        # Contrast turns about the mean, so only brightness moves the mean.
        assert abs(after.mean() - before.mean()) <= 0.5 + 1e-5
