"""Scores of channels by hand, their selection, and the masks of weights that follow."""

import re
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtickets import masks as mask_lib
from jaxtickets import models
from jaxtickets.errors import UserError
from jaxtickets.pruning import channels


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape)


# A generator of two layers on a residual stream `a`, with a hidden layer `b`; a discriminator with a layer norm.
PARAMS = {
    "generator": {
        "first": {"kernel": normal(5, 3), "bias": normal(3)},
        "block": {
            "norm_1": {"scale": normal(3), "bias": normal(3)},
            "conv_1": {"kernel": normal(3, 3, 3, 4)},
            "norm_2": {"scale": normal(2, 4), "bias": normal(2, 4)},
            "conv_2": {"kernel": normal(3, 3, 4, 3), "bias": normal(3, seed=1)},
        },
        "norm": {"scale": normal(3, seed=1), "bias": normal(3)},
        "image": {"kernel": normal(1, 1, 3, 2)},
    },
    "discriminator": {"conv": {"kernel": normal(3, 3, 2, 4)}, "norm": {"scale": normal(4), "bias": normal(4)}},
}
NAMES = {
    "generator": {
        "first": {"kernel": (None, "a"), "bias": ("a",)},
        "block": {
            "norm_1": {"scale": ("a",), "bias": ("a",)},
            "conv_1": {"kernel": (None, None, "a", "b")},
            "norm_2": {"scale": (None, "b"), "bias": (None, "b")},
            "conv_2": {"kernel": (None, None, "b", "a"), "bias": ("a",)},
        },
        "norm": {"scale": ("a",), "bias": ("a",)},
        "image": {"kernel": (None, None, "a", None)},
    },
    "discriminator": {"conv": {"kernel": (None, None, None, "c")}, "norm": {"scale": ("c",), "bias": ("c",)}},
}
STATISTICS = {
    "generator": {
        "block": {
            "norm_1": {"mean": np.zeros(3), "var": np.ones(3)},
            "norm_2": {"statistics": {"mean": np.zeros(4), "var": np.ones(4)}},
        },
        "norm": {"mean": np.zeros(3), "var": np.ones(3)},
    },
    "discriminator": {"conv": {"u": np.ones(4)}},
}


def test_groups_are_the_sizes_of_the_names():
    assert channels.groups(PARAMS, NAMES) == {"generator": {"a": 3, "b": 4}, "discriminator": {"c": 4}}
    names = {"discriminator": {"conv": {"kernel": (None, None, "c", "c")}, "norm": {"scale": ("c",), "bias": ("c",)}}}
    with pytest.raises(ValueError, match="discriminator/conv/kernel has 4 channels of c, another leaf 2"):
        channels.groups({"discriminator": PARAMS["discriminator"]}, names)


def test_gamma_is_the_mean_over_norms_and_classes_of_the_absolute_scale_of_batch_norms():
    scores, generator = channels.gamma(PARAMS, NAMES, STATISTICS), PARAMS["generator"]
    a = [(abs(generator["block"]["norm_1"]["scale"][i]) + abs(generator["norm"]["scale"][i])) / 2 for i in range(3)]
    b = [(abs(generator["block"]["norm_2"]["scale"][:, i])).sum() / 2 for i in range(4)]
    assert scores.keys() == PARAMS.keys()
    assert scores["generator"].keys() == {"a", "b"}
    np.testing.assert_allclose(scores["generator"]["a"], a, rtol=1e-12)
    np.testing.assert_allclose(scores["generator"]["b"], b, rtol=1e-12)
    assert scores["discriminator"] == {}  # A layer norm is not scored.


def test_filter_norms_are_means_over_all_weights_that_make_a_channel():
    generator = PARAMS["generator"]
    norms = {channels.filter_l1: lambda w: np.abs(w).mean(), channels.filter_l2: lambda w: np.sqrt((w**2).mean())}
    for score, norm in norms.items():
        scores = score(PARAMS, NAMES)
        for channel in range(3):
            made_by = (generator["first"]["kernel"][:, channel], generator["block"]["conv_2"]["kernel"][..., channel])
            expected = norm(np.concatenate([weights.ravel() for weights in made_by]))
            assert scores["generator"]["a"][channel] == pytest.approx(expected, rel=1e-12)
        for channel in range(4):
            expected = norm(PARAMS["discriminator"]["conv"]["kernel"][..., channel])
            assert scores["discriminator"]["c"][channel] == pytest.approx(expected, rel=1e-12)
        assert set(scores["generator"]) == {"a", "b"}


def test_weight_masks_keep_what_joins_kept_channels_only():
    masks = {"generator": {"a": np.array([True, False, True]), "b": np.array([False, True, True, False])}}
    weights = channels.to_weight_masks(masks, PARAMS, NAMES)
    assert weights["generator"]["image"]["kernel"].shape == (1, 1, 3, 2)
    for path, mask in mask_lib.named_leaves(weights).items():
        component, *layers = path.split("/")
        leaf, names = PARAMS[component], NAMES[component]
        for layer in layers:
            leaf, names = leaf[layer], names[layer]
        assert mask.shape == leaf.shape
        for index in np.ndindex(*mask.shape):
            own = masks.get(component, {})
            expected = all(own[name][i] for i, name in zip(index, names, strict=True) if name in own)
            assert mask[index] == expected, path
    with pytest.raises(ValueError, match=re.escape("3 channels of a and a channel mask of shape (2,)")):
        channels.to_weight_masks({"generator": {"a": np.ones(2, bool)}}, PARAMS, NAMES)


def test_leaves_whose_axes_have_no_name_have_no_mask():
    masks = channels.to_weight_masks({}, {"x": {"a": np.ones(1), "b": np.ones(2)}}, {"x": {"a": (None,), "b": ("b",)}})
    assert masks["x"]["a"] is None
    np.testing.assert_array_equal(masks["x"]["b"], True)


@st.composite
def scored(draw):
    """Scores with ties, of one to three names in each of two components."""
    sizes = st.lists(st.integers(1, 9), min_size=1, max_size=3)
    seed = draw(st.integers(0, 2**32 - 1))
    return {
        component: {f"up_{i}/hidden": normal(n, seed=seed + i).round(1) for i, n in enumerate(draw(sizes))}
        for component in ("generator", "discriminator")
    }


def pools(tree, scope):
    """`[[leaf, ...]]`: the groups over which one threshold decides, in the order of their paths."""
    leaves = mask_lib.named_leaves(tree)
    parts = {"global": 0, "component": 1, "layerwise": None}[scope]
    found = {}
    for path, leaf in leaves.items():
        found.setdefault(tuple(path.split("/")[:parts]), []).append(leaf)
    return list(found.values())


@given(scored(), st.floats(0, 0.99), st.sampled_from(channels.SCOPES), st.integers(0, 3))
def test_exactly_the_asked_count_of_the_lowest_goes_and_of_equal_scores_the_first_stay(scores, ratio, scope, least):
    possible = all(
        round(ratio * sum(leaf.size for leaf in pool)) <= sum(max(0, leaf.size - least) for leaf in pool)
        for pool in pools(scores, scope)
    )
    if not possible:
        with pytest.raises(UserError, match="allowed is at most"):
            channels.select(scores, ratio, scope, least)
        return
    masks = channels.select(scores, ratio, scope, least)
    assert jax.tree.structure(masks) == jax.tree.structure(scores)
    for pool, kept in zip(pools(scores, scope), pools(masks, scope), strict=True):
        total = sum(leaf.size for leaf in pool)
        # By hand: the highest of each name first, as many as must stay, then all others by score and position.
        protected = []
        for leaf in pool:
            order = sorted(range(leaf.size), key=lambda i, leaf=leaf: -np.float32(leaf[i]))
            protected += [i in order[:least] for i in range(leaf.size)]
        values = np.concatenate(pool).astype(np.float32)
        order = sorted(range(total), key=lambda i: (not protected[i], -values[i]))
        expected = np.isin(np.arange(total), order[: total - round(ratio * total)])
        np.testing.assert_array_equal(np.concatenate(kept), expected)


@pytest.mark.parametrize(
    ("scope", "ratio", "parts"),
    [
        ("global", 0.9, ["ratio: 0.9 prunes 14 of 15 channels of the network", "1 of each of 3 names", "at most 0.8"]),
        ("component", 0.9, ["prunes 4 of 4 channels of the discriminator", "1 of each of 1 names", "at most 0.75"]),
        ("layerwise", 0.85, ["prunes 3 of 3 channels of generator/up_8", "1 of each of 1 names", "at most 0.6666"]),
    ],
)
def test_a_ratio_that_leaves_too_few_channels_is_refused_with_one_that_is_possible(scope, ratio, parts):
    scores = {"generator": {"up_16": normal(8), "up_8": normal(3)}, "discriminator": {"down_8": normal(4)}}
    with pytest.raises(UserError) as caught:
        channels.select(scores, ratio, scope)
    for part in parts:
        assert part in str(caught.value)
    (possible,) = re.findall(r"at most ([0-9.]+)", str(caught.value))
    masks = channels.select(scores, float(possible), scope)
    assert all(mask.any() for mask in jax.tree.leaves(masks))


def test_nothing_to_select_from_and_numbers_that_are_none_are_refused():
    with pytest.raises(UserError, match="no name is scored"):
        channels.select({"generator": {}}, 0.5)
    with pytest.raises(ValueError, match="scores of generator/a are not all finite"):
        channels.select({"generator": {"a": np.array([1.0, np.nan])}}, 0.5)


@pytest.mark.parametrize("name", ["dcgan", "sngan_resnet", "linear_ae"])
def test_the_networks_names_are_scored(name):
    components = models.MODELS[name](width=4, latent_size=3, image_size=32, channels=1)
    names = models.axis_names(components)
    shapes = jax.eval_shape(partial(models.init, components), jax.random.key(0))
    params, batch_stats = jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes)
    sizes = channels.groups(params, names.params)
    scores = channels.filter_l1(params, names.params)
    assert jax.tree.map(np.size, scores) == sizes
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(scores))
    normed = channels.gamma(params, names.params, batch_stats)
    # Without a batch norm: the first layer of DCGAN's discriminator, SNGAN's discriminator, autoencoders.
    without = {
        "dcgan": {"generator": set(), "discriminator": {"down_32"}},
        "sngan_resnet": {
            "generator": set(),
            "discriminator": {"down_32", "down_16"}
            | {f"{block}/hidden" for block in ("down_32", "down_16", "block_1", "block_2")},
        },
        "linear_ae": {"encoder": {"down_1", "down_2", "down_3"}, "decoder": {"unproject", "up_3", "up_2"}},
    }[name]
    assert {component: sizes[component].keys() - own for component, own in normed.items()} == without
