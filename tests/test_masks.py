"""The algebra of masks and exact selection, over random pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.pruning import magnitude, prune, sparsities

settings.register_profile("jaxtickets", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("jaxtickets")


@st.composite
def networks(draw, ties=False):
    """Parameters of one to three layers, each a kernel and a bias; with few distinct values if `ties`."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    params = {}
    for layer in range(draw(st.integers(1, 3))):
        shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
        values = rng.integers(-2, 3, shape) if ties else rng.normal(size=shape)
        params[f"layer_{layer}"] = {"kernel": values.astype(np.float32), "bias": np.ones(2, np.float32)}
    return {"generator": params}


rates = st.floats(0.01, 0.99)


def prune_magnitude(params, masks, sparsity, **options):
    return prune(magnitude(params, masks), masks, sparsity, **options)


@given(networks(ties=True), st.floats(0, 0.999))
def test_global_selection_prunes_exactly_the_asked_count_even_with_ties(params, sparsity):
    masks = mask_lib.ones(params)
    weights = mask_lib.counts(masks).weights
    kept = mask_lib.counts(prune_magnitude(params, masks, sparsity)).kept
    assert kept == weights - round(sparsity * weights)


@given(networks(ties=True), st.floats(0, 0.999))
def test_layerwise_selection_prunes_exactly_the_asked_count_in_each_layer(params, sparsity):
    pruned = prune_magnitude(params, mask_lib.ones(params), sparsity, scope="layerwise")
    for layer in mask_lib.layer_counts(pruned).values():
        assert layer.kept == layer.weights - round(sparsity * layer.weights)


@given(networks(ties=True), rates)
def test_global_selection_keeps_what_a_stable_sort_keeps(params, sparsity):
    pruned = prune_magnitude(params, mask_lib.ones(params), sparsity)
    flat = np.concatenate([np.abs(layer["kernel"]).ravel() for layer in params["generator"].values()])
    expected = np.zeros(flat.size, bool)
    expected[np.argsort(-flat, kind="stable")[: flat.size - round(sparsity * flat.size)]] = True
    np.testing.assert_array_equal(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(pruned)]), expected)


@given(networks(ties=True), st.lists(rates, min_size=2, max_size=5))
def test_masks_of_later_rounds_are_nested_in_earlier_ones(params, rates):
    masks, total = mask_lib.ones(params), 0.0
    for number, rate in enumerate(rates):
        total += (1 - total) * rate
        moved = jax.tree.map(lambda leaf, number=number: np.roll(leaf, number), params)
        later = prune_magnitude(moved, masks, total)
        assert mask_lib.is_nested(later, masks)
        masks = later


@given(networks(), rates)
def test_a_pruned_weight_is_exactly_zero_and_a_kept_one_untouched(params, sparsity):
    masks = prune_magnitude(params, mask_lib.ones(params), sparsity)
    effective = mask_lib.named_leaves(mask_lib.apply(params, masks))
    before = mask_lib.named_leaves(params)
    for name, mask in mask_lib.named_leaves(masks).items():
        assert np.all(effective[name][~mask] == 0)
        np.testing.assert_array_equal(effective[name][mask], before[name][mask])
    np.testing.assert_array_equal(effective["generator/layer_0/bias"], before["generator/layer_0/bias"])


@given(networks(), rates)
def test_packing_and_unpacking_gives_the_mask_back(params, sparsity):
    masks = prune_magnitude(params, mask_lib.ones(params), sparsity)
    packed = mask_lib.pack(masks)
    unpacked = mask_lib.unpack(packed, params)
    assert jax.tree.structure(unpacked) == jax.tree.structure(masks)
    jax.tree.map(np.testing.assert_array_equal, unpacked, masks)
    for name, bits in mask_lib.named_leaves(packed).items():
        assert bits.nbytes == -(-mask_lib.named_leaves(masks)[name].size // 8)


@given(networks(), rates)
def test_sparsity_density_and_distance_agree_with_counting(params, sparsity):
    dense = mask_lib.ones(params)
    masks = prune_magnitude(params, dense, sparsity)
    flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(masks)])
    everything = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert mask_lib.sparsity(masks) == pytest.approx(1 - flat.mean())
    assert mask_lib.sparsity_all(masks, params) == pytest.approx((~flat).sum() / everything)
    assert mask_lib.hamming_distance(dense, masks) == pytest.approx((~flat).mean())


@given(networks(), st.floats(0.5, 0.98))
def test_min_per_layer_keeps_a_weight_in_each_layer_and_the_exact_count(params, sparsity):
    # One layer's weights are a thousand times smaller, so that global magnitude would empty it.
    params["generator"]["layer_0"]["kernel"] *= 1e-3
    masks = mask_lib.ones(params)
    weights = mask_lib.counts(masks).weights
    n_keep = weights - round(sparsity * weights)
    if n_keep < len(params["generator"]):
        with pytest.raises(UserError, match="min_per_layer"):
            prune_magnitude(params, masks, sparsity, min_per_layer=1)
        return
    pruned = prune_magnitude(params, masks, sparsity, min_per_layer=1)
    assert mask_lib.counts(pruned).kept == n_keep
    assert all(layer.kept >= 1 for layer in mask_lib.layer_counts(pruned).values())


def test_an_emptied_layer_is_named_in_a_warning(caplog):
    params = {"generator": {"a": {"kernel": np.full(4, 0.1)}, "b": {"kernel": np.full(4, 1.0)}}}
    prune_magnitude(params, mask_lib.ones(params), 0.5)
    assert "emptied generator/a/kernel" in caplog.text


def test_the_gradient_of_a_pruned_weight_is_zero():
    params = {"generator": {"layer": {"kernel": jnp.arange(1.0, 5.0)}}}
    masks = prune_magnitude(params, mask_lib.ones(params), 0.5)

    def loss(params):
        return jnp.square(mask_lib.apply(params, masks)["generator"]["layer"]["kernel"]).sum()

    np.testing.assert_array_equal(jax.grad(loss)(params)["generator"]["layer"]["kernel"], [0, 0, 6, 8])


def test_only_kernels_are_prunable_by_default_and_patterns_choose_components_and_layers():
    layer = {"kernel": np.ones(2), "bias": np.ones(2), "scale": np.ones(2)}
    params = {"generator": {"first": layer, "last": layer}, "discriminator": {"first": layer}}
    assert set(mask_lib.named_leaves(mask_lib.ones(params))) == {
        "generator/first/kernel",
        "generator/last/kernel",
        "discriminator/first/kernel",
    }
    chosen = mask_lib.ones(params, include=["^generator/.*kernel$"], exclude=["^generator/first/"])
    assert set(mask_lib.named_leaves(chosen)) == {"generator/last/kernel"}


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [(["decoder"], [], "'decoder' matches no"), (["("], [], "regular"), (["kernel$"], ["generator"], "nothing")],
)
def test_a_pattern_that_is_wrong_or_matches_nothing_is_an_error(include, exclude, message):
    params = {"generator": {"layer": {"kernel": np.ones(2)}}}
    with pytest.raises(UserError, match=message):
        mask_lib.ones(params, include, exclude)


def test_a_sparsity_below_the_present_one_is_an_error():
    params = {"generator": {"layer": {"kernel": np.arange(10.0)}}}
    masks = prune_magnitude(params, mask_lib.ones(params), 0.5)
    with pytest.raises(UserError, match="below"):
        prune_magnitude(params, masks, 0.2)


def test_scores_that_are_not_numbers_are_an_error():
    params = {"generator": {"layer": {"kernel": np.array([1.0, np.nan])}}}
    with pytest.raises(ValueError, match="generator/layer/kernel"):
        prune_magnitude(params, mask_lib.ones(params), 0.5)


def test_sparsities_are_those_of_the_paper():
    # Kalibhat et al. 2021: 20% of the remaining weights a round, in per cent after rounds 1 to 10, 12 and 20.
    percent = [100 * sparsity for sparsity in sparsities(0.2, 20)]
    published = [20, 36, 48.8, 59.04, 67.23, 73.79, 79.03, 83.22, 86.58, 89.26]
    np.testing.assert_allclose(percent[1:11], published, atol=0.005)
    np.testing.assert_allclose([percent[12], percent[20]], [93.13, 98.85], atol=0.005)
