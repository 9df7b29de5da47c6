"""`jt.masked` and `jt.sparsify`: pruning as Optax transformations, and selection within compiled steps."""

import math
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, environment

import jaxtickets as jt
from jaxtickets import UserError
from jaxtickets.pruning.regrowth import drop_and_grow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8)).astype(np.float32)
STRUCTURES = ["weight", "filter", "block:2x2", "2:4"]


class Layer(NamedTuple):
    kernel: Any
    bias: Any


def network(seed=0):
    """A network of two layers in a list, with a `None`; its kernels have the shapes [8, 16] and [16, 4]."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return [Layer(draw(8, 16), draw(16)), None, {"out": Layer(draw(16, 4), None)}]


def loss(params, x=X):
    first, _, rest = params
    return jnp.square(jnp.tanh(x @ first.kernel + first.bias) @ rest["out"].kernel - 1).mean()


PARAMS = network()
WEIGHTS = 8 * 16 + 16 * 4


def training(tx, steps, params=PARAMS, state=None):
    """`[(params, optimiser state)]` after 0, 1, ... steps of gradient descent through `tx`, compiled once."""

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    found = [(params, tx.init(params) if state is None else state)]
    for _ in range(steps):
        found.append(step(*found[-1]))
    assert step._cache_size() == 1
    return found


def leaves(tree):
    return list(map(np.asarray, jax.tree.leaves(tree)))


def pruned(tree, masks):
    """What the masks prune of a tree like the parameters, as one flat array."""
    kept = jt.masks.named_leaves(masks)
    return np.concatenate([np.asarray(leaf)[~np.asarray(kept[name])] for name, leaf in of_masks(tree, masks).items()])


def of_masks(tree, masks):
    named = jt.masks.named_leaves(tree)
    return {name: named[name] for name in jt.masks.named_leaves(masks)}


def trees_equal(first, second):
    return jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), first, second))


# Selection within a compiled function.


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("scope", ["global", "layerwise", "erk"])
def test_selection_within_a_compiled_function_gives_the_same_masks(structure, scope):
    how = {"scope": scope, "structure": structure, "min_per_layer": 2}
    dense = jt.masks.ones(PARAMS)
    compiled = jax.jit(lambda scores, masks: jt.prune(scores, masks, 0.5, **how))
    is_shared = scope == "erk" and structure != "2:4"  # By what each layer has left, which must be known.
    for seed in range(4 if is_shared else 15):
        rng = np.random.default_rng(seed)
        # Whole numbers: there are many ties, and their sums are exact. -0.0 is no less than 0.0.
        scores = jax.tree.map(lambda mask, rng=rng: rng.integers(-3, 4, mask.shape) * np.float32(-0.5), dense)
        outer = dense if seed % 2 else jt.prune(scores, dense, 0.25, "global")
        if is_shared:
            found = jax.jit(lambda scores, outer=outer: jt.prune(scores, outer, 0.5, **how))(scores)
        else:
            found = compiled(scores, outer)
        assert trees_equal(found, jt.prune(scores, outer, 0.5, **how)), seed


def test_one_filter_of_each_layer_stays_within_a_compiled_function_too():
    params = {name: {"kernel": scale * np.ones((4, 4), np.float32)} for name, scale in (("a", 1), ("b", 2), ("c", 3))}
    dense = jt.masks.ones(params)
    prune = lambda scores: jt.prune(scores, dense, 0.6, structure="filter")  # noqa: E731
    found = jax.jit(prune)(jt.magnitude(params, dense))
    assert [kept for _, kept in jt.masks.layer_counts(found).values()] == [4, 4, 12]
    assert trees_equal(found, prune(jt.magnitude(params, dense)))


def test_selection_of_filters_along_given_axes_within_a_compiled_function_gives_the_same_masks():
    params = {"conv": {"weight": RNG.normal(size=(6, 4, 3, 3)).astype(np.float32)}}
    dense = jt.masks.ones(params)
    for structure in STRUCTURES:
        how = {"structure": structure, "axes": lambda path: (1, 0)}
        expected = jt.prune(jt.magnitude(params, dense), dense, 0.5, **how)
        found = jax.jit(lambda params, how=how: jt.prune(jt.magnitude(params, dense), dense, 0.5, **how))(params)
        assert trees_equal(found, expected), structure


# Schedules.


def test_a_scope_that_is_unknown_is_refused_at_once():
    with pytest.raises(
        UserError, match=r"^scope: 'globl' is unknown; did you mean 'global'\?; allowed: global, compon"
    ):
        jt.schedules.gradual(0.5, 0, 10, 2, scope="globl")


def test_gradual_pruning_follows_the_cubic_formula_of_zhu_and_gupta():
    start, stop, every, initial, final = 3, 33, 5, 0.1, 0.9
    tx = jt.sparsify(optax.sgd(0.01), jt.schedules.gradual(final, start, stop, every, initial=initial))
    for step, (_, state) in enumerate(training(tx, 40)[1:]):
        last = min(stop, start + (step - start) // every * every)  # The last change before this update or at it.
        expected = 0.0 if step < start else final + (initial - final) * (1 - (last - start) / (stop - start)) ** 3
        kept = jt.masks.counts(jt.masks_of(state)).kept
        assert kept == WEIGHTS - round(expected * WEIGHTS), step


@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
def test_gradual_pruning_begins_at_the_sparsity_of_given_masks(scope):
    dense = jt.masks.ones(PARAMS)
    masks = jt.prune(jt.magnitude(PARAMS, dense), dense, 0.25)
    tx = jt.sparsify(optax.sgd(0.01), jt.schedules.gradual(0.75, 2, 10, 4, scope=scope), masks=masks)
    kept = [jt.masks.counts(jt.masks_of(state)).kept for _, state in training(tx, 12)]
    half_way = 0.75 - 0.5 * (1 - 0.5) ** 3  # Zhu and Gupta's cubic from 0.25 to 0.75.
    assert kept == [144] * 7 + [WEIGHTS - round(half_way * WEIGHTS)] * 4 + [48] * 2


def test_masks_of_the_final_sparsity_stay_though_their_count_is_rounded_up():
    dense = jt.masks.ones(PARAMS)
    masks = jt.prune(jt.magnitude(PARAMS, dense), dense, 0.3)
    assert jt.masks.sparsity(masks) > 0.3
    (_, state) = training(jt.sparsify(optax.sgd(0.01), jt.schedules.gradual(0.3, 0, 2, 1), masks=masks), 3)[-1]
    assert trees_equal(jt.masks_of(state), masks)


def test_an_initial_sparsity_that_is_given_is_kept_with_masks_too():
    dense = jt.masks.ones(PARAMS)
    masks = jt.prune(jt.magnitude(PARAMS, dense), dense, 0.25)
    tx = jt.sparsify(optax.sgd(0.01), jt.schedules.gradual(0.75, 0, 8, 4, initial=0.5), masks=masks)
    assert [jt.masks.counts(jt.masks_of(state)).kept for _, state in training(tx, 1)] == [144, 96]


def test_gradual_pruning_ends_at_its_last_step_also_where_the_interval_does_not_divide_it():
    tx = jt.sparsify(optax.sgd(0.01), jt.schedules.gradual(0.9, 0, 7, 3))
    kept = [jt.masks.counts(jt.masks_of(state)).kept for _, state in training(tx, 9)]
    assert kept[4:] == [51, 51, 51, 20, 19, 19]


def numpy_prune(values, n_keep):
    """The mask of the `n_keep` largest absolute values of a list of arrays."""
    flat = np.concatenate([np.abs(value).ravel() for value in values])
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[:n_keep]] = True
    return [part.reshape(value.shape) for part, value in zip(np.split(mask, [values[0].size]), values, strict=True)]


def test_one_shot_pruning_keeps_the_largest_weights_of_its_step():
    tx = jt.sparsify(optax.sgd(0.01), jt.schedules.one_shot(0.75, 4))
    found = training(tx, 6)
    assert jt.masks.sparsity(jt.masks_of(found[4][1])) == 0
    before = [found[4][0][0].kernel, found[4][0][2]["out"].kernel]
    assert trees_equal(leaves(jt.masks_of(found[5][1])), numpy_prune(before, WEIGHTS // 4))
    assert trees_equal(jt.masks_of(found[5][1]), jt.masks_of(found[6][1]))


def test_a_static_mask_is_the_random_mask_of_prune():
    tx = jt.sparsify(optax.adam(0.01), jt.schedules.static(0.8, seed=3))
    dense = jt.masks.ones(PARAMS)
    expected = jt.prune(jt.pruning.random(PARAMS, dense, 3), dense, 0.8, "erk")
    for _, state in training(tx, 3):
        assert trees_equal(jt.masks_of(state), expected)


def numpy_rigl(weights, gradient, mask, n):
    """One change of a layer's mask, by Evci et al. 2020, algorithm 1, written with sorted lists."""
    kept = sorted(np.flatnonzero(mask), key=lambda place: (-abs(weights.flat[place]), place))
    stay = set(kept[: len(kept) - n])
    absent = [place for place in range(mask.size) if place not in stay]
    grown = sorted(absent, key=lambda place: (-abs(gradient.flat[place]), place))[:n]
    result = np.zeros(mask.size, bool)
    result[[*stay, *grown]] = True
    return result.reshape(mask.shape)


def test_rigl_drops_and_grows_as_an_independent_version_does():
    every, stop, fraction = 4, 22, 0.4
    tx = jt.sparsify(optax.sgd(0.05), jt.schedules.rigl(0.7, every, stop, fraction=fraction))
    found, gradients = training(tx, 26), jax.jit(jax.grad(loss))
    changes = 0
    for step, ((params, state), (after, new)) in enumerate(zip(found, found[1:], strict=False)):
        masks = leaves(jt.masks_of(state))
        if step >= every and (step % every == 0 or step == stop) and step <= stop:
            params = jt.masks.apply(params, jt.masks_of(state))
            share = fraction / 2 * (1 + math.cos(math.pi * step / stop))
            weights, grads = (leaves(of_masks(tree, jt.masks_of(state))) for tree in (params, gradients(params)))
            counts = [round(share * int(mask.sum())) for mask in masks]
            expected = list(map(numpy_rigl, weights, grads, masks, counts))
            changes += any(counts)
            # What has come is zero, and what stays has not moved.
            both = jt.masks.apply(params, jt.masks_of(new))
            assert trees_equal(of_masks(after, jt.masks_of(new)), of_masks(both, jt.masks_of(new)))
        else:
            expected = masks
        assert trees_equal(leaves(jt.masks_of(new)), expected), step
    assert changes == 4  # From step 20 on the share is less than half a weight.


def test_set_keeps_the_largest_weights_and_the_number_of_weights_of_each_layer():
    tx = jt.sparsify(optax.sgd(0.05), jt.schedules.sparse_evolutionary(0.7, 5, 20, fraction=0.5))
    found = training(tx, 20)
    counts = {tuple(jt.masks.layer_counts(jt.masks_of(state)).values()) for _, state in found}
    assert len(counts) == 1
    (before, state), (_, new) = found[5], found[6]
    masks = jt.masks_of(new)
    old, now, weights = (leaves(of_masks(tree, masks)) for tree in (jt.masks_of(state), masks, before))
    for was, own, weight in zip(old, now, weights, strict=True):
        dropped = np.abs(weight)[was & ~own]
        assert dropped.size and dropped.max() <= np.abs(weight)[was & own].max()
        assert (own & ~was).any()


def test_regrowth_within_a_step_is_that_of_drop_and_grow():
    schedule = jt.schedules.rigl(0.5, 1, 10, fraction=0.3, growth=lambda params, masks: jt.magnitude(other, masks))
    other = network(1)
    (_, state), (_, new) = training(jt.sparsify(optax.sgd(0.0), schedule), 2)[1:]
    masks = jt.masks_of(state)
    params = jt.masks.apply(PARAMS, masks)
    share = jt.pruning.cosine(0.3, 1 / 10)
    assert trees_equal(jt.masks_of(new), drop_and_grow(params, masks, jt.magnitude(other, masks), share))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_are_pruned_within_a_step_as_prune_does(structure):
    tx = jt.sparsify(optax.sgd(0.0), jt.schedules.one_shot(0.5, structure=structure))
    dense = jt.masks.ones(PARAMS)
    expected = jt.prune(jt.magnitude(PARAMS, dense), dense, 0.5, structure=structure)
    assert trees_equal(jt.masks_of(training(tx, 1)[1][1]), expected)


def test_scores_read_the_gradients_that_the_transformation_is_given():
    tx = jt.sparsify(optax.sgd(0.0), jt.schedules.one_shot(0.5, score=jt.schedules.saliency))
    dense = jt.masks.ones(PARAMS)
    weights, gradients = (leaves(of_masks(tree, dense)) for tree in (PARAMS, jax.grad(loss)(PARAMS)))
    values = [weight * own for weight, own in zip(weights, gradients, strict=True)]
    assert trees_equal(leaves(jt.masks_of(training(tx, 1)[1][1])), numpy_prune(values, WEIGHTS // 2))


# What every transformation promises.

SCHEDULES = {
    "gradual": jt.schedules.gradual(0.9, 1, 9, 2),
    "random": jt.schedules.gradual(0.5, 1, 9, 2, score=jt.schedules.random, scope="uniform"),
    "one_shot": jt.schedules.one_shot(0.6, 3, scope="erk"),
    "rigl": jt.schedules.rigl(0.7, 2, 8),
    "set": jt.schedules.sparse_evolutionary(0.7, 2, 8),
    "2:4": jt.schedules.one_shot(0.5, 2, structure="2:4"),
}
WRAPPERS = {
    "chain": lambda schedule: optax.chain(optax.clip_by_global_norm(1.0), jt.sparsify(optax.adamw(0.02), schedule)),
    "injected": lambda schedule: optax.inject_hyperparams(lambda rate: jt.sparsify(optax.adam(rate), schedule))(0.02),
    "inside": lambda schedule: jt.sparsify(optax.inject_hyperparams(optax.adam)(0.02), schedule),
    "two steps": lambda schedule: optax.MultiSteps(jt.sparsify(optax.adam(0.02), schedule), 2),
}


def moments(state):
    """The trees of first and second moments, wherever they stand."""
    is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)  # noqa: E731
    (found,) = [node for node in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(node)]
    return found.mu, found.nu


CASES = [("chain", name) for name in SCHEDULES] + [(wrapper, "rigl") for wrapper in WRAPPERS if wrapper != "chain"]


@pytest.mark.parametrize(("wrapper", "name"), CASES)
def test_pruned_weights_and_their_moments_are_zero_after_each_update(wrapper, name):
    found = training(WRAPPERS[wrapper](SCHEDULES[name]), 12)[2:]
    for params, state in found:
        masks = jt.masks_of(state)
        for tree in (params, *moments(state)):
            assert not pruned(tree, masks).any()
    assert jt.masks.sparsity(masks) > 0.45
    assert not trees_equal(found[-1][0], found[-2][0]) or wrapper == "two steps"


def test_a_masked_optimiser_trains_as_one_whose_loss_has_the_masks():
    dense = jt.masks.ones(PARAMS)
    masks = jt.prune(jt.magnitude(PARAMS, dense), dense, 0.6)
    start = jt.masks.apply(PARAMS, masks)
    ours, _ = training(jt.masked(optax.adam(0.02), masks), 5, start)[-1]
    plain, theirs = optax.adam(0.02), start
    state = plain.init(theirs)
    gradients = jax.grad(lambda params: loss(jt.masks.apply(params, masks)))
    step = jax.jit(lambda params, state: plain.update(gradients(params), state))
    for _ in range(5):
        updates, state = step(theirs, state)
        theirs = optax.apply_updates(theirs, updates)
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["gradual", "rigl"])
def test_two_networks_in_one_program_are_pruned_as_each_by_itself(name):
    tx = jt.sparsify(optax.adam(0.02), SCHEDULES[name])
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), network(0), network(1))

    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, together = jax.vmap(tx.init)(both), jax.jit(jax.vmap(step))
    for _ in range(6):
        both, state = together(both, state)
    for seed in (0, 1):
        params, own = training(tx, 6, network(seed))[-1]
        assert trees_equal(jax.tree.map(lambda leaf, seed=seed: leaf[seed], jt.masks_of(state)), jt.masks_of(own))
        np.testing.assert_allclose(both[0].kernel[seed], params[0].kernel, rtol=1e-4, atol=1e-6)


DEVICES = """
import sys
from functools import partial
sys.path.insert(0, "tests")
from test_sparsify import *

tx, devices = jt.sparsify(optax.adam(0.02), SCHEDULES["gradual"]), jax.local_device_count()

@partial(jax.pmap, axis_name="devices")
def step(params, state, x):
    gradients = jax.lax.pmean(jax.grad(loss)(params, x), "devices")
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

params, state = jax.tree.map(lambda leaf: jnp.stack([leaf] * devices), (PARAMS, tx.init(PARAMS)))
for _ in range(6):
    params, state = step(params, state, X.reshape(devices, -1, 8))
found = jax.tree.map(lambda leaf: leaf[0], jt.masks_of(state))
assert all((mask == mask[0]).all() for mask in leaves(jt.masks_of(state)))
assert not pruned(params, jt.masks_of(state)).any()
print(devices, trees_equal(found, jt.masks_of(training(tx, 6)[-1][1])))
"""


@pytest.mark.slow
def test_devices_that_share_a_batch_have_the_masks_of_one_device():
    command = [sys.executable, "-c", DEVICES]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(2))
    assert (result.stdout, result.stderr) == ("2 True\n", "")


def test_transformations_of_different_leaves_can_be_nested():
    inner = jt.sparsify(optax.adam(0.02), jt.schedules.one_shot(0.75), include=["^0/"], exclude=["bias"])
    tx = jt.sparsify(inner, jt.schedules.one_shot(0.25, 2), include=["out/"])
    params, state = training(tx, 4)[-1]
    counts = jt.masks.layer_counts(jt.masks_of(state))
    assert {name: kept for name, (_, kept) in counts.items()} == {"0/kernel": 32, "2/out/kernel": 48}
    assert not pruned(params, jt.masks_of(state)).any()


# Straight through.


def test_gradients_pass_straight_through_the_masks():
    dense = jt.masks.ones(PARAMS)
    masks = jt.prune(jt.magnitude(PARAMS, dense), dense, 0.6)
    effective = jt.masks.apply(PARAMS, masks)
    assert trees_equal(jt.straight_through(PARAMS, masks), effective)

    def through(params):
        return loss(jt.straight_through(params, jt.prune(jt.magnitude(params, dense), dense, 0.6)))

    assert trees_equal(jax.jit(jax.grad(through))(PARAMS), jax.jit(jax.grad(loss))(effective))


# Rewinding.


def test_rewinding_zeroes_what_is_shaped_like_the_pruned_weights_and_nothing_else():
    dense = jt.masks.ones(PARAMS)
    masks = jt.prune(jt.magnitude(PARAMS, dense), dense, 0.5)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    tx = optax.chain(optax.masked(optax.adam(0.1), jax.tree.map(lambda leaf: leaf.ndim > 1, PARAMS)), optax.ema(0.9))
    state = jax.tree.map(jnp.ones_like, tx.init(PARAMS))
    rewound = jt.rewind({"params": ones, "moments": state, "epoch": 7, "other": jnp.ones((8, 16))}, masks)
    adam, ema = rewound["moments"][0].inner_state[0], rewound["moments"][1].ema
    for tree in (rewound["params"], adam.mu, adam.nu, ema):
        assert not pruned(tree, masks).any()
        assert sum(leaf.sum() for leaf in leaves(of_masks(tree, masks))) == jt.masks.counts(masks).kept
    assert (rewound["epoch"], rewound["other"].sum(), rewound["params"][0].bias.sum()) == (7, 128, 16)
    assert isinstance(adam.mu[0].bias, optax.MaskedNode)


def test_rewinding_knows_replicated_states_and_leaves_factored_moments():
    masks = {"kernel": np.array([[True, False]]), "bias": None}
    copies = {"kernel": np.ones((3, 1, 2)), "bias": np.ones((3, 2))}
    state = {"copies": copies, "rows": {"kernel": np.ones(2), "bias": 0}}
    rewound = jt.rewind(state, masks)
    np.testing.assert_array_equal(rewound["copies"]["kernel"], [[[1, 0]]] * 3)
    assert rewound["rows"]["kernel"].sum() == 2 and rewound["copies"]["bias"].sum() == 6


# Mistakes.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jt.schedules.gradual(90, 0, 10, 1), "sparsity: 90: allowed is a number from 0 to below 1"),
        (lambda: jt.schedules.gradual(0.9, 10, 5, 1), "stop: 5: allowed is a whole number of at least 10"),
        (
            lambda: jt.schedules.gradual(0.5, 0, 10, 1, initial=0.6),
            "initial: 0.6: allowed is at most",
        ),
        (lambda: jt.schedules.gradual(0.5, 0, 9, 1, structure="2:4"), "structure: N:M has one sparsity"),
        (lambda: jt.schedules.one_shot(0.5, structure="3"), "structure: '3' is unknown"),
        (lambda: jt.schedules.one_shot(0.5, score=jt.snip), "score: losses is not known within a train step"),
        (lambda: jt.schedules.rigl(0.5, 10, 5), "stop: 5: allowed is a whole number of at least 10"),
        (
            lambda: jt.schedules.rigl(0.5, 5, 10, scope="global"),
            "scope: 'global': allowed are erk, uniform",
        ),
        (lambda: jt.schedules.rigl(0.5, 5, 10, structure="filter"), "structure: 'filter': allowed is weight"),
        (lambda: jt.sparsify(optax.sgd(1), 0.9), "schedule: 0.9: allowed is one of jt.schedules"),
        (lambda: jt.masks_of(optax.sgd(1).init(PARAMS)), "opt_state: there are no masks in it"),
    ],
)
def test_what_can_not_be_is_refused_in_a_line(make, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        make()
    assert "\n" not in str(caught.value)


HALF = jt.prune(jt.magnitude(PARAMS, jt.masks.ones(PARAMS)), jt.masks.ones(PARAMS), 0.5)
SMALLER = [Layer(np.ones((2, 2), bool), None), None, {"out": Layer(None, None)}]


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (jt.schedules.one_shot(0.999), {}, "sparsity: 0.999 leaves none of 192 weights"),
        (jt.schedules.one_shot(0.5), {"include": ["nothing"]}, "include: 'nothing' matches no parameter"),
        (jt.schedules.one_shot(0.5, structure="filter"), {"include": ["bias"]}, None),
        (
            jt.schedules.one_shot(0.5),
            {"masks": {"kernel": np.ones(3, bool)}},
            "masks: is built unlike params",
        ),
        (
            jt.schedules.gradual(0.25, 0, 4, 2),
            {"masks": HALF},
            r"masks: they prune 0.5 already; allowed is at most the final sparsity of the schedule, 0.25",
        ),
        (jt.schedules.one_shot(0.5), {"masks": HALF, "include": ["kernel"]}, "masks, include: both are given; allowed"),
        (jt.schedules.one_shot(0.5), {"masks": HALF, "exclude": ["bias"]}, "masks, exclude: both are given; allowed"),
        (jt.schedules.one_shot(0.5), {"masks": SMALLER}, r"masks: that of 0/kernel has the shape \(2, 2\); allowed is"),
    ],
)
def test_what_the_parameters_do_not_allow_is_refused_when_the_state_is_made(schedule, options, message):
    if message is None:
        jt.sparsify(optax.sgd(1), schedule, **options).init(PARAMS)
        return
    with pytest.raises(UserError, match=f"^{message}"):
        jt.sparsify(optax.sgd(1), schedule, **options).init(PARAMS)


def test_the_begin_of_gradual_pruning_is_asked_for_where_masks_are_traced():
    gradual = jt.schedules.gradual
    make = lambda schedule: jax.jit(lambda masks: jt.sparsify(optax.sgd(1), schedule, masks=masks).init(PARAMS))  # noqa: E731
    with pytest.raises(UserError, match=r"^masks: within a compiled .* allowed is gradual\(..., initial=...\)"):
        make(gradual(0.9, 0, 4, 2))(HALF)
    assert trees_equal(jt.masks_of(make(gradual(0.9, 0, 4, 2, initial=0.5))(HALF)), HALF)


def test_an_update_without_parameters_is_refused():
    tx = jt.masked(optax.sgd(1), jt.masks.ones(PARAMS))
    with pytest.raises(UserError, match="params: pruning needs them"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_masks_of_several_transformations_for_different_leaves_are_put_together():
    params = {"a": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}, "b": {"kernel": jnp.ones((4, 4))}}
    txs = {level: jt.sparsify(optax.sgd(0.1), jt.schedules.static(level)) for level in (0.5, 0.25)}
    state = optax.multi_transform(txs, {"a": 0.5, "b": 0.25}).init(params)
    masks = jt.masks_of(state)
    assert jt.masks.layer_counts(masks) == {"a/kernel": (16, 8), "b/kernel": (16, 12)}
    assert masks["a"]["bias"] is None


def test_pruned_weights_whose_gradients_are_not_finite_leave_no_trace():
    params, masks = {"kernel": jnp.ones((1, 3))}, {"kernel": np.array([[True, False, False]])}
    tx = jt.masked(optax.adam(0.1), masks)
    updates, state = tx.update({"kernel": jnp.array([[1.0, jnp.inf, jnp.nan]])}, tx.init(params), params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state)))
    leaf = np.array([[1.5, np.nan, -np.inf]], np.float64)
    rewound = jt.rewind({"kernel": leaf}, masks)["kernel"]
    np.testing.assert_array_equal(rewound, [[1.5, 0, 0]])
    assert rewound.dtype == np.float64
