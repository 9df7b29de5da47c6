"""Tests of drop and grow: which weights are exchanged, and how many over time."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_masks import networks, random_masks, seeds

from jaxtickets import masks as mask_lib
from jaxtickets.pruning import cosine, drop_and_grow, random

fractions = st.floats(0, 1)
densities = st.floats(0, 1)


def by_sorting(weights, mask, growth, fraction):
    """`(dropped, grown)` of one layer, two sets of flat indices; among equal candidates the first stays or comes."""
    weights, mask, growth = (np.ravel(leaf).tolist() for leaf in (weights, mask, growth))
    kept = [index for index, keeps in enumerate(mask) if keeps]
    n = round(fraction * len(kept))
    dropped = set(sorted(kept, key=lambda index: (abs(weights[index]), -index))[:n])
    absent = [index for index in range(len(mask)) if not mask[index] or index in dropped]
    return dropped, set(sorted(absent, key=lambda index: (-growth[index], index))[:n])


@given(networks(ties=True), seeds, densities, fractions)
def test_the_smallest_weights_go_and_the_highest_growth_comes(params, seed, density, fraction):
    masks = random_masks(params, seed, density)
    rng = np.random.default_rng(seed)
    growth = jax.tree.map(lambda mask: rng.integers(0, 4, mask.shape).astype(np.float32), masks)
    after = drop_and_grow(params, masks, growth, fraction)
    assert jax.tree.structure(after) == jax.tree.structure(masks)
    leaves = mask_lib.named_leaves(after)
    for name, mask in mask_lib.named_leaves(masks).items():
        weights, wanted = (mask_lib.named_leaves(tree)[name] for tree in (params, growth))
        dropped, grown = by_sorting(weights, mask, wanted, fraction)
        expected = set(np.flatnonzero(mask)) - dropped | grown
        assert set(np.flatnonzero(leaves[name])) == expected, name
        assert leaves[name].shape == mask.shape


@given(networks(), seeds, densities, fractions)
def test_every_layer_keeps_its_density_whatever_grows(params, seed, density, fraction):
    masks = random_masks(params, seed, density)
    for growth in (random(params, masks, seed), jax.tree.map(np.ones_like, masks)):
        after = drop_and_grow(params, masks, growth, fraction)
        assert mask_lib.layer_counts(after) == mask_lib.layer_counts(masks)


@given(networks(), seeds, densities)
def test_a_fraction_of_zero_changes_nothing(params, seed, density):
    masks = random_masks(params, seed, density)
    after = drop_and_grow(params, masks, random(params, masks, seed), 0.0)
    jax.tree.map(np.testing.assert_array_equal, after, masks)


@given(networks(), seeds, densities, fractions)
def test_at_most_the_fraction_of_a_layer_is_exchanged(params, seed, density, fraction):
    masks = random_masks(params, seed, density)
    after = mask_lib.named_leaves(drop_and_grow(params, masks, random(params, masks, seed), fraction))
    for name, mask in mask_lib.named_leaves(masks).items():
        assert np.count_nonzero(mask & ~after[name]) <= round(fraction * np.count_nonzero(mask))


def test_one_update_of_rigl_by_hand():
    # The two smallest of six kept weights go, -0.1 and 0.2. Two come; the dropped 0.2 has the second highest growth.
    weights = np.array([[3.0, -0.1, 0.0, -2.0], [0.2, 0.0, 5.0, -1.0]])
    mask = np.array([[True, True, False, True], [True, False, True, True]])
    growth = np.array([[9.0, 0.3, 0.7, 9.0], [0.5, 0.4, 9.0, 9.0]])
    params, masks, wanted = ({"generator": {"layer": {"kernel": leaf}}} for leaf in (weights, mask, growth))
    after = drop_and_grow(params, masks, wanted, 1 / 3)["generator"]["layer"]["kernel"]
    np.testing.assert_array_equal(after, [[True, False, True, True], [True, False, True, True]])


def test_the_fraction_falls_to_zero_with_a_cosine():
    # Evci et al. 2020, section 3: alpha / 2 (1 + cos(t pi / T_end)).
    assert [cosine(0.3, progress) for progress in (0, 0.5, 1)] == pytest.approx([0.3, 0.15, 0.0])
    assert cosine(0.3, 1 / 3) == pytest.approx(0.3 * 0.75)
    assert cosine(0.3, 1) == 0
    assert cosine(0.4, 0.25) == pytest.approx(0.2 * (1 + math.sqrt(0.5)))
