"""Tests of compacted networks against masked ones: outputs, statistics, gradients and training, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config

from jaxtickets import compact, devices, models, snapshots, train
from jaxtickets import masks as mask_lib
from jaxtickets.config import get_config, validate
from jaxtickets.errors import UserError
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.optimizers import make_optimizers
from jaxtickets.pruning import channels


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(name, **options):
    # The keys of self-attention have an eighth of its channels: with a width of 16 that is more than one.
    network = models.NETWORKS[name]
    sizes = {"width": 16 if name == "sagan" else 4, "latent_size": 3, "image_size": network.image_sizes[0]}
    return network.make(**sizes, channels=1, dtype=jnp.float64, **options)


def variables(components):
    """Random `(params, batch_stats)` in float64; variances are positive."""
    rng = np.random.default_rng(0)
    params, batch_stats = jax.eval_shape(functools.partial(models.init, components), jax.random.key(0))
    return (
        jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape), params),
        jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape), batch_stats),
    )


def random_masks(params, names, seed=0):
    """Channel masks that keep between two and all but one of each name's channels, if there are three.

    A single channel is a special case: behind a spectral norm its weight has no gradient.
    """
    rng = np.random.default_rng(seed)
    return {
        component: {name: rng.permutation(n) < rng.integers(2, max(3, n)) for name, n in sizes.items()}
        for component, sizes in channels.groups(params, names.params).items()
    }


def counts(channel_masks):
    return jax.tree.map(lambda mask: int(mask.sum()), channel_masks)


def within(first, second):
    """The channel masks of the whole network that prune by `first`, then what is left by `second`."""

    def both(outer, inner):
        outer = outer.copy()
        outer[outer] = inner
        return outer

    return jax.tree.map(both, first, second)


def assert_close(ours, expected, rtol=1e-10, atol=1e-13):
    ours, expected = mask_lib.named_leaves(ours), mask_lib.named_leaves(expected)
    assert ours.keys() == expected.keys()
    for path, leaf in expected.items():
        assert ours[path].dtype == leaf.dtype, path
        # The exact gradient of a bias in front of a batch norm is zero; what is computed is rounding errors.
        is_zero = path.startswith("generator/") and path.endswith("conv_2/bias")
        np.testing.assert_allclose(ours[path], leaf, rtol=rtol, atol=10 * atol if is_zero else atol, err_msg=path)


def passes(components, name, params, batch_stats, masks):
    """`(outputs in evaluation, outputs in training, moved batch statistics, gradients)` of one component."""
    component = components[name]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, *component.input_shape))
    labels = np.arange(3) % component.classes if component.classes else None

    @jax.jit
    def run(params, batch_stats, masks):
        def train_pass(params):
            effective = {name: mask_lib.apply(params, masks)}
            return models.apply(components, effective, {name: batch_stats}, name, x, True, labels)

        effective = {name: mask_lib.apply(params, masks)}
        evaluated, _ = models.apply(components, effective, {name: batch_stats}, name, x, False, labels)
        trained, pullback, moved = jax.vjp(train_pass, params, has_aux=True)
        (gradients,) = pullback(jnp.asarray(rng.normal(size=trained.shape)))
        return evaluated, trained, moved[name], gradients

    return jax.device_get(run(params[name], batch_stats[name], masks[name]))


def reading(field):
    """The names of the networks that read a field of `config.model`."""
    return [name for name, network in models.NETWORKS.items() if field in [own.name for own in network.fields]]


def own_norm(name):
    """The norm of a network's discriminator where the config asks for none."""
    sizes = {"width": 4, "latent_size": 3, "image_size": models.NETWORKS[name].image_sizes[0]}
    return models.discriminator_norm({"name": name, **sizes})


# `(name, options, the component to check, or None: all of them)` of each case.
CASES = {name: (name, {}, None) for name in models.NETWORKS}
CASES |= {
    f"{name}, {norm}": (name, {"discriminator_norm": norm}, "discriminator")
    for name in reading("model.discriminator_norm")
    for norm in models.NORMS
    if norm != own_norm(name)
}
CASES |= {f"{name}, conditional": (name, {"classes": 2}, None) for name in reading("model.conditional")}
CASES["sngan_resnet, conditional, layer"] = (
    *("sngan_resnet", {"classes": 2, "discriminator_norm": "layer"}),
    "discriminator",
)

# Every kind of layer is always tested; networks of the same layers, and combinations, are slow tests.
TWINS = ("linear_vae", "conv_vae", "sngan_resnet_vae", "resnet_vae")
ALWAYS = (*(name for name in models.NETWORKS if name not in TWINS), "dcgan, layer", "sngan_resnet, conditional")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in ALWAYS else [pytest.mark.slow]) for case in CASES]
)
def test_a_compacted_network_computes_what_the_masked_one_computes(case):
    name, options, only = CASES[case]
    components = build(name, **options)
    names, (params, batch_stats) = models.axis_names(components), variables(components)
    # Twice, so that a compacted network is compacted too.
    first = random_masks(params, names, seed=1)
    once = compact.take(params, first, names.params)
    second = random_masks(once, names, seed=2)
    masks = within(first, second)
    smaller = models.narrow(components, counts(masks))
    assert models.axis_names(smaller) == names
    small_params = compact.take(once, second, names.params)
    small_stats = compact.take(batch_stats, masks, names.batch_stats)
    assert_close(small_params, compact.take(params, masks, names.params), rtol=0, atol=0)
    assert models.parameter_count(smaller) == sum(leaf.size for leaf in jax.tree.leaves(small_params))

    weight_masks = channels.to_weight_masks(masks, params, names.params)
    masked_stats = mask_lib.apply(batch_stats, channels.to_weight_masks(masks, batch_stats, names.batch_stats))
    dense = jax.tree.map(lambda _: None, small_params)
    for component in [only] if only else components.keys() - {"codebook"}:
        assert not all(mask.all() for mask in masks[component].values())
        masked = passes(components, component, params, masked_stats, weight_masks)
        ours = passes(smaller, component, small_params, small_stats, dense)
        assert_close(ours[:2], masked[:2])
        for tree, expected, axes in zip(ours[2:], masked[2:], (names.batch_stats, names.params), strict=True):
            assert_close({component: tree}, compact.take({component: expected}, masks, axes))
        gradients = masked[3]
        assert_close(mask_lib.apply(gradients, weight_masks[component]), gradients, rtol=0, atol=0)


def test_exactly_the_pruned_channels_are_zero_behind_their_norms():
    components = build("resnet_dcgan")
    names, (params, batch_stats) = models.axis_names(components), variables(components)
    masks = random_masks(params, names)
    effective = mask_lib.apply(params, channels.to_weight_masks(masks, params, names.params))
    module = components["discriminator"].module
    _, seen = module.apply(
        {"params": effective["discriminator"], "batch_stats": batch_stats["discriminator"]},
        np.random.default_rng(0).normal(size=(2, 16, 16, 1)),
        train=True,
        mutable=["intermediates", "batch_stats", "kernel_uses"],
        capture_intermediates=lambda part, _: (part.name or "").startswith("norm"),
    )
    blocks = seen["intermediates"]
    for block, norm, channel in (
        ("down_8", "norm_1", "down_16"),
        ("down_8", "norm_2", "down_8/hidden"),
        ("down_16", "norm_1", "stem"),
    ):
        (normed,) = blocks[block][norm]["__call__"]
        kept = masks["discriminator"][channel]
        assert not kept.all()
        np.testing.assert_array_equal(np.any(normed != 0, axis=(0, 1, 2)), kept)


def test_the_parameters_of_a_compacted_dcgan_are_counted_by_hand():
    components = build("dcgan")
    smaller = models.narrow(
        components, {"generator": {"unproject": 5, "up_8": 3}, "discriminator": {"down_16": 1, "down_8": 7}}
    )
    generator = 16 * (3 * 5 + 5 * 3 + 3 * 1) + 2 * (5 + 3) + 1
    discriminator = 16 * (1 * 1 + 1 * 7 + 7 * 1) + 1 + 2 * 7 + 1
    assert models.parameter_count(smaller) == generator + discriminator


def test_names_that_are_left_out_keep_all_channels():
    components = build("dcgan")
    names, (params, _) = models.axis_names(components), variables(components)
    masks = {"generator": {"up_8": np.array([True, False, False, True])}}
    taken = compact.take(params, masks, names.params)
    assert_close(taken["discriminator"], params["discriminator"], rtol=0, atol=0)
    np.testing.assert_array_equal(
        taken["generator"]["up_8"]["conv"]["kernel"], params["generator"]["up_8"]["conv"]["kernel"][..., [0, 3]]
    )
    np.testing.assert_array_equal(
        taken["generator"]["up_16"]["conv"]["kernel"], params["generator"]["up_16"]["conv"]["kernel"][:, :, [0, 3]]
    )
    weights = mask_lib.ones(params)
    assert jax.tree.structure(compact.take(weights, masks, names.params)) == jax.tree.structure(weights)
    with pytest.raises(UserError, match=r"4 channels of up_8 and a channel mask of shape \(2,\)"):
        compact.take(params, {"generator": {"up_8": np.ones(2, bool)}}, names.params)


# Train states.

# The objective, the network, `config.objective`, the network's options, and whether movement is tracked.

GAMES = {
    "gan": ("gan", "dcgan", {"ema_decay": 0.5}, {"discriminator_norm": "spectral"}, False),
    "vae": ("vae", "conv_vae", {}, {}, True),
}


def game(name, channel_counts=None):
    """`(objective, optimizers)`, compacted if there are counts."""
    objective_name, model, options, network, _ = GAMES[name]
    config = get_config()
    config.objective.update(options)
    config.optimizer.update(learning_rate=1e-2, weight_decay=1e-3)
    components = models.narrow(build(model, axis_name=devices.AXIS, **network), channel_counts or {})
    objective = OBJECTIVES[objective_name].make(components, config)
    return objective, make_optimizers(objective, config.optimizer)


def step(objective, optimizers):
    """`step(state, masks) -> state`, compiled, on one batch of noise."""
    compiled = train.make_step(objective, optimizers, tuple(objective.players))
    n = jax.local_device_count()
    data = (np.random.default_rng(0).integers(0, 256, (4 * n, 16, 16, 1), dtype=np.uint8), None)

    def run(state, masks):
        indices = np.arange(4 * n, dtype=np.int32).reshape(n, 4)
        return devices.unreplicate(compiled(*map(devices.replicate, (state, masks, data)), indices)[0])

    return run


@functools.cache
def trained(name):
    """`(before, after, small, small_after, axis names, channel masks)`.

    `before` and `after` are masked states after one step and two, `small` is `before` compacted, `small_after` the
    state one step later.
    """
    with jax.enable_x64(True):
        objective, optimizers = game(name)
        state = jax.device_get(train.init_state(objective, optimizers, 0, track_movement=GAMES[name][-1]))
        is_float = lambda leaf: np.issubdtype(leaf.dtype, np.floating)  # noqa: E731
        state = jax.tree.map(lambda leaf: leaf.astype(np.float64) if is_float(leaf) else leaf, state)
        names = models.axis_names(objective.components)
        masks = random_masks(state.params, names)
        weight_masks = channels.to_weight_masks(masks, state.params, names.params)
        masked_step = step(objective, optimizers)
        before = masked_step(train.rewind(state, weight_masks), weight_masks)
        after = masked_step(before, weight_masks)
        small = compact.compact(before, masks, names)
        small_after = step(*game(name, counts(masks)))(small, jax.tree.map(lambda _: None, small.params))
        return before, after, small, small_after, names, masks


@pytest.mark.parametrize("name", GAMES)
def test_a_step_after_compaction_is_that_of_the_masked_network(name):
    before, after, small, small_after, names, masks = trained(name)
    assert_close(small_after, compact.compact(after, masks, names))
    assert {leaf.dtype for leaf in jax.tree.leaves(small_after.params)} == {np.dtype("float64")}
    for state in (before, after):  # Whatever compaction leaves out is zero.
        for tree in (state.params, state.movement or state.average["params"]):
            tree_masks = channels.to_weight_masks(masks, tree, names.params)
            assert_close(mask_lib.apply(tree, tree_masks), tree, rtol=0, atol=0)
    assert small_after.step == 2
    moved = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (small.params, small_after.params)), strict=True)]
    assert all(moved)


@pytest.mark.parametrize("name", GAMES)
def test_a_compacted_state_has_the_shapes_of_the_smaller_network(name, tmp_path):
    _, _, small, *_, masks = trained(name)
    init = functools.partial(train.init_state, *game(name, counts(masks)), 0, track_movement=GAMES[name][-1])
    like = jax.eval_shape(init)
    assert jax.tree.structure(like) == jax.tree.structure(small)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(lambda leaf: leaf.shape, like)
    snapshots.save(tmp_path / "state", small)
    assert_close(snapshots.restore(tmp_path / "state", small), small, rtol=0, atol=0)


# Configs.


def test_the_compacted_config_builds_the_smaller_network():
    config = load_config("gan_digits")
    components = models.build(config.model, 1, 0)
    names, (params, _) = models.axis_names(components), variables(components)
    config.model.channels = {"generator": {"up_8": 48}, "discriminator": {"down_8": 90}}
    masks = random_masks(params, names)
    del masks["discriminator"]["down_8"]
    smaller = compact.compacted_config(config, masks)
    expected = counts(masks)
    expected["discriminator"]["down_8"] = 90
    assert smaller.model.channels.to_dict() == expected
    assert config.model.channels.generator.up_8 == 48
    validate(smaller, 1)
    built = models.build(smaller.model, 1, 0)
    masks["discriminator"]["down_8"] = np.arange(96) < 90
    shapes = jax.eval_shape(functools.partial(models.init, built), jax.random.key(0))[0]
    taken = compact.take(params, masks, names.params)
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(np.shape, taken)
