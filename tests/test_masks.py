"""Tests of the algebra of masks, over random pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtickets import masks as mask_lib
from jaxtickets import snapshots
from jaxtickets.errors import UserError

seeds = st.integers(0, 2**32 - 1)


@st.composite
def networks(draw, ties=False):
    """Parameters of one or two components of one to three layers, each a kernel and a bias; few values if `ties`."""
    rng = np.random.default_rng(draw(seeds))
    params = {}
    for component in ("generator", "discriminator")[: draw(st.integers(1, 2))]:
        params[component] = {}
        for layer in range(draw(st.integers(1, 3))):
            shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
            values = rng.integers(-2, 3, shape) if ties else rng.normal(size=shape)
            params[component][f"layer_{layer}"] = {"kernel": values.astype(np.float32), "bias": np.ones(2, np.float32)}
    return params


def random_masks(params, seed, density=0.5):
    """A mask in which each weight is kept with probability `density`."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.random(leaf.shape) < density, mask_lib.ones(params))


def entries(masks):
    """All entries of a mask in one vector."""
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(masks)])


@given(networks(), seeds)
def test_a_pruned_weight_is_exactly_zero_and_a_kept_one_untouched(params, seed):
    masks = random_masks(params, seed)
    effective = mask_lib.named_leaves(mask_lib.apply(params, masks))
    before = mask_lib.named_leaves(params)
    for name, mask in mask_lib.named_leaves(masks).items():
        assert np.all(effective[name][~mask] == 0)
        np.testing.assert_array_equal(effective[name][mask], before[name][mask])
    np.testing.assert_array_equal(effective["generator/layer_0/bias"], before["generator/layer_0/bias"])


@given(networks(), seeds)
def test_packing_and_unpacking_gives_the_mask_back(params, seed):
    masks = random_masks(params, seed)
    packed = mask_lib.pack(masks)
    unpacked = mask_lib.unpack(packed, params)
    assert jax.tree.structure(unpacked) == jax.tree.structure(masks)
    jax.tree.map(np.testing.assert_array_equal, unpacked, masks)
    for name, bits in mask_lib.named_leaves(packed).items():
        assert bits.nbytes == -(-mask_lib.named_leaves(masks)[name].size // 8)


@given(networks(), seeds)
def test_sparsity_density_and_distance_agree_with_counting(params, seed):
    dense, masks = mask_lib.ones(params), random_masks(params, seed)
    flat = entries(masks)
    everything = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert mask_lib.sparsity(masks) == pytest.approx(1 - flat.mean())
    assert mask_lib.sparsity_all(masks, params) == pytest.approx((~flat).sum() / everything)
    assert mask_lib.hamming_distance(dense, masks) == pytest.approx((~flat).mean())


@given(networks(), seeds, seeds)
def test_a_nested_mask_keeps_nothing_that_the_outer_one_prunes(params, first, second):
    outer = random_masks(params, first)
    other = random_masks(params, second)
    inner = jax.tree.map(np.logical_and, outer, other)
    assert mask_lib.is_nested(inner, outer)
    assert mask_lib.is_nested(outer, inner) == bool(np.all(entries(inner) == entries(outer)))
    assert mask_lib.is_nested(other, outer) == bool(np.all(entries(outer)[entries(other)]))


def test_the_gradient_of_a_pruned_weight_is_zero():
    params = {"generator": {"layer": {"kernel": jnp.arange(1.0, 5.0)}}}
    masks = {"generator": {"layer": {"kernel": np.array([False, False, True, True])}}}

    def loss(params):
        return jnp.square(mask_lib.apply(params, masks)["generator"]["layer"]["kernel"]).sum()

    np.testing.assert_array_equal(jax.grad(loss)(params)["generator"]["layer"]["kernel"], [0, 0, 6, 8])


@given(networks(), seeds, st.integers(0, 100))
def test_shuffling_keeps_the_count_of_each_layer(params, seed, shuffling):
    masks = random_masks(params, seed)
    shuffled = mask_lib.shuffle(masks, shuffling)
    assert jax.tree.structure(shuffled) == jax.tree.structure(masks)
    assert mask_lib.layer_counts(shuffled) == mask_lib.layer_counts(masks)


@given(networks(), seeds, st.integers(0, 100))
def test_shuffling_with_one_seed_keeps_nested_masks_nested(params, seed, shuffling):
    outer = random_masks(params, seed)
    inner = jax.tree.map(np.logical_and, outer, random_masks(params, seed + 1))
    both = mask_lib.shuffle(outer, shuffling), mask_lib.shuffle(inner, shuffling)
    assert mask_lib.is_nested(both[1], both[0])
    # One permutation moves both masks, so the weights on which they differ move with them.
    differing = jax.tree.map(np.not_equal, outer, inner)
    moved = jax.tree.map(np.not_equal, *both)
    jax.tree.map(np.testing.assert_array_equal, mask_lib.shuffle(differing, shuffling), moved)


def test_shuffling_is_repeatable_and_differs_between_seeds_and_layers():
    # 100 of 200 weights are kept: two random orders agree on all with a probability below 1e-58.
    kernel = np.arange(200).reshape(20, 10) < 100
    masks = {"generator": {"a": {"kernel": kernel, "bias": None}, "b": {"kernel": kernel, "bias": None}}}
    first, again, other = (mask_lib.shuffle(masks, seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    a, b = (first["generator"][layer]["kernel"] for layer in "ab")
    for different in (kernel, b, other["generator"]["a"]["kernel"]):
        assert np.any(a != different)


def test_kernels_are_prunable_by_default_and_patterns_choose_others():
    layer = {"kernel": np.ones(2), "bias": np.ones(2), "scale": np.ones(2)}
    params = {"generator": {"first": layer, "last": layer}, "discriminator": {"first": layer}}
    assert set(mask_lib.named_leaves(mask_lib.ones(params))) == {
        "generator/first/kernel",
        "generator/last/kernel",
        "discriminator/first/kernel",
    }
    chosen = mask_lib.ones(params, include=["^generator/.*kernel$"], exclude=["^generator/first/"])
    assert set(mask_lib.named_leaves(chosen)) == {"generator/last/kernel"}


def test_only_the_named_components_are_prunable():
    layer = {"kernel": np.ones(2), "bias": np.ones(2)}
    params = {"generator": {"first": layer, "last": layer}, "discriminator": {"first": layer}}
    masks = mask_lib.ones(params, exclude=["last"], components=("generator",))
    assert set(mask_lib.named_leaves(masks)) == {"generator/first/kernel"}
    everything = mask_lib.ones(params, components=("generator", "discriminator"))
    assert mask_lib.named_leaves(everything).keys() == mask_lib.named_leaves(mask_lib.ones(params)).keys()
    with pytest.raises(UserError, match="nothing to prune"):
        mask_lib.ones(params, include=["^discriminator/"], components=("generator",))


def test_two_leaves_of_one_name_are_refused_and_other_slashes_are_not():
    leaf = {"kernel": np.ones(2)}
    assert list(mask_lib.named_leaves({"a/b": leaf, "a": {"c": leaf}})) == ["a/c/kernel", "a/b/kernel"]
    for function in (mask_lib.named_leaves, mask_lib.ones):
        with pytest.raises(UserError, match="two parameters are called a/b/kernel, because keys hold slashes"):
            function({"a/b": leaf, "a": {"b": leaf}})


def test_saved_masks_come_back_whatever_the_names_hold(tmp_path):
    keys = ("mlp/~/linear", "%2F", "a\nb", "..", "", "0", "up", "up-1", "up.2", "up 3")
    keep = {key: np.arange(9).reshape(3, 3) % (number + 2) == 0 for number, key in enumerate(keys)}
    masks = {"net": {key: {"kernel": mask, "bias": None} for key, mask in keep.items()}}
    params = {"net": {key: {"kernel": np.ones((3, 3)), "bias": np.ones(3)} for key in keys}}
    snapshots.save_masks(tmp_path / "masks", masks)
    for found in (
        snapshots.restore_masks(tmp_path / "masks", masks),
        snapshots.restore_masks_raw(tmp_path / "masks", params),
    ):
        assert jax.tree.structure(found) == jax.tree.structure(masks)
        jax.tree.map(np.testing.assert_array_equal, found, masks)


@pytest.mark.parametrize(
    "bits", [np.zeros(1, np.uint8), np.zeros(3, np.uint8), np.zeros((1, 2), np.uint8), np.zeros(2)]
)
def test_bits_that_are_no_mask_of_the_shape_are_refused(bits):
    assert mask_lib.unpack({"a": np.array([255, 128], np.uint8)}, {"a": np.zeros((3, 3))})["a"].all()
    with pytest.raises(ValueError, match="are no mask of 9 weights"):
        mask_lib.unpack({"a": bits}, {"a": np.zeros((3, 3))})


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [(["decoder"], [], "'decoder' matches no"), (["("], [], "regular"), (["kernel$"], ["generator"], "nothing")],
)
def test_a_pattern_that_is_wrong_or_matches_nothing_is_an_error(include, exclude, message):
    params = {"generator": {"layer": {"kernel": np.ones(2)}}}
    with pytest.raises(UserError, match=message):
        mask_lib.ones(params, include, exclude)


def test_a_text_is_one_pattern():
    params = {"net": {"dense": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}}}
    for include, exclude, names in (("bias", (), ["net/dense/bias"]), ("dense", "bias", ["net/dense/kernel"])):
        assert list(mask_lib.named_leaves(mask_lib.ones(params, include, exclude))) == names
