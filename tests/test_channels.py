"""Tests of channel pruning: scores by hand, selection, and the masks of weights that follow."""

import re
from functools import partial, reduce
from operator import getitem

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtickets import masks as mask_lib
from jaxtickets import models
from jaxtickets.errors import UserError
from jaxtickets.pruning import channels


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape)


# A generator with a residual stream `a`, which two layers make, and hidden channels `b`; a critic with a layer norm.
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
    with pytest.raises(UserError, match="^axis_names: discriminator/conv/kernel has 4 channels of c, another leaf 2"):
        channels.groups({"discriminator": PARAMS["discriminator"]}, names)


def test_gamma_is_the_mean_absolute_scale_over_batch_norms_and_classes():
    scores, generator = channels.gamma(PARAMS, NAMES, STATISTICS), PARAMS["generator"]
    a = [(abs(generator["block"]["norm_1"]["scale"][i]) + abs(generator["norm"]["scale"][i])) / 2 for i in range(3)]
    b = [(abs(generator["block"]["norm_2"]["scale"][:, i])).sum() / 2 for i in range(4)]
    assert scores.keys() == PARAMS.keys()
    assert scores["generator"].keys() == {"a", "b"}
    np.testing.assert_allclose(scores["generator"]["a"], a, rtol=1e-12)
    np.testing.assert_allclose(scores["generator"]["b"], b, rtol=1e-12)
    assert scores["discriminator"] == {}  # A layer norm is not scored.


# The gates of gamma_taylor.

UPPER, LOWER = ("generator",), ("discriminator",)


def linear_loss(slopes, seen):
    """The sum of each parameter times a slope of its own and the batch: its gradients are these products."""

    def loss(own, batch):
        seen.append(set(own))
        terms = jax.tree.map(
            lambda leaf, slope: batch * (leaf * slope).sum(), own, {name: slopes[name] for name in own}
        )
        return sum(jax.tree.leaves(terms))

    return loss


def test_gamma_taylor_is_the_mean_square_of_scale_and_bias_times_their_gradients():
    statistics = {**STATISTICS, "discriminator": {"norm": {"mean": np.zeros(4), "var": np.ones(4)}}}
    slopes = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=7), PARAMS)
    batches, seen = [np.float32(1.0), np.float32(-3.0), np.float32(0.5)], []
    losses = {UPPER: linear_loss(slopes, seen), LOWER: linear_loss(jax.tree.map(lambda leaf: 100 * leaf, slopes), seen)}
    scores = channels.gamma_taylor(PARAMS, NAMES, statistics, losses, batches)
    assert set(map(frozenset, seen)) == {frozenset(UPPER), frozenset(LOWER)}

    def importance(*path):
        norm, slope = reduce(getitem, path, PARAMS), reduce(getitem, path, slopes)
        n = norm["scale"].shape[-1]
        gates = sum((norm[kind] * slope[kind]).reshape(-1, n).sum(axis=0) for kind in ("scale", "bias"))
        return np.mean([(batch * gates) ** 2 for batch in batches], axis=0)

    a = (importance("generator", "block", "norm_1") + importance("generator", "norm")) / 2
    b, c = importance("generator", "block", "norm_2"), importance("discriminator", "norm")
    assert jax.tree.map(np.size, scores) == {"generator": {"a": 3, "b": 4}, "discriminator": {"c": 4}}
    total = a.sum() + b.sum()
    for found, expected in (
        (scores["generator"]["a"], a / total),
        (scores["generator"]["b"], b / total),
        (scores["discriminator"]["c"], c / c.sum()),  # Its unit, 100 times that of the other loss, does not count.
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gamma_taylor_leaves_out_what_has_no_batch_norm_and_losses_that_say_nothing():
    statistics = {**STATISTICS, "discriminator": {"norm": {"mean": np.zeros(4), "var": np.ones(4)}}}
    slopes, seen = jax.tree.map(np.zeros_like, PARAMS), []
    losses = {UPPER: linear_loss(slopes, seen), LOWER: linear_loss(slopes, seen)}
    scores = channels.gamma_taylor(PARAMS, NAMES, STATISTICS, losses, [np.float32(1)])
    assert scores["discriminator"] == {} and set(UPPER) in seen and set(LOWER) not in seen
    assert not any(leaf.any() for leaf in jax.tree.leaves(scores))
    together = {UPPER + LOWER: linear_loss(jax.tree.map(np.ones_like, PARAMS), seen)}
    scores = channels.gamma_taylor(PARAMS, NAMES, statistics, together, [np.float32(1)])
    assert sum(leaf.sum() for leaf in jax.tree.leaves(scores)) == pytest.approx(1)  # Of all components of a loss.


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    ("name", "classes", "options"),
    [("dcgan", 0, {}), ("sngan_resnet", 3, {"classes": 3, "discriminator_norm": "batch"})],
)
def test_gamma_taylor_is_the_squared_slope_of_a_gate_behind_the_norm(name, classes, options, float64):
    """The gates stand in the forward pass; their slopes are central differences in float64."""
    sizes = dict(width=2, latent_size=3, image_size=16, channels=1)
    components = models.NETWORKS[name].make(**sizes, dtype=jnp.float64, **options)
    names, rng = models.axis_names(components).params, np.random.default_rng(0)
    shapes = jax.eval_shape(partial(models.init, components), jax.random.key(0))
    params, batch_stats = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.3, 0.4, leaf.shape)), shapes)
    is_gamma = mask_lib.named_leaves(channels.is_gamma(params, names, batch_stats))
    gates = {
        path.removesuffix("/scale"): np.ones(leaf.shape[-1])
        for path, leaf in mask_lib.named_leaves(params).items()
        if is_gamma[path]
    }
    batches = [{"latents": rng.normal(size=(6, 3)), "labels": np.arange(6) % max(1, classes)} for _ in range(2)]

    def outputs(component, params, inputs, labels, gates):
        def gate(following, arguments, options, context):
            found, norm = following(*arguments, **options), "/".join((component, *context.module.path))
            return found * gates[norm] if norm in gates and context.method_name == "__call__" else found

        with nn.intercept_methods(gate):
            return models.apply(components, params, batch_stats, component, inputs, True, labels)[0]

    def loss_of(sign, unit):
        def loss(own, batch, gates=gates):
            everything, labels = {**params, **own}, batch["labels"] if classes else None
            images = outputs("generator", everything, batch["latents"], labels, gates)
            return unit * jnp.mean(jax.nn.softplus(sign * outputs("discriminator", everything, images, labels, gates)))

        return loss

    losses = {("generator",): loss_of(-1, 1.0), ("discriminator",): loss_of(1, 30.0)}
    scores = channels.gamma_taylor(params, names, batch_stats, losses, batches)
    for (component,), loss in losses.items():
        gated, found = jax.jit(lambda batch, gates, loss=loss: loss({}, batch, gates)), {}
        for norm, ones in gates.items():
            if norm.startswith(f"{component}/"):
                moves = 1e-5 * np.eye(ones.size)
                slopes = [
                    [
                        (gated(b, {**gates, norm: ones + move}) - gated(b, {**gates, norm: ones - move})) / 2e-5
                        for b in batches
                    ]
                    for move in moves
                ]
                channel = reduce(getitem, norm.split("/"), names)["scale"][-1]
                found.setdefault(channel, []).append(np.mean(np.square(slopes), axis=1))
        total = sum(np.mean(norms, axis=0).sum() for norms in found.values())
        assert scores[component].keys() == found.keys()
        for channel, norms in found.items():
            np.testing.assert_allclose(scores[component][channel], np.mean(norms, axis=0) / total, rtol=1e-5, atol=1e-9)
        is_stream = name == "sngan_resnet" and component == "discriminator"
        assert (max(map(len, found.values())) > 1) == is_stream  # Its channels have several norms.


def test_filter_change_is_the_mean_absolute_change_of_the_weights_that_make_a_channel():
    before = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=3), PARAMS)
    scores, generator, start = channels.filter_change(PARAMS, NAMES, before), PARAMS["generator"], before["generator"]
    for channel in range(3):
        first = generator["first"]["kernel"][:, channel] - start["first"]["kernel"][:, channel]
        second = generator["block"]["conv_2"]["kernel"][..., channel] - start["block"]["conv_2"]["kernel"][..., channel]
        expected = np.abs(np.concatenate([first.ravel(), second.ravel()])).mean()
        assert scores["generator"]["a"][channel] == pytest.approx(expected, rel=1e-12)
    change = PARAMS["discriminator"]["conv"]["kernel"] - before["discriminator"]["conv"]["kernel"]
    np.testing.assert_allclose(scores["discriminator"]["c"], np.abs(change).mean(axis=(0, 1, 2)), rtol=1e-12)
    unchanged = channels.filter_change(PARAMS, NAMES, PARAMS)
    assert not any(leaf.any() for leaf in jax.tree.leaves(unchanged))
    # Nothing tells them apart, so the first stay.
    for leaf in jax.tree.leaves(channels.select(unchanged, 0.5, "layerwise")):
        np.testing.assert_array_equal(leaf, np.sort(leaf)[::-1])


def test_filter_norms_are_means_over_the_weights_of_a_channel():
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
    with pytest.raises(UserError, match=re.escape("channel_masks: there are 3 channels of a and a channel mask of")):
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
    """`[[leaf, ...]]`: the leaves over which one threshold decides, group by group in the order of their paths."""
    leaves = mask_lib.named_leaves(tree)
    parts = {"global": 0, "component": 1, "layerwise": None}[scope]
    found = {}
    for path, leaf in leaves.items():
        found.setdefault(tuple(path.split("/")[:parts]), []).append(leaf)
    return list(found.values())


@given(scored(), st.floats(0, 0.99), st.sampled_from(channels.SCOPES), st.integers(1, 3))
def test_the_exact_count_of_the_lowest_goes_and_first_ties_stay(scores, ratio, scope, least):
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
        # By hand: first the `least` highest of each name, which must stay, then all others by score and position.
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
def test_a_ratio_that_leaves_too_few_is_refused_with_a_possible_one(scope, ratio, parts):
    scores = {"generator": {"up_16": normal(8), "up_8": normal(3)}, "discriminator": {"down_8": normal(4)}}
    with pytest.raises(UserError) as caught:
        channels.select(scores, ratio, scope)
    for part in parts:
        assert part in str(caught.value)
    (possible,) = re.findall(r"at most ([0-9.]+)", str(caught.value))
    masks = channels.select(scores, float(possible), scope)
    assert all(mask.any() for mask in jax.tree.leaves(masks))


def test_no_scores_and_scores_that_are_not_numbers_are_refused():
    with pytest.raises(UserError, match="no name is scored"):
        channels.select({"generator": {}}, 0.5)
    with pytest.raises(UserError, match="scores: those of generator/a are not finite"):
        channels.select({"generator": {"a": np.array([1.0, np.nan])}}, 0.5)


@pytest.mark.parametrize("name", ["dcgan", "sngan_resnet", "linear_ae"])
def test_the_networks_names_are_scored(name):
    components = models.NETWORKS[name].make(width=4, latent_size=3, image_size=32, channels=1)
    names = models.axis_names(components)
    shapes = jax.eval_shape(partial(models.init, components), jax.random.key(0))
    params, batch_stats = jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes)
    sizes = channels.groups(params, names.params)
    scores = channels.filter_l1(params, names.params)
    assert jax.tree.map(np.size, scores) == sizes
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(scores))
    normed = channels.gamma(params, names.params, batch_stats)
    # These have no batch norm: the first layer of DCGAN's discriminator, SNGAN's discriminator, autoencoders.
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


def test_only_scales_of_batch_norms_over_named_channels_are_gammas():
    found = mask_lib.named_leaves(channels.is_gamma(PARAMS, NAMES, STATISTICS))
    scales = {"generator/block/norm_1/scale", "generator/block/norm_2/scale", "generator/norm/scale"}
    assert {path for path, is_scale in found.items() if is_scale} == scales
    names = {**NAMES, "generator": {**NAMES["generator"], "norm": {"scale": (None,), "bias": (None,)}}}
    found = mask_lib.named_leaves(channels.is_gamma(PARAMS, names, STATISTICS))
    assert {path for path, is_scale in found.items() if is_scale} == scales - {"generator/norm/scale"}


def test_filter_mean_is_over_the_kernels_that_make_a_channel():
    scores = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if mask_lib.path_name(path).endswith("kernel") else None, PARAMS
    )
    scores["generator"]["block"]["conv_1"]["kernel"] = None
    means, generator = channels.filter_mean(scores, NAMES), PARAMS["generator"]
    assert jax.tree.map(np.size, means) == {"generator": {"a": 3}, "discriminator": {"c": 4}}
    for i in range(3):
        first, second = generator["first"]["kernel"][:, i], generator["block"]["conv_2"]["kernel"][..., i]
        expected = (first.sum() + second.sum()) / (5 + 3 * 3 * 4)
        assert means["generator"]["a"][i] == pytest.approx(expected, rel=1e-12)
    for i in range(4):
        expected = PARAMS["discriminator"]["conv"]["kernel"][..., i].mean()
        assert means["discriminator"]["c"][i] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("fixed", "left"),
    [
        (None, {"a", "b"}),
        ("generator/image/kernel", {"b"}),  # Reads `a`.
        ("generator/first/kernel", {"b"}),  # Makes `a`.
        ("generator/block/conv_1/kernel", set()),  # Reads `a` and makes `b`.
        ("discriminator/conv/kernel", {"a", "b"}),
    ],
)
def test_a_channel_is_prunable_if_all_its_kernels_are(fixed, left):
    masks = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            np.ones(leaf.shape, bool)
            if mask_lib.path_name(path).endswith("/kernel") and mask_lib.path_name(path) != fixed
            else None
        ),
        PARAMS,
    )
    scores = channels.filter_l1(PARAMS, NAMES)
    found = channels.prunable(scores, masks, NAMES)
    assert found["generator"].keys() == left
    assert found["discriminator"].keys() == (set() if fixed == "discriminator/conv/kernel" else {"c"})
    for component, own in found.items():
        for name, leaf in own.items():
            np.testing.assert_array_equal(leaf, scores[component][name])


@given(scored(), st.floats(0, 0.7), st.sampled_from(channels.SCOPES))
def test_names_that_do_not_compare_are_pruned_on_their_own(scores, ratio, scope):
    alone = ("generator/up_0/hidden",)
    rest = {**scores, "generator": {name: leaf for name, leaf in scores["generator"].items() if name != "up_0/hidden"}}
    own = {"generator": {"up_0/hidden": scores["generator"]["up_0/hidden"]}}
    try:
        expected = [channels.select(rest, ratio, scope, 1), channels.select(own, ratio, "global", 1)]
    except UserError:
        with pytest.raises(UserError, match="allowed is at most"):
            channels.select(scores, ratio, scope, 1, alone)
        return
    masks = mask_lib.named_leaves(channels.select(scores, ratio, scope, 1, alone))
    expected = {path: leaf for tree in expected for path, leaf in mask_lib.named_leaves(tree).items()}
    assert masks.keys() == expected.keys()
    for path, mask in masks.items():
        np.testing.assert_array_equal(mask, expected[path])
    size = scores["generator"]["up_0/hidden"].size
    assert np.count_nonzero(~masks[alone[0]]) == round(ratio * size)


def test_a_ratio_that_empties_a_name_on_its_own_is_refused():
    scores = {"generator": {"up_16": normal(90), "up_8": normal(2)}}
    channels.select(scores, 0.8)
    with pytest.raises(UserError, match="ratio: 0.8 prunes 2 of 2 channels of generator/up_8, .* at most 0.5"):
        channels.select(scores, 0.8, alone=("generator/up_8",))


@settings(deadline=None, max_examples=20)
@given(scored(), st.floats(0, 1), st.sampled_from(channels.SCOPES), st.booleans())
def test_the_ratio_for_a_cost_is_the_smallest_that_a_scan_finds(scores, share, scope, some_alone):
    alone = ("generator/up_0/hidden",) if some_alone else ()
    price = jax.tree.map(lambda leaf: 1 + np.arange(leaf.size) % 3, scores)
    cost = lambda masks: sum((kept * p).sum() for kept, p in zip(*map(jax.tree.leaves, (masks, price)), strict=True))  # noqa: E731
    scan = []
    for ratio in np.arange(
        1.7e-4, 1, 4e-3
    ):  # Never a whole number of channels and a half, where rounding is ambiguous.
        try:
            scan.append(channels.select(scores, ratio, scope, 1, alone))
        except UserError:
            break
    costs = [cost(masks) for masks in scan]
    assert costs == sorted(costs, reverse=True)
    limit = max(costs[-1], costs[0] * share)
    first = next(i for i, left in enumerate(costs) if left <= limit)
    masks = channels.select_by_cost(scores, cost, limit, scope, 1, alone)
    assert cost(masks) <= limit
    # The ratio lies between two of the scan, and the smaller of these leaves too much.
    assert mask_lib.is_nested(scan[first], masks)
    assert not first or mask_lib.is_nested(masks, scan[first - 1])
    assert not first or costs[first - 1] > limit


def test_a_cost_that_cannot_be_reached_is_refused_with_what_can_be():
    scores = {"generator": {"up_16": normal(8), "up_8": normal(2)}}
    share = lambda masks: np.mean([kept.mean() for kept in jax.tree.leaves(masks)])  # noqa: E731
    with pytest.raises(UserError) as caught:
        channels.select_by_cost(scores, share, 0.2, "layerwise")
    # 6 of 8 channels go and 1 of 2; at a ratio of three quarters both of the 2 would.
    message = "20.00% of the FLOPs can't be reached: 37.50% are left when 75.00% of the channels are pruned"
    assert str(caught.value).startswith(message)
    assert "with 1 of each name" in str(caught.value)


def random_channel_masks(params, axis_names, seed=0):
    """Channel masks of every name, with at least one channel each."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda n: rng.permutation(n) < rng.integers(1, n + 1), channels.groups(params, axis_names))


def shapes_of(name):
    """`(shapes of the parameters, their axis names)` of a network."""
    network = models.NETWORKS[name]
    components = network.make(width=16, latent_size=3, image_size=network.image_sizes[0], channels=1)
    params, _ = jax.eval_shape(partial(models.init, components), jax.random.key(0))
    return params, models.axis_names(components).params


@pytest.mark.parametrize("name", models.NETWORKS)
def test_channel_masks_come_back_from_their_weight_masks(name):
    params, names = shapes_of(name)
    for seed in range(3):
        kept = random_channel_masks(params, names, seed)
        masks = channels.to_weight_masks(kept, params, names)
        found = channels.from_weight_masks(masks, names)
        assert jax.tree.structure(found) == jax.tree.structure(kept)
        jax.tree.map(np.testing.assert_array_equal, found, kept)
        shares, masks = channels.kept_shares(params, names, kept), mask_lib.named_leaves(masks)
        assert shares.keys() == mask_lib.named_leaves(params).keys()
        for path, share in shares.items():
            assert share == pytest.approx(masks[path].mean() if path in masks else 1, rel=1e-12), path


def test_a_channel_that_one_kernel_still_reads_or_makes_is_kept():
    masks = channels.to_weight_masks({}, PARAMS, NAMES)
    block = masks["generator"]["block"]
    block["conv_1"]["kernel"][..., 1] = False  # No weight makes channel 1 of `b`, but `conv_2` reads it.
    block["conv_2"]["kernel"][:, :, 2] = False  # No weight reads channel 2, but `conv_1` makes it.
    for channel in (0, 3):
        block["conv_1"]["kernel"][..., channel] = block["conv_2"]["kernel"][:, :, channel] = False
    found = channels.from_weight_masks(masks, NAMES)
    np.testing.assert_array_equal(found["generator"]["b"], [False, True, True, False])
    assert found["generator"]["a"].all()
    assert found["discriminator"]["c"].all()


@given(scored(), st.floats(0, 0.9), st.integers(2, 5))
def test_the_nearest_multiple_of_the_best_channels_stays(scores, ratio, multiple):
    try:
        exact = channels.select(scores, ratio)
    except UserError:
        return
    masks = channels.select(scores, ratio, multiple=multiple)
    for leaf, before, after in zip(*map(jax.tree.leaves, (scores, exact, masks)), strict=True):
        kept, wanted = int(after.sum()), int(before.sum())
        if kept < leaf.size:
            assert kept % multiple == 0
            assert abs(kept - wanted) <= multiple / 2 or wanted < kept == multiple
        else:  # The nearest multiple is the number of channels, or more.
            assert leaf.size - wanted <= multiple / 2 or leaf.size <= multiple
        values = leaf.astype(np.float32)
        assert kept == leaf.size or values[after].min() >= values[~after].max()
