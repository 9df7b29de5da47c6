"""Tests of selection, from scores to masks: exact counts, every scope and structure, and schedules."""

import itertools
import warnings
from fractions import Fraction
from math import prod

import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_masks import networks, random_masks, seeds

from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.pruning import (
    channels,
    cosine,
    cubic,
    densities,
    drop_and_grow,
    magnitude,
    parse_structure,
    prune,
    selection,
    sparsities,
)
from jaxtickets.pruning.pools import SCOPES
from jaxtickets.pruning.selection import keep_highest

rates = st.floats(0.01, 0.99)
over_layers = st.sampled_from(["uniform", "erk"])
WHOLE = ("filter", "block:2x2", "block:3x2", "block:1x4")


def prune_magnitude(params, masks, sparsity, **options):
    return prune_if_something_stays(magnitude(params, masks), masks, sparsity, **options)


def prune_if_something_stays(scores, masks, sparsity, **options):
    """The pruned masks; examples in which nothing would be left, which is an error, are not looked at."""
    try:
        return prune(scores, masks, sparsity, **{"axes": flax_layout} | options)
    except UserError as error:
        if "leaves none" in str(error):
            assume(False)
        raise


def flax_layout(path):
    """The axes of kernels `[..., in, out]`, those of three axes too, whose name does not tell."""
    return -2, -1


def pools(masks, scope):
    """Lists of the names of the layers that share a threshold."""
    names = list(mask_lib.named_leaves(masks))
    key = {"global": lambda name: "", "component": lambda name: name.split("/")[0], "layerwise": lambda name: name}
    return [list(group) for _, group in itertools.groupby(names, key[scope])]


def stable_sort(scores, kept, n_keep):
    """The mask of the `n_keep` highest of the `kept` entries; among equal scores the first ones stay."""
    order = np.argsort(-scores, kind="stable")
    order = order[kept[order]]
    result = np.zeros(kept.size, bool)
    result[order[:n_keep]] = True
    return result


def joined(tree, names):
    leaves = mask_lib.named_leaves(tree)
    return np.concatenate([leaves[name].ravel() for name in names])


# Counts.


@given(networks(ties=True), st.floats(0, 0.999), st.sampled_from(["global", "uniform", "erk"]))
def test_global_uniform_and_erk_prune_the_exact_count_even_with_ties(params, sparsity, scope):
    masks = mask_lib.ones(params)
    weights = mask_lib.counts(masks).weights
    kept = mask_lib.counts(prune_magnitude(params, masks, sparsity, scope=scope)).kept
    assert kept == weights - round(sparsity * weights)


@given(networks(ties=True), st.floats(0, 0.999))
def test_scope_component_prunes_the_exact_count_in_each_component(params, sparsity):
    pruned = prune_magnitude(params, mask_lib.ones(params), sparsity, scope="component")
    for tree in pruned.values():
        weights, kept = mask_lib.counts(tree)
        assert kept == weights - round(sparsity * weights)


@given(networks(ties=True), st.floats(0, 0.999))
def test_scope_layerwise_prunes_the_exact_count_in_each_layer(params, sparsity):
    pruned = prune_magnitude(params, mask_lib.ones(params), sparsity, scope="layerwise")
    for layer in mask_lib.layer_counts(pruned).values():
        assert layer.kept == layer.weights - round(sparsity * layer.weights)


@given(networks(ties=True), st.floats(0, 0.8), rates, st.sampled_from(["global", "component", "layerwise"]))
def test_a_threshold_keeps_what_a_stable_sort_keeps(params, first, rate, scope):
    before = prune_magnitude(params, mask_lib.ones(params), first, scope=scope)
    scores = jax.tree.map(lambda leaf: np.roll(leaf, 1), magnitude(params, before))
    sparsity = first + (1 - first) * rate
    after = prune_if_something_stays(scores, before, sparsity, scope=scope)
    for names in pools(before, scope):
        kept = joined(before, names)
        expected = stable_sort(joined(scores, names), kept, kept.size - round(sparsity * kept.size))
        np.testing.assert_array_equal(joined(after, names), expected)


signed_scores = st.one_of(st.sampled_from([-np.inf, -2.0, -1.0, -0.0, 0.0, 1.0, np.inf]), st.floats(-2, 2, width=32))
entries = st.lists(st.tuples(signed_scores, st.booleans()), max_size=40)


@given(st.lists(entries, min_size=1, max_size=4), st.floats(0, 1), st.tuples(*[st.integers(1, 20)] * 2), st.booleans())
def test_any_guess_of_the_threshold_finds_what_a_stable_sort_keeps(arrays, share, sizes, all_equal):
    scores = [np.array([0.0 if all_equal else score for score, _ in own], np.float32) for own in arrays]
    kept = [np.array([candidate for _, candidate in own], bool) for own in arrays]
    n_keep = round(share * sum(map(np.count_nonzero, kept)))
    with pytest.MonkeyPatch.context() as patch:
        for name, size in zip(("SAMPLE", "CHUNK"), sizes, strict=True):
            patch.setattr(selection, name, size)
        chosen = keep_highest(scores, kept, n_keep)
    expected = stable_sort(np.concatenate(scores), np.concatenate(kept), n_keep)
    np.testing.assert_array_equal(np.concatenate(chosen), expected)
    assert [part.shape for part in chosen] == [part.shape for part in kept]


@pytest.mark.parametrize("share", [0.0, 1e-5, 0.2, 0.5, 0.9999, 1.0])
@pytest.mark.parametrize("kind", ["normal", "sorted", "few values"])
def test_the_highest_of_many_scores_are_those_of_a_stable_sort(kind, share):
    rng = np.random.default_rng(0)
    scores = [rng.standard_normal(size, np.float32) for size in (3, 700_000, 100_000)]
    scores = {"normal": scores, "sorted": list(map(np.sort, scores)), "few values": list(map(np.round, scores))}[kind]
    kept = [rng.random(part.size) < 0.5 for part in scores]
    n_keep = round(share * sum(map(np.count_nonzero, kept)))
    expected = stable_sort(np.concatenate(scores), np.concatenate(kept), n_keep)
    np.testing.assert_array_equal(np.concatenate(keep_highest(scores, kept, n_keep)), expected)


@given(networks(ties=True), st.floats(0, 0.999), over_layers)
def test_the_highest_weights_stay_with_a_density_per_layer(params, sparsity, scope):
    masks = mask_lib.ones(params)
    named = mask_lib.named_leaves(masks)
    total = mask_lib.counts(masks).weights
    total -= round(sparsity * total)
    counts = densities([mask.shape for mask in named.values()], total, scope)
    after = prune_magnitude(params, masks, sparsity, scope=scope)
    for name, count in zip(named, counts, strict=True):
        expected = stable_sort(joined(magnitude(params, masks), [name]), joined(masks, [name]), count)
        np.testing.assert_array_equal(joined(after, [name]), expected)


@pytest.mark.parametrize("scope", SCOPES)
def test_arrays_on_the_device_give_the_masks_of_those_on_the_host(scope):
    rng = np.random.default_rng(0)
    params = {name: {"layer": {"kernel": rng.integers(-2, 3, (4, 5))}} for name in ("generator", "discriminator")}
    masks = random_masks(params, 0, 0.8)
    scores = magnitude(params, masks)
    on_device = jax.tree.map(jax.numpy.asarray, (scores, masks))
    jax.tree.map(np.testing.assert_array_equal, prune(scores, masks, 0.6, scope), prune(*on_device, 0.6, scope))


# Nestedness.


@given(networks(ties=True), st.lists(rates, min_size=2, max_size=5), st.sampled_from(SCOPES))
def test_masks_of_later_rounds_are_nested_in_earlier_ones(params, rates, scope):
    masks, total = mask_lib.ones(params), 0.0
    for number, rate in enumerate(rates):
        total += (1 - total) * rate
        moved = jax.tree.map(lambda leaf, number=number: np.roll(leaf, number), params)
        later = prune_magnitude(moved, masks, total, scope=scope)
        assert mask_lib.is_nested(later, masks)
        masks = later
        if scope in ("global", "uniform", "erk"):
            weights, kept = mask_lib.counts(masks)
            assert kept == weights - round(total * weights)


@given(networks(ties=True), seeds, st.lists(rates, min_size=2, max_size=4), st.sampled_from(SCOPES))
@pytest.mark.parametrize("structure", WHOLE)
def test_masks_of_whole_filters_or_blocks_are_nested_too(structure, params, seed, rates, scope):
    # Single weights are pruned before.
    masks, total = random_masks(params, seed, 0.9), 0.0
    for number, rate in enumerate(rates):
        total += (1 - total) * rate
        moved = jax.tree.map(lambda leaf, number=number: np.roll(leaf, number), params)
        later = prune_magnitude(moved, masks, total, scope=scope, structure=structure)
        assert mask_lib.is_nested(later, masks)
        masks = later


# Filters and blocks.


def units(shape, structure):
    """The flat indices of the weights of each unit, written out."""
    indices = np.arange(prod(shape)).reshape(shape)
    if structure == "filter":
        return [indices[..., channel].ravel() for channel in range(shape[-1])]
    if len(shape) < 2:
        return [np.array([index]) for index in indices]
    rows, columns = map(int, structure.removeprefix("block:").split("x"))
    return [
        indices[(*position, slice(row, row + rows), slice(column, column + columns))].ravel()
        for position in np.ndindex(*shape[:-2])
        for row in range(0, shape[-2], rows)
        for column in range(0, shape[-1], columns)
    ]


@given(networks(), rates, st.sampled_from(["global", "component", "layerwise"]), st.sampled_from(WHOLE))
def test_filters_and_blocks_go_whole_and_lowest_mean_first(params, sparsity, scope, structure):
    masks = mask_lib.ones(params)
    scores = mask_lib.named_leaves(magnitude(params, masks))
    pruned = mask_lib.named_leaves(prune_magnitude(params, masks, sparsity, scope=scope, structure=structure))
    for names in pools(masks, scope):
        kept, gone = [], []
        for name in names:
            parts = units(pruned[name].shape, structure)
            means = [scores[name].ravel()[part].mean() for part in parts]
            for part, mean in zip(parts, means, strict=True):
                stays = pruned[name].ravel()[part]
                assert stays.all() or not stays.any(), name
                if not stays.any():
                    gone.append((mean, part.size))
                # The best filter of a layer always stays.
                elif structure != "filter" or mean < max(means):
                    kept.append((mean, part.size))
            if structure == "filter":
                assert pruned[name].any(), name
        if kept and gone:
            assert min(kept)[0] >= max(gone)[0] * (1 - 1e-6)
        sizes = [pruned[name].size for name in names]
        miss = sum(np.count_nonzero(pruned[name]) for name in names) - (sum(sizes) - round(sparsity * sum(sizes)))
        if kept:
            assert abs(miss) <= abs(miss - min(kept)[1])
        if gone:
            assert abs(miss) <= abs(miss + max(gone)[1])


@given(networks(), rates, over_layers, st.sampled_from(WHOLE))
def test_filters_and_blocks_are_whole_with_a_density_per_layer_too(params, sparsity, scope, structure):
    pruned = prune_magnitude(params, mask_lib.ones(params), sparsity, scope=scope, structure=structure)
    for mask in mask_lib.named_leaves(pruned).values():
        for part in units(mask.shape, structure):
            assert np.unique(mask.ravel()[part]).size == 1
        if structure == "filter":
            assert mask.any()


def test_ragged_blocks_at_the_edges_are_blocks_of_their_own():
    # 3 x 5 weights in blocks of 2 x 2: each of two rows has two whole blocks and a narrow one; the lower is flat.
    scores = np.array([[6, 6, 5, 5, 1], [6, 6, 5, 5, 1], [4, 4, 3, 3, 2]], np.float32)
    params = {"generator": {"layer": {"kernel": scores}}}
    kernel = prune_magnitude(params, mask_lib.ones(params), 5 / 15, structure="block:2x2")["generator"]["layer"][
        "kernel"
    ]
    expected = [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    np.testing.assert_array_equal(kernel, np.array(expected, bool))


def test_a_filter_is_an_output_channel_and_its_mean_decides():
    # Channel 0 has the highest single weight, channel 2 the highest mean.
    kernel = np.array([[[[9.0, 2.0, 5.0], [0.0, 2.0, 5.0]]]], np.float32)
    params = {"generator": {"layer": {"kernel": kernel}}}
    pruned = prune_magnitude(params, mask_lib.ones(params), 2 / 3, structure="filter")
    np.testing.assert_array_equal(pruned["generator"]["layer"]["kernel"][0, 0], [[False, False, True]] * 2)


# N:M.

PATTERNS = [(1, 2), (2, 4), (1, 4), (2, 3)]


@given(networks(), seeds, st.sampled_from(PATTERNS), st.booleans())
def test_n_of_m_keeps_the_n_highest_of_each_m_consecutive_inputs(params, seed, pattern, dense):
    n, m = pattern
    before = mask_lib.ones(params) if dense else random_masks(params, seed, 0.7)
    scores = magnitude(params, before)
    assume(any(mask.ndim > 1 and mask.shape[-2] % m == 0 for mask in jax.tree.leaves(before)))
    with warnings.catch_warnings(action="ignore"):  # Most networks have a layer that does not fit.
        after = prune(scores, before, 1 - n / m, structure=f"{n}:{m}", axes=flax_layout)
    assert mask_lib.is_nested(after, before)
    for name, mask in mask_lib.named_leaves(after).items():
        old, values = mask_lib.named_leaves(before)[name], mask_lib.named_leaves(scores)[name]
        if mask.ndim < 2 or mask.shape[-2] % m:
            np.testing.assert_array_equal(mask, old)
            continue
        for position in np.ndindex(*mask.shape[:-2]):
            for start, output in itertools.product(range(0, mask.shape[-2], m), range(mask.shape[-1])):
                group = (*position, slice(start, start + m), output)
                np.testing.assert_array_equal(mask[group], stable_sort(values[group], old[group], n))
                assert not dense or np.count_nonzero(mask[group]) == n


@pytest.mark.parametrize("sparsity", [0.2, 0.49, 0.75])
def test_a_sparsity_that_n_of_m_does_not_give_is_an_error(sparsity):
    params = {"generator": {"layer": {"kernel": np.ones((4, 4))}}}
    with pytest.raises(UserError, match="0.5 with structure 2:4"):
        prune_magnitude(params, mask_lib.ones(params), sparsity, structure="2:4")


# Errors and warnings.

NO_TARGETS = [1.0, 1, 50, 1.5, -0.1, -1, np.nan, np.inf, -np.inf, True, False, "0.5", None, [0.5], np.array([0.5]), 1j]


@pytest.mark.parametrize("value", NO_TARGETS)
def test_a_target_that_is_no_number_from_0_to_below_1_is_refused_in_a_line(value):
    params = {"generator": {"layer": {"kernel": np.arange(12.0).reshape(3, 4)}}}
    channel_scores = {"generator": {"hidden": np.arange(4.0)}}
    asked = {
        "sparsity": lambda: prune(params, mask_lib.ones(params), value),
        "ratio": lambda: channels.select(channel_scores, value),
        "rate": lambda: sparsities(value, 3),
        "final": lambda: cubic(value, 0.5),
    }
    for name, ask in asked.items():
        with pytest.raises(UserError, match=f"^{name}: .*0.5 is half$") as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1.001, 50, -0.1, np.nan, True, "0.5", None])
def test_a_share_that_may_be_1_is_refused_above_it(value):
    params = {"generator": {"layer": {"kernel": np.ones((3, 4))}}}
    masks = mask_lib.ones(params)
    for ask in (
        lambda: drop_and_grow(params, masks, params, value),
        lambda: cosine(value, 0),
        lambda: cubic(0.5, value),
    ):
        with pytest.raises(UserError, match="from 0 to 1; 0.5 is half"):
            ask()


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, True, "0.5", None])
def test_a_cost_to_reach_that_is_no_number_is_refused(value):
    with pytest.raises(UserError, match="limit: .* allowed is a number of at least 0"):
        channels.select_by_cost({"generator": {"hidden": np.arange(4.0)}}, lambda masks: 0.5, value)


@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.float64(0.5), np.array(0.5), jax.numpy.float32(0.5), Fraction(1, 2)]
)
def test_numbers_of_any_type_are_targets(value):
    params = {"generator": {"layer": {"kernel": np.arange(12.0).reshape(3, 4)}}}
    assert mask_lib.counts(prune(params, mask_lib.ones(params), value)).kept == 6


@pytest.mark.parametrize("value", [-1, 0.5, True, "1", None, np.nan])
def test_numbers_that_must_stay_are_whole(value):
    params = {"generator": {"layer": {"kernel": np.arange(12.0).reshape(3, 4)}}}
    with pytest.raises(UserError, match="min_per_layer: .* allowed is a whole number of at least 0"):
        prune(params, mask_lib.ones(params), 0.5, min_per_layer=value)
    for name in ("min_channels", "multiple"):
        with pytest.raises(UserError, match=f"{name}: .* allowed is a whole number of at least 1"):
            channels.select({"generator": {"hidden": np.arange(4.0)}}, 0.5, **{name: value})


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("structure", ["weight", "block:2x2"])
def test_a_target_that_leaves_nothing_is_refused(scope, structure):
    params = {"generator": {"layer": {"kernel": np.arange(16.0).reshape(4, 4)}}}
    with pytest.raises(UserError, match="sparsity: 0.97 leaves none of 16 weights"):
        prune(params, mask_lib.ones(params), 0.97, scope, structure=structure)
    # 15 of 16 weights go, or three of four blocks.
    kept = mask_lib.counts(prune(params, mask_lib.ones(params), 0.94 if structure == "weight" else 0.7, scope)).kept
    assert kept >= 1


def test_rates_and_rounds_that_leave_nothing_are_refused():
    assert sparsities(0.9, 15)[-1] < 1
    with pytest.raises(UserError, match="rate: 0.9 of what remains, 20 times, leaves nothing"):
        sparsities(0.9, 20)


def test_the_component_of_a_weight_is_its_first_key_even_if_that_holds_slashes():
    # Haiku's parameters: both modules of one network are components of their own.
    params = {"mlp/~/a": {"kernel": np.array([1.0, 2, 3, 4])}, "mlp/~/b": {"kernel": np.array([10.0, 20, 30, 40])}}
    pruned = prune(params, mask_lib.ones(params), 0.5, "component")
    assert [layer.kept for layer in mask_lib.layer_counts(pruned).values()] == [2, 2]
    assert [layer.kept for layer in mask_lib.layer_counts(prune(params, mask_lib.ones(params), 0.5)).values()] == [0, 4]
    chosen = mask_lib.ones(params, components=("mlp/~/b",))
    assert list(mask_lib.named_leaves(chosen)) == ["mlp/~/b/kernel"]


@given(networks(), st.floats(0.5, 0.98))
def test_min_per_layer_keeps_a_weight_in_each_layer(params, sparsity):
    # One layer's weights are a thousand times smaller, so that global magnitude would empty it.
    params["generator"]["layer_0"]["kernel"] *= 1e-3
    masks = mask_lib.ones(params)
    weights = mask_lib.counts(masks).weights
    n_keep = weights - round(sparsity * weights)
    if n_keep < len(mask_lib.named_leaves(masks)):
        with pytest.raises(UserError, match="min_per_layer"):
            prune_magnitude(params, masks, sparsity, min_per_layer=1)
        return
    pruned = prune_magnitude(params, masks, sparsity, min_per_layer=1)
    assert mask_lib.counts(pruned).kept == n_keep
    assert all(layer.kept >= 1 for layer in mask_lib.layer_counts(pruned).values())


@pytest.mark.parametrize("structure", ["filter", "block:1x1"])
def test_min_per_layer_counts_filters_or_blocks(structure):
    params = {"generator": {"a": {"kernel": np.full((1, 4), 1e-3)}, "b": {"kernel": np.ones((1, 4))}}}
    pruned = prune_magnitude(params, mask_lib.ones(params), 0.5, min_per_layer=2, structure=structure)
    assert [layer.kept for layer in mask_lib.layer_counts(pruned).values()] == [2, 2]


def test_an_emptied_layer_is_named_in_a_warning(caplog):
    params = {"generator": {"a": {"kernel": np.full(4, 0.1)}, "b": {"kernel": np.full(4, 1.0)}}}
    prune_magnitude(params, mask_lib.ones(params), 0.5)
    assert "emptied generator/a/kernel" in caplog.text


def test_emptied_biases_are_no_emptied_layer(caplog):
    masks = {"generator": {"a": {"kernel": np.ones(4, bool), "bias": np.ones(4, bool)}}}
    prune_magnitude({"generator": {"a": {"kernel": np.ones(4), "bias": np.zeros(4)}}}, masks, 0.5)
    assert "emptied" not in caplog.text


@pytest.mark.parametrize("scope", SCOPES)
def test_a_sparsity_below_the_present_one_is_an_error(scope):
    params = {"generator": {"layer": {"kernel": np.arange(10.0)}}}
    masks = prune_magnitude(params, mask_lib.ones(params), 0.5, scope=scope)
    with pytest.raises(UserError, match="below"):
        prune_magnitude(params, masks, 0.2, scope=scope)


@pytest.mark.parametrize("structure", ["weight", "filter", "block:2x2", "2:4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_scores_that_are_not_finite_are_an_error_that_names_the_layer(structure, value):
    kernel = np.ones((4, 2))
    masks = {"generator": {"fine": {"kernel": kernel > 0}, "wrong": {"kernel": kernel > 0}}}
    scores = {"generator": {"fine": {"kernel": kernel}, "wrong": {"kernel": np.full((4, 2), value)}}}
    with (
        np.errstate(over="ignore"),
        pytest.raises(UserError, match="scores: those of generator/wrong/kernel are not fi"),
    ):
        prune(scores, masks, 0.5, structure=structure)


def test_an_unknown_scope_is_an_error():
    params = {"generator": {"layer": {"kernel": np.arange(10.0)}}}
    with pytest.raises(
        UserError, match="^scope: 'local' is unknown.*; allowed: global, component, layerwise, uniform, erk"
    ):
        prune_magnitude(params, mask_lib.ones(params), 0.5, scope="local")


def test_structures_are_read_as_they_are_written():
    assert parse_structure("weight") == ("weight", (1, 1))
    assert parse_structure("filter").kind == "filter"
    assert parse_structure("block:4x16") == ("block", (4, 16))
    assert parse_structure("2:4") == ("n:m", (2, 4))
    assert [parse_structure(text).sparsity for text in ("weight", "block:4x4", "2:4", "1:8")] == [
        None,
        None,
        0.5,
        0.875,
    ]


@pytest.mark.parametrize(
    "text",
    [
        None,
        2.4,
        "block:1x9999999999",
        "",
        "channels",
        "block",
        "block:4",
        "block:0x4",
        "4:4",
        "4:2",
        "0:4",
        "2:4x",
        "weight ",
    ],
)
def test_an_unknown_structure_is_an_error_with_what_is_allowed(text):
    with pytest.raises(UserError, match=r"^structure: .* allowed: weight, filter, channel, block:"):
        parse_structure(text)


# Densities.


def by_bisection(shapes, total, scope, capacities):
    """The real number of weights per layer for density = min(capacity, epsilon * raw), with epsilon by bisection."""
    sizes = np.array([prod(shape) for shape in shapes], float)
    raw = np.array([1.0 if scope == "uniform" else sum(shape) / prod(shape) for shape in shapes])

    def kept(epsilon):
        return np.minimum(capacities, np.minimum(1, epsilon * raw) * sizes)

    low, high = 0.0, 1 / raw.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if kept(middle).sum() < total else (low, middle)
    return kept(high)


shape_lists = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6)


@given(shape_lists, seeds, st.floats(0, 1), over_layers, st.booleans())
def test_densities_are_those_of_the_formula_with_an_exact_total(shapes, seed, density, scope, dense):
    sizes = np.array([prod(shape) for shape in shapes])
    capacities = sizes if dense else np.random.default_rng(seed).integers(0, sizes + 1)
    total = round(density * capacities.sum())
    counts = np.array(densities(shapes, total, scope, None if dense else capacities))
    assert counts.sum() == total
    assert np.all((counts >= 0) & (counts <= capacities))
    np.testing.assert_array_less(np.abs(counts - by_bisection(shapes, total, scope, capacities)), 1 + 1e-6)


@given(shape_lists, st.floats(0, 1))
def test_uniform_densities_are_equal_within_a_weight(shapes, density):
    sizes = np.array([prod(shape) for shape in shapes])
    total = round(density * sizes.sum())
    counts = np.array(densities(shapes, total, "uniform"))
    np.testing.assert_array_less(np.abs(counts - sizes * total / sizes.sum()), 1 + 1e-6)


@pytest.mark.parametrize(("total", "scope"), [(-1, "erk"), (7, "erk"), (0.5, "erk"), (True, "erk"), (3, "global")])
def test_densities_that_no_layers_can_have_are_refused(total, scope):
    with pytest.raises(UserError, match="allowed"):
        densities([(2, 3)], total, scope)
    assert densities([(2, 3)], 6) == [6]


def test_erk_of_two_layers_by_hand():
    # 2 x 4 = 8 weights, dimensions sum to 6; 10 x 10 = 100 weights, dimensions sum to 20.
    shapes = [(2, 4), (10, 10)]
    assert densities(shapes, 26) == [6, 20]  # epsilon = 1
    assert densities(shapes, 52) == [8, 44]  # epsilon = 2 would keep 12 of 8 weights: all 8 stay, and 44 are left.
    assert densities(shapes, 14) == [3, 11]  # 14 * 6 / 26 = 3.23, 14 * 20 / 26 = 10.77
    assert densities(shapes, 27, "uniform") == [2, 25]
    assert densities(shapes, 26, capacities=[1, 100]) == [1, 25]


def _resnet50():
    """`(shape of a kernel, positions at which it is used)` of each layer of ResNet-50 for 224x224 images."""
    layers, inputs, size = [((7, 7, 3, 64), 112**2)], 64, 56
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            made = size // 2 if block == 0 and width > 64 else size
            layers += [((1, 1, inputs, width), size**2), ((3, 3, width, width), made**2)]
            layers.append(((1, 1, width, 4 * width), made**2))
            if block == 0:
                layers.append(((1, 1, inputs, 4 * width), made**2))
            inputs, size = 4 * width, made
    return [*layers, ((2048, 1000), 1)]


def test_erk_leaves_resnet_50_the_published_share_of_its_flops():
    # Evci et al. 2020, https://github.com/google-research/rigl: inference FLOPs of ERK over 8.2e9 of the dense network.
    layers = _resnet50()
    sizes, positions = np.array([(prod(shape), count) for shape, count in layers]).T
    assert 2 * (sizes * positions).sum() == pytest.approx(8.2e9, rel=0.01)
    for sparsity, published in ((0.8, 0.42), (0.9, 0.24), (0.95, 0.12), (0.965, 0.09)):
        counts = densities([shape for shape, _ in layers], sizes.sum() - round(sparsity * sizes.sum()))
        assert (counts * positions).sum() / (sizes * positions).sum() == pytest.approx(published, abs=0.01)


# Schedules.


def test_sparsities_are_those_of_the_paper():
    # Kalibhat et al. 2021, 20% of the remaining weights per round: per cent after rounds 1 to 10, 12 and 20.
    percent = [100 * sparsity for sparsity in sparsities(0.2, 20)]
    published = [20, 36, 48.8, 59.04, 67.23, 73.79, 79.03, 83.22, 86.58, 89.26]
    np.testing.assert_allclose(percent[1:11], published, atol=0.005)
    np.testing.assert_allclose([percent[12], percent[20]], [93.13, 98.85], atol=0.005)


@given(st.floats(0.01, 0.99), st.integers(1, 30))
def test_the_cubic_schedule_is_that_of_zhu_and_gupta(rate, rounds):
    # s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 with s_i = 0, t_0 = 0, dt = 1.
    assume(1 - (1 - rate) ** rounds < 1)
    ours, constant = sparsities(rate, rounds, "cubic"), sparsities(rate, rounds)
    final = 1 - (1 - rate) ** rounds
    expected = [final + (0 - final) * (1 - t / rounds) ** 3 for t in range(rounds + 1)]
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)
    assert ours[0] == constant[0] == 0
    assert ours[-1] == constant[-1] == pytest.approx(final)
    assume(0.1 < final < 0.999 and rounds > 1)
    assert np.all(np.diff(ours) > 0)
    assert np.all(np.diff(ours, 2) < 1e-12)  # Fast first, then slow.


def test_the_cubic_schedule_by_hand():
    assert [cubic(0.8, progress) for progress in (0, 0.5, 1)] == pytest.approx([0, 0.7, 0.8])


@pytest.mark.parametrize("schedule", ["constant_rate", "cubic"])
def test_no_rounds_prune_nothing(schedule):
    assert sparsities(0.2, 0, schedule) == [0.0]
