"""When a series of masks has settled, and how far it has moved."""

import itertools

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtickets.pruning.early_bird import (
    distance_by_chance,
    emergence,
    hamming_distances,
    is_by_position,
    pack,
    share_moved,
    unpack,
)

# Packed masks and when they have settled.


@st.composite
def series_of_masks(draw):
    """Some masks of one random structure; some of its leaves have none."""
    shapes = draw(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3) | st.none(), min_size=1, max_size=5))
    shapes.append([draw(st.integers(1, 9))])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [
        {"part": {f"leaf_{i}": None if shape is None else rng.random(shape) < 0.5 for i, shape in enumerate(shapes)}}
        for _ in range(draw(st.integers(1, 5)))
    ]


@settings(deadline=None)
@given(series_of_masks())
def test_the_distance_of_packed_masks_is_the_share_of_different_entries(series):
    newest, *earlier = series
    size = sum(leaf.size for leaf in newest["part"].values() if leaf is not None)
    packed = [pack(masks) for masks in series]
    assert all(vector.dtype == np.uint8 and vector.shape == (-(-size // 8),) for vector in packed)
    expected = []
    for masks in earlier:
        differing = 0
        for name, leaf in masks["part"].items():
            for index in np.ndindex(*leaf.shape) if leaf is not None else ():
                differing += int(leaf[index] != newest["part"][name][index])
        expected.append(differing / size)
    np.testing.assert_array_equal(hamming_distances(packed[0], packed[1:], size), expected)


@given(series_of_masks())
def test_unpacked_masks_are_those_that_were_packed(series):
    for masks in series:
        chex.assert_trees_all_equal(unpack(pack(masks), series[0]), masks)


@st.composite
def two_masks(draw):
    """Two masks of the same few small leaves, with any number of entries kept, none and all among them."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    pairs = [[draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in sizes] for _ in range(2)]
    return tuple({str(i): np.array(leaf) for i, leaf in enumerate(leaves)} for leaves in pairs)


def all_masks_with_the_counts_of(masks):
    """Every mask that keeps as many entries of each leaf."""

    def arrangements(leaf):
        for chosen in itertools.combinations(range(leaf.size), int(leaf.sum())):
            yield np.isin(np.arange(leaf.size), chosen)

    for leaves in itertools.product(*map(arrangements, masks.values())):
        yield dict(zip(masks, leaves, strict=True))


@given(two_masks())
def test_the_distance_by_chance_is_the_mean_over_all_masks_with_the_same_counts(pair):
    masks, others = pair
    size = sum(leaf.size for leaf in masks.values())
    distances = [hamming_distances(pack(m), [pack(others)], size)[0] for m in all_masks_with_the_counts_of(masks)]
    assert distance_by_chance(masks, others) == pytest.approx(np.mean(distances), rel=1e-12, abs=1e-12)
    moved = [share_moved({"part": m}, {"part": others}) for m in all_masks_with_the_counts_of(masks)]
    assert np.mean(moved) == pytest.approx(1 if np.any(distances) else 0)


def test_random_masks_have_moved_by_one_and_the_same_mask_by_nothing():
    rng = np.random.default_rng(0)
    start = {"a": rng.permutation(60) < 20, "b": {"c": (rng.permutation(240) < 200).reshape(4, 60), "d": None}}
    chance = distance_by_chance(start, start)
    assert chance == pytest.approx((2 * 20 * 40 / 60 + 2 * 200 * 40 / 240) / 300)
    drawn = [jax.tree.map(lambda leaf: rng.permutation(leaf.ravel()).reshape(leaf.shape), start) for _ in range(1000)]
    moved = [share_moved({"part": masks}, {"part": start}) for masks in drawn]
    assert np.mean(moved) == pytest.approx(1, abs=4 * np.std(moved) / len(drawn) ** 0.5)
    everything = jax.tree.map(np.ones_like, start)
    assert share_moved({"part": start}, {"part": start}) == 0
    assert share_moved({"part": everything}, {"part": everything}) == 0  # Masks that keep everything can't move.


def test_what_has_moved_is_that_of_the_component_that_has_moved_least():
    first, second = np.arange(10) < 5, np.arange(10) >= 5
    start = {
        "generator": {"a": first},
        "discriminator": {"b": first},
        "encoder": {"c": np.ones(4, bool)},
        "decoder": {},
    }
    moved = {**start, "generator": {"a": second}}
    assert share_moved(moved, start) == 0
    assert share_moved({**moved, "discriminator": {"b": second}}, start) == 2  # All differ; by chance one half does.


def test_a_mask_by_position_keeps_the_first_entries_of_each_leaf():
    assert is_by_position({"a": np.arange(6) < 2, "b": {"c": np.ones(3, bool), "d": None}})
    assert not is_by_position({"a": np.arange(6) < 2, "b": {"c": np.array([True, False, True])}})


@settings(deadline=None)
@given(
    st.integers(0, 9),
    st.integers(2, 5),
    st.sampled_from([0.1, 0.25, 0.5]),
    st.sampled_from([None, 0.0, 0.5, 1.0]),
    st.integers(0, 2**32 - 1),
)
def test_a_ticket_emerges_with_the_first_mask_that_has_moved_and_is_near_to_all_in_the_queue(
    n, queue, threshold, least, seed
):
    rng = np.random.default_rng(seed)
    half = np.triu(rng.choice([0.0, 0.05, 0.1, 0.25, 0.4], (n, n)), 1)
    distances, moved = half + half.T, rng.choice([0.0, 0.25, 0.5, 1.1], n)
    expected = None
    for newest in range(n):
        before = [distances[newest][newest - back] for back in range(1, queue) if newest - back >= 0]
        has_moved = least is None or moved[newest] >= least
        if has_moved and len(before) == queue - 1 and all(distance < threshold for distance in before):
            expected = newest
            break
    asked = () if least is None else (moved, least)
    assert emergence(distances, queue, threshold, *asked) == expected


def test_fewer_masks_than_the_queue_and_a_distance_at_the_threshold_are_no_ticket():
    alike = np.zeros((5, 5))
    assert emergence(alike) == 4
    assert emergence(alike[:4, :4]) is None
    assert emergence(np.zeros((0, 0))) is None
    assert emergence(alike[:2, :2], queue=2) == 1
    apart = np.array([[0.0, 0.1], [0.1, 0.0]])
    assert emergence(apart, queue=2, threshold=0.1) is None
    assert emergence(apart, queue=2, threshold=np.nextafter(0.1, 1)) == 1


def test_only_the_distances_to_the_newest_mask_count():
    distances = np.zeros((3, 3))
    distances[0, 1] = distances[1, 0] = 0.9
    assert emergence(distances, queue=3, threshold=0.1) == 2
