"""Mistakes that once gave wrong masks without a word: they are refused, warned of, or leave the masks as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict, freeze

import jaxtickets as jt
from jaxtickets import UserError

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


PARAMS = {"a": {"kernel": draw(8, 16)}, "b": {"kernel": draw(16, 4)}}  # 128 and 64 weights.
DENSE = jt.masks.ones(PARAMS)
SCORES = jt.magnitude(PARAMS, DENSE)
HALF = jt.prune(SCORES, DENSE, 0.5)
SGD = optax.sgd(0.1)


def train(params, masks, key):
    return params


def kept(masks):
    return [int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(masks)]


def refusal(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def within_a_step(schedule, params=PARAMS, steps=1, gradient=0.0):
    """The optimiser state after some updates with gradients that are all the same number."""
    tx = jt.sparsify(SGD, schedule)
    state, update = tx.init(params), jax.jit(tx.update)
    gradients = jax.tree.map(lambda leaf: np.full_like(leaf, gradient), params)
    for _ in range(steps):
        _, state = update(gradients, state, params)
    return state


# Scores of other trees.


def transposed(params, masks):
    return jax.tree.map(lambda leaf: abs(leaf).T, params)


PLACES = {
    "prune": lambda score: jt.prune(score(PARAMS, DENSE), DENSE, 0.5),
    "compiled": lambda score: jax.jit(lambda params: jt.prune(score(params, DENSE), DENSE, 0.5))(PARAMS),
    "imp": lambda score: jt.imp(train, PARAMS, key=KEY, rounds=1, score=score),
    "sparsify": lambda score: within_a_step(jt.schedules.one_shot(0.5, score=score)),
}


@pytest.mark.parametrize("place", PLACES)
def test_transposed_scores_are_refused_wherever_they_are_given(place):
    message = refusal(lambda: PLACES[place](transposed))
    assert "a/kernel has the shape (16, 8); allowed is the shape (8, 16)" in message


@pytest.mark.parametrize("place", PLACES)
def test_scores_of_other_names_are_refused_wherever_they_are_given(place):
    message = refusal(lambda: PLACES[place](lambda params, masks: jax.tree.leaves(params)))
    assert message.startswith("score") and "a/kernel has no array" in message


def test_scores_of_leaves_that_are_not_prunable_are_refused_within_a_step_too():
    params = {"a": {"kernel": draw(4, 4), "bias": draw(4)}}
    score = lambda params, masks: jax.tree.map(abs, params)  # noqa: E731
    message = refusal(lambda: within_a_step(jt.schedules.one_shot(0.5, score=score), params))
    assert message == "scores: a/bias has the shape (4,); allowed is no array, as in masks"


def test_scores_in_nodes_of_another_type_go_to_the_leaves_of_their_names_whatever_the_order():
    class Scores(tuple):
        pass

    jax.tree_util.register_pytree_with_keys(
        Scores,
        lambda own: (((jax.tree_util.DictKey("b"), own[0]), (jax.tree_util.DictKey("a"), own[1])), None),
        lambda _, leaves: Scores(leaves),
    )
    masks = {"a": np.ones(2, bool), "b": np.ones(2, bool)}
    scores = Scores((np.array([1.0, 2.0]), np.array([3.0, 4.0])))  # b has the lower ones.
    for prune in (jt.prune, jax.jit(lambda own, masks, share: jt.prune(own, masks, 0.5))):
        assert kept(prune(scores, masks, 0.5)) == [2, 0]


def test_growth_of_another_shape_is_refused_within_a_step_too():
    growth = lambda params, masks, gradients: transposed(gradients, masks)  # noqa: E731
    message = refusal(lambda: within_a_step(jt.schedules.rigl(0.5, 1, 4, growth=growth), steps=2))
    assert message.startswith("growth: a/kernel has the shape (16, 8)")


def test_a_component_with_prunable_weights_needs_a_loss():
    def loss(own, batch):
        return jnp.square(batch @ own["a"]["kernel"]).mean()

    batches = [draw(2, 8)]
    for call in (
        lambda: jt.snip(PARAMS, DENSE, {("a",): loss}, batches),
        lambda: jt.grasp(PARAMS, DENSE, {("a",): loss}, batches),
        lambda: jt.pruning.gradients(PARAMS, DENSE, {("a",): loss}, batches),
        lambda: jt.synflow(PARAMS, DENSE, {"a": lambda own: own["kernel"].sum()}),
    ):
        assert "there is none for 'b'; allowed is one for each component" in refusal(call)
    norms = {name: {"norm": {"scale": np.ones(4), "bias": np.ones(4)}} for name in ("a", "b")}
    stats = {name: {"norm": {"mean": np.ones(4)}} for name in norms}
    names = {name: {"norm": {"scale": ("h",), "bias": ("h",)}} for name in norms}
    of_a = {("a",): lambda own, batch: (own["a"]["norm"]["scale"] * batch).sum()}
    message = refusal(lambda: jt.channels.gamma_taylor(norms, names, stats, of_a, batches))
    assert message.startswith("losses: there is none for 'b'")
    only_a = {"a": DENSE["a"], "b": {"kernel": None}}
    scores = jt.snip(PARAMS, only_a, {("a",): loss}, batches)
    assert scores["b"]["kernel"] is None and np.abs(scores["a"]["kernel"]).sum() == pytest.approx(1, rel=1e-5)


# N:M.

NARROW = {"kernel": draw(6, 8)}


@pytest.mark.parametrize(
    "call",
    [
        lambda: jt.prune(NARROW, jt.masks.ones(NARROW), 0.5, structure="2:4"),
        lambda: jt.imp(train, NARROW, key=KEY, targets=[0.5], structure="2:4"),
        lambda: jt.sparsify(SGD, jt.schedules.one_shot(0.5, structure="2:4")).init(NARROW),
    ],
)
def test_n_of_m_that_fits_no_layer_is_refused(call):
    assert refusal(call) == (
        "structure: '2:4' fits no layer: kernel has 6 inputs; allowed are layers whose number of inputs is a multiple "
        "of 4"
    )


def test_n_of_m_that_fits_some_layers_warns_once_of_the_others(caplog):
    params = {"narrow": NARROW, "depthwise": {"kernel": draw(3, 3, 1, 8)}, "wide": {"kernel": draw(8, 2)}}
    dense = jt.masks.ones(params)
    told = (
        "structure '2:4' does not fit 2 of 3 layers, which are not pruned: the number of inputs is no multiple of 4 in "
        "depthwise/kernel, narrow/kernel"
    )
    masks = jt.prune(jt.magnitude(params, dense), dense, 0.5, structure="2:4")
    assert caplog.messages == [told]
    jt.prune(jt.magnitude(params, dense), dense, 0.5, structure="2:4", prefix="prune.")
    assert caplog.messages == [told] * 2
    assert jt.masks.layer_counts(masks) == {
        "depthwise/kernel": (72, 72),
        "narrow/kernel": (48, 48),
        "wide/kernel": (16, 8),
    }
    for schedule in (jt.schedules.one_shot, jt.schedules.static):
        caplog.clear()
        jt.sparsify(SGD, schedule(0.5, structure="2:4", scope="global")).init(params)
        assert caplog.messages == [told]
    caplog.clear()
    jt.imp(train, params, key=KEY, rounds=1, structure="2:4")
    assert caplog.messages == [told]


# What stays in each layer, within a compiled function.


@pytest.mark.parametrize(
    ("sparsity", "how", "message"),
    [
        (0.98, {"min_per_layer": 3}, "sparsity: 0.98 leaves 4 weights in the network, fewer than min_per_layer=3 asks"),
        (0.95, {"min_per_layer": 4, "scope": "layerwise"}, "sparsity: 0.95 leaves 3 weights in b/kernel, fewer than"),
        (0.999, {}, "sparsity: 0.999 leaves none of 192 weights"),
        (0.2, {}, "sparsity: 0.2 of the network is below the 0.5 that is pruned already"),
    ],
)
def test_what_is_refused_outside_of_a_compiled_function_is_refused_inside(sparsity, how, message):
    masks = HALF if sparsity == 0.2 else DENSE
    prune = lambda scores: jt.prune(scores, masks, sparsity, **how)  # noqa: E731
    assert refusal(lambda: prune(SCORES)) == (inside := refusal(lambda: jax.jit(prune)(SCORES)))
    assert inside.startswith(message)


def test_a_sparsity_that_is_traced_is_refused():
    message = refusal(lambda: jax.jit(lambda sparsity: jt.prune(SCORES, DENSE, sparsity))(0.5))
    assert message.startswith("sparsity: ") and "Tracer" in message


def test_the_floor_of_a_layer_holds_under_masks_that_are_traced():
    scores = {"a": {"kernel": SCORES["a"]["kernel"]}, "b": {"kernel": 1e-3 * SCORES["b"]["kernel"]}}
    prune = jax.jit(lambda scores, masks: jt.prune(scores, masks, 0.9, min_per_layer=5))
    assert kept(prune(scores, HALF)) == [14, 5]  # 192 - round(0.9 * 192) = 19.


def test_blocks_of_which_none_would_stay_stay_within_a_compiled_function():
    masks = {"kernel": np.ones((4, 4), bool)}
    prune = lambda scores: jt.prune(scores, masks, 0.9, structure="block:4x4")  # noqa: E731
    scores = {"kernel": draw(4, 4)}
    assert "leaves none of 16 weights" in refusal(lambda: prune(scores))  # 0 are nearer to 2 than 16 are.
    assert kept(jax.jit(prune)(scores)) == [16]


@pytest.mark.parametrize(
    "schedule",
    [
        jt.schedules.gradual(0.99, 5, 20, 5, min_per_layer=5),
        jt.schedules.one_shot(0.99, min_per_layer=5),
        jt.schedules.static(0.99, min_per_layer=5, scope="global"),
    ],
)
def test_a_schedule_that_leaves_less_than_it_must_is_refused_when_the_state_is_made(schedule):
    message = refusal(lambda: jt.sparsify(SGD, schedule).init(PARAMS))
    assert message.startswith("sparsity: 0.99 leaves 2 weights in the network, fewer than min_per_layer=5 asks for")


@pytest.mark.parametrize("scope", ["erk", "uniform"])
def test_shares_of_pruned_masks_are_exact_within_a_compiled_function_too(scope):
    params = {"a": {"kernel": draw(8, 12)}, "c": {"kernel": draw(30, 3, 4, 8)}, "z": {"kernel": draw(20, 4)}}
    dense = jt.masks.ones(params)
    scores = jt.magnitude(params, dense)
    before = jt.prune(scores, dense, 0.2)
    found = jax.jit(lambda scores: jt.prune(scores, before, 0.3, scope))(scores)
    weights = 96 + 2880 + 80
    assert sum(kept(found)) == weights - round(0.3 * weights)
    jax.tree.map(np.testing.assert_array_equal, found, jt.prune(scores, before, 0.3, scope))
    message = refusal(lambda: jax.jit(lambda scores, masks: jt.prune(scores, masks, 0.3, scope))(scores, before))
    assert message.startswith(f"masks: are traced, and scope '{scope}' shares by how much each layer has left")


# Training that has diverged.


def test_scores_that_are_not_finite_change_no_masks_within_a_compiled_function():
    for value in (np.nan, np.inf):
        broken = {"a": SCORES["a"], "b": {"kernel": SCORES["b"]["kernel"] * value}}
        for how in ({}, {"structure": "2:4"}) if np.isnan(value) else ({"scope": "layerwise"},):
            found = jax.jit(lambda scores, masks, how=how: jt.prune(scores, masks, 0.5, **how))(broken, DENSE)
            assert kept(found) == [128, 64]
    # What is pruned already decides nothing.
    pruned = {"a": SCORES["a"], "b": {"kernel": np.where(HALF["b"]["kernel"], SCORES["b"]["kernel"], np.nan)}}
    found = jax.jit(lambda scores, masks: jt.prune(scores, masks, 0.75))(pruned, HALF)
    assert sum(kept(found)) == 48


def test_gradual_pruning_keeps_its_masks_when_the_weights_are_no_numbers():
    tx = jt.sparsify(SGD, jt.schedules.gradual(0.9, 0, 4, 1))
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    for number in range(5):
        diverged = {"a": PARAMS["a"], "b": {"kernel": PARAMS["b"]["kernel"] * np.nan}}
        _, state = update(zeros, state, PARAMS if number < 2 else diverged)
    # The sparsity of the second change: 0.9 * (1 - (1 - 1 / 4)^3) = 0.52.
    assert sum(kept(jt.masks_of(state))) == 192 - round(0.9 * (1 - 0.75**3) * 192)


def test_weights_and_growth_that_are_no_numbers_are_not_exchanged():
    broken = {"a": SCORES["a"], "b": {"kernel": SCORES["b"]["kernel"] * np.nan}}
    smallest = jax.tree.map(np.negative, SCORES)
    for params, growth in ((PARAMS, {"a": smallest["a"], "b": broken["b"]}), (broken, smallest)):
        found = jt.pruning.drop_and_grow(params, HALF, growth, 0.3)
        np.testing.assert_array_equal(found["b"]["kernel"], HALF["b"]["kernel"])
        assert (found["a"]["kernel"] != HALF["a"]["kernel"]).any() and kept(found) == kept(HALF)
    assert refusal(lambda: jt.prune(broken, DENSE, 0.5)).startswith("scores: those of b/kernel are not finite")
    schedule = jt.schedules.rigl(0.5, 1, 4)
    first = jt.masks_of(jt.sparsify(SGD, schedule).init(PARAMS))
    after = jt.masks_of(within_a_step(schedule, steps=3, gradient=np.nan))
    jax.tree.map(np.testing.assert_array_equal, first, after)


# Masks that are none.


@pytest.mark.parametrize("compiled", [False, True])
def test_masks_that_are_not_of_booleans_are_refused_before_anything_is_computed(compiled):
    apply = jax.jit(jt.masks.apply) if compiled else jt.masks.apply
    for params, masks in ((PARAMS, PARAMS), (HALF, PARAMS), (PARAMS, jax.tree.map(np.int8, HALF))):
        assert "masks: that of a/kernel is of" in refusal(lambda params=params, masks=masks: apply(params, masks))
    row = {"a": {"kernel": np.ones(16, bool)}, "b": HALF["b"]}  # It would be the same for each input.
    assert "has the shape" in refusal(lambda: apply(PARAMS, row))
    assert "masks: that of a/kernel is of float32" in refusal(lambda: jt.masks.sparsity(PARAMS))
    assert "masks: that of a/kernel is of float32" in refusal(lambda: jt.magnitude(HALF, PARAMS))


def test_the_checks_of_masks_are_no_part_of_the_compiled_program():
    program = jax.make_jaxpr(jt.masks.apply)(PARAMS, HALF)
    assert [equation.primitive.name for equation in program.eqns] == ["convert_element_type", "mul"] * 2


def test_rewinding_finds_frozen_dictionaries_beside_plain_ones():
    for state, masks in ((freeze(PARAMS), HALF), (PARAMS, freeze(HALF)), (freeze(PARAMS), freeze(HALF))):
        found = jt.rewind({"params": state, "moments": SGD.init(state), "step": 3}, masks)
        assert isinstance(found["params"], FrozenDict) == isinstance(state, FrozenDict) and found["step"] == 3
        for name in PARAMS:
            np.testing.assert_array_equal(
                found["params"][name]["kernel"], np.where(HALF[name]["kernel"], PARAMS[name]["kernel"], 0)
            )


# Holes, which Optax and masks have where other trees have an array or a branch.

BRANCHES = {"a": "x", "b": "y"}
OF_A = {"a": True, "b": False}


@pytest.mark.parametrize("schedule", [jt.schedules.rigl, jt.schedules.sparse_evolutionary])
@pytest.mark.parametrize("within", ["multi_transform", "masked"])
def test_weights_are_regrown_within_transformations_of_some_leaves(schedule, within):
    tx = jt.sparsify(optax.adam(1e-3), schedule(0.5, 1, 5))
    tx = optax.masked(tx, OF_A) if within == "masked" else optax.multi_transform({"x": tx, "y": SGD}, BRANCHES)
    states, update = [tx.init(PARAMS)], jax.jit(tx.update)
    for _ in range(4):
        states.append(update(SCORES, states[-1], PARAMS)[1])
    first, last = (jt.masks_of(state) for state in (states[0], states[-1]))
    assert kept(last) == [64] and (first["a"]["kernel"] != last["a"]["kernel"]).any()


TXS = {
    "multi_transform": optax.multi_transform({"x": optax.adam(1e-2), "y": optax.adam(1e-3)}, BRANCHES),
    "partition": optax.partition({"x": optax.adam(1e-2), "y": optax.adam(1e-3)}, BRANCHES),
    "masked": optax.chain(optax.masked(optax.trace(0.9), OF_A), optax.sgd(1e-2)),
}


@pytest.mark.parametrize("name", TXS)
def test_moments_of_some_leaves_are_rewound(name):
    state = jax.tree.map(jnp.ones_like, TXS[name].init(PARAMS))
    found = jt.rewind(state, HALF)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    sums = {int(leaf.sum()) for leaf in jax.tree.leaves(found) if leaf.ndim}
    assert sums == set(kept(HALF)[: 1 if name == "masked" else 2])


@pytest.mark.parametrize("name", ["multi_transform", "masked"])
def test_rounds_are_rewound_to_moments_of_some_leaves(name):
    tx, inputs = TXS[name], draw(4, 8)

    def loss(params, masks):
        params = jt.masks.apply(params, masks)
        return jnp.square(inputs @ params["a"]["kernel"] @ params["b"]["kernel"] - 1).mean()

    @jax.jit
    def steps(state, masks):
        for _ in range(3):
            params, moments = state
            updates, moments = tx.update(jax.grad(loss)(params, masks), moments, params)
            state = optax.apply_updates(params, updates), moments
        return state

    rounds = jt.imp(
        lambda state, masks, key: steps(state, masks),
        PARAMS,
        key=KEY,
        rounds=2,
        rate=0.5,
        early=lambda params, masks, key: steps((params, tx.init(params)), masks),
        params_of=lambda state: state[0],
    )
    assert [sum(kept(own.masks)) for own in rounds] == [192, 96, 48]


def test_either_kind_of_hole_is_a_mask_of_a_leaf_that_is_not_prunable():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    for hole in (None, optax.MaskedNode()):
        masks = {"kernel": np.eye(2, dtype=bool), "bias": hole}
        for function in (jt.masks.apply, jt.straight_through):
            np.testing.assert_array_equal(function(params, masks)["kernel"], np.eye(2))
            assert function({**params, "bias": None}, masks)["bias"] is None
        scores = jt.magnitude(params, masks)
        assert kept(jt.prune(scores, masks, 0.75)) == [1]
        assert kept(jt.pruning.drop_and_grow(params, masks, scores, 0.5)) == [2]
        assert kept(jt.masks.unpack(jt.masks.pack(masks), params)) == [2]
        own = {**params, "kernel": hole}
        message = refusal(lambda own=own: jt.masks.apply(own, jt.masks.ones(params)))
        assert message == "masks: that of kernel is an array; allowed is None, as params has no array there"


def test_masks_of_several_tickets_give_several_networks_and_others_are_refused():
    several = jax.tree.map(lambda mask: np.stack([mask, ~mask, mask]), HALF)
    for function in (jt.masks.apply, jax.jit(jt.masks.apply), jt.straight_through):
        found = function(PARAMS, several)
        for name, leaf in PARAMS.items():
            np.testing.assert_array_equal(found[name]["kernel"], leaf["kernel"] * several[name]["kernel"])
    for wrong in (
        jax.tree.map(lambda mask: mask[..., :1], several),
        {"a": several["a"], "b": {"kernel": several["b"]["kernel"][:2]}},
        {"a": several["a"], "b": HALF["b"]},
    ):
        assert "has the shape" in refusal(lambda wrong=wrong: jt.masks.apply(PARAMS, wrong))


def test_sums_and_starts_need_arrays_where_leaves_are_prunable_alone():
    params = {"a": {**PARAMS["a"], "bias": draw(16)}, "b": PARAMS["b"]}
    dense, sums = jt.masks.ones(params), {"a": {**PARAMS["a"], "bias": None}, "b": PARAMS["b"]}
    assert jt.pruning.movement(params, dense, sums)["a"]["kernel"] is PARAMS["a"]["kernel"]
    assert jt.pruning.magnitude_change(params, dense, sums)["b"]["kernel"].max() == 0
    message = refusal(lambda: jt.pruning.movement(params, dense, {**sums, "b": {"kernel": None}}))
    assert message.startswith("movement: b/kernel has no array")


def test_masks_of_no_channel_take_nothing_out_and_are_refused():
    names = {"net": {"a": {"kernel": (None, "h")}, "b": {"kernel": ("h", None)}}}
    for masks in ({}, {"net": {}}):
        assert refusal(lambda masks=masks: jt.compact.take({"net": PARAMS}, masks, names)).startswith(
            f"channel_masks: {masks} names no channels; allowed is {{component: {{channel name: [n] bool}}}}"
        )


def test_a_hole_in_masks_stands_for_a_whole_branch():
    params = {"a": {"w": np.ones((2, 2), np.float32)}, "b": {"w": np.ones((2, 2), np.float32)}}
    tx = optax.multi_transform(
        {"x": jt.sparsify(optax.sgd(0.1), jt.schedules.static(0.5)), "y": optax.sgd(0.1)}, {"a": "x", "b": "y"}
    )
    masks = jt.masks_of(tx.init(params))
    effective = jt.masks.apply(params, masks)
    assert np.count_nonzero(effective["a"]["w"]) == 2 and np.all(effective["b"]["w"] == 1)
    with pytest.raises(jt.UserError, match="masks: is built unlike params"):
        jt.masks.apply({"c": params["a"]}, masks)


def test_axes_of_the_parameters_alone_do_beside_batch_statistics():
    kernel, mean = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4), np.ones(3, np.float32)
    tree = {"net": {"params": {"up": {"kernel": kernel}}, "batch_stats": {"norm": {"mean": mean}}}}
    names = {
        "net": {"params": {"up": {"kernel": (None, None, "up", "in")}}, "batch_stats": {"norm": {"mean": ("up",)}}}
    }
    turned = {"net": {"params": {"up": {"kernel": ((3,), (2,))}}}}  # Outputs before inputs.
    scores = jt.channels.filter_l1(tree, names, axes=turned)
    np.testing.assert_array_equal(scores["net"]["up"], kernel.sum((0, 1, 3)) / 4)
    with pytest.raises(jt.UserError, match="axes: allowed is"):
        jt.channels.filter_l1(tree, names, axes={"net": {"weights": {}}})
