"""What the public library is given by mistake is refused in one line that names the argument."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxtickets as jt
from jaxtickets import UserError

KEY = jax.random.key(0)
PARAMS = {
    "net": {
        "a": {"kernel": np.arange(32, dtype=np.float32).reshape(4, 8) - 7.5, "bias": np.ones(8, np.float32)},
        "b": {"kernel": np.arange(16, dtype=np.float32).reshape(8, 2) - 3.3},
    }
}
NAMES = {"net": {"a": {"kernel": (None, "h"), "bias": ("h",)}, "b": {"kernel": ("h", None)}}}
DENSE = jt.masks.ones(PARAMS)
SCORES = jt.magnitude(PARAMS, DENSE)
MASKS = jt.prune(SCORES, DENSE, 0.5)
CHANNEL_SCORES = jt.channels.filter_l1(PARAMS, NAMES)
CHANNEL_MASKS = jt.channels.select(CHANNEL_SCORES, 0.5)
ADAM = optax.adam(0.1)


def loss(params, batch):
    return jnp.square(batch @ params["net"]["a"]["kernel"] @ params["net"]["b"]["kernel"]).mean()


def train(params, masks, key):
    return params


def of_other_shapes(tree):
    return jax.tree.map(lambda leaf: np.ones((2,) * leaf.ndim, leaf.dtype), tree)


# What no argument can be, by its kind.
NO_TREES = [None, 3, "x", [], {}, {"net": 3}, {"net": {"c": {"kernel": np.ones((2, 2), bool)}}}, [PARAMS]]
NO_SHARES = [None, -0.1, 1.0, float("nan"), float("inf"), "0.5", True, [0.5], 1j]
NO_COUNTS = [None, -1, 1.5, float("nan"), float("inf"), "3", True, [1], np.float32(2)]
NO_FUNCTIONS = [None, 3, "x", [1], lambda: 0]
NO_TEXTS = [None, 3, "nonsense", [3], b"x", float("nan")]
NO_PATTERNS = [3, [3], b"x", float("nan"), {"a": 1}, "["]

# `(function, arguments that are right, {argument: wrong values})`.
CASES = [
    (
        jt.masks.ones,
        {"params": PARAMS},
        {"include": NO_PATTERNS, "exclude": [None, *NO_PATTERNS], "components": ["x", 3]},
    ),
    (jt.masks.apply, {"params": PARAMS, "masks": MASKS}, {"masks": [*NO_TREES, of_other_shapes(MASKS)]}),
    (jt.masks.sparsity, {"masks": MASKS}, {"masks": [None, 3, "x", [], {}, {"net": 3}]}),
    (jt.masks.sparsity_all, {"masks": MASKS, "params": PARAMS}, {"masks": [3, "x"], "params": [None, 3, {}]}),
    (jt.masks.overlap, {"first": MASKS, "second": DENSE}, {"second": NO_TREES}),
    (jt.masks.hamming_distance, {"first": MASKS, "second": DENSE}, {"second": [*NO_TREES, of_other_shapes(DENSE)]}),
    (jt.masks.is_nested, {"inner": MASKS, "outer": DENSE}, {"outer": NO_TREES}),
    (jt.masks.shuffle, {"masks": MASKS, "seed": 0}, {"masks": [3, "x"], "seed": [*NO_COUNTS, 1 << 64]}),
    (jt.masks.pack, {"masks": MASKS}, {"masks": [3, "x", PARAMS]}),
    (jt.masks.unpack, {"packed": jt.masks.pack(MASKS), "like": MASKS}, {"packed": NO_TREES[:-1]}),
    (
        jt.prune,
        {"scores": SCORES, "masks": DENSE, "sparsity": 0.5},
        {
            "scores": [*NO_TREES, of_other_shapes(SCORES), jax.tree.map(lambda leaf: leaf * np.nan, SCORES)],
            "masks": [*NO_TREES, PARAMS, jax.tree.map(np.float32, DENSE)],
            "sparsity": NO_SHARES,
            "scope": NO_TEXTS,
            "min_per_layer": NO_COUNTS,
            "structure": [*NO_TEXTS, "channel"],
        },
    ),
    (
        jt.prune,
        {"scores": SCORES, "masks": DENSE, "sparsity": 0.5, "structure": "filter"},
        {"axes": [3, "x", {}, lambda: 1, lambda path: 3, lambda path: (0, 5)]},
    ),
    (jt.magnitude, {"params": PARAMS, "masks": DENSE}, {"masks": NO_TREES}),
    (jt.pruning.magnitude_change, {"params": PARAMS, "masks": DENSE, "start": PARAMS}, {"start": NO_TREES}),
    (jt.pruning.movement, {"params": PARAMS, "masks": DENSE, "movement": PARAMS}, {"movement": NO_TREES}),
    (jt.pruning.random, {"params": PARAMS, "masks": DENSE, "seed": 0}, {"masks": NO_TREES, "seed": NO_COUNTS}),
    (
        jt.snip,
        {"params": PARAMS, "masks": DENSE, "losses": loss, "batches": [np.ones((3, 4))]},
        {
            "masks": NO_TREES,
            "losses": [*NO_FUNCTIONS, {"net": loss}, {("other",): loss}, {("net",): 3}],
            "batches": [None, 3, [], "x", iter([1])],
        },
    ),
    (
        jt.grasp,
        {"params": PARAMS, "masks": DENSE, "tempered_losses": loss, "batches": [np.ones((3, 4))]},
        {"tempered_losses": NO_FUNCTIONS, "batches": [None, []]},
    ),
    (
        jt.synflow,
        {"params": PARAMS, "masks": DENSE, "flows": lambda params: loss(params, np.ones((1, 4)))},
        {"masks": NO_TREES, "flows": [*NO_FUNCTIONS, {"other": loss}, {"net": 3}]},
    ),
    (
        jt.pruning.drop_and_grow,
        {"params": PARAMS, "masks": MASKS, "growth": SCORES, "fraction": 0.3},
        {"masks": NO_TREES, "growth": NO_TREES, "fraction": [value for value in NO_SHARES if value != 1.0]},
    ),
    (jt.pruning.sparsities, {"rate": 0.5, "rounds": 3}, {"rate": [*NO_SHARES, 0.0], "rounds": NO_COUNTS}),
    (jt.pruning.cubic, {"final": 0.5, "progress": 0.5}, {"final": NO_SHARES, "power": [0, *NO_COUNTS]}),
    (
        jt.pruning.densities,
        {"shapes": [(3, 3), (2, 2)], "total": 5},
        {"shapes": [None, 3, "x", [3]], "total": NO_COUNTS, "scope": NO_TEXTS, "capacities": [3, [1], "x", [-1, 9]]},
    ),
    (
        jt.pruning.emergence,
        {"distances": np.zeros((5, 5))},
        {"distances": [None, 3, "x", [1]], "queue": [0, 1, *NO_COUNTS], "threshold": [None, -1, "x", float("nan")]},
    ),
    (jt.channels.groups, {"params": PARAMS, "axis_names": NAMES}, {"params": [None, 3, []], "axis_names": NO_TREES}),
    (jt.channels.filter_l2, {"params": PARAMS, "axis_names": NAMES}, {"params": [None, 3, []], "axis_names": NO_TREES}),
    (
        jt.channels.filter_change,
        {"params": PARAMS, "axis_names": NAMES, "initial": PARAMS},
        {"axis_names": NO_TREES, "initial": NO_TREES},
    ),
    (
        jt.channels.gamma_taylor,
        {"params": PARAMS, "axis_names": NAMES, "batch_stats": {}, "losses": loss, "batches": [np.ones((3, 4))]},
        {"axis_names": NO_TREES, "losses": NO_FUNCTIONS, "batches": [None, []]},
    ),
    (
        jt.channels.select,
        {"scores": CHANNEL_SCORES, "ratio": 0.5},
        {
            "scores": [3, "x", {"net": 3}],
            "ratio": NO_SHARES,
            "scope": [*NO_TEXTS, "erk"],
            "min_channels": [0, *NO_COUNTS],
            "multiple": [0, *NO_COUNTS],
            "alone": [None, 3, [3]],
        },
    ),
    (
        jt.channels.select_by_cost,
        {"scores": CHANNEL_SCORES, "cost": lambda masks: 0.1, "limit": 0.5},
        {"cost": [*NO_FUNCTIONS, lambda masks: None, lambda masks: float("nan")], "min_channels": [0, *NO_COUNTS]},
    ),
    (
        jt.channels.to_weight_masks,
        {"channel_masks": CHANNEL_MASKS, "params": PARAMS, "axis_names": NAMES},
        {
            "channel_masks": [None, 3, [], {"other": {}}, {"net": 3}, {"net": {"x": np.ones(8, bool)}}],
            "params": [None, 3],
        },
    ),
    (
        jt.compact.take,
        {"tree": PARAMS, "channel_masks": CHANNEL_MASKS, "axis_names": NAMES},
        {"channel_masks": [None, 3, {"net": {"h": np.ones(3, bool)}}], "axis_names": [None, 3]},
    ),
    (jt.rewind, {"state": PARAMS, "masks": MASKS}, {"masks": [*NO_TREES[:-1], of_other_shapes(MASKS)]}),
    (jt.straight_through, {"params": PARAMS, "masks": MASKS}, {"masks": NO_TREES}),
    (jt.masked, {"tx": ADAM, "masks": MASKS}, {"tx": [None, 3, lambda: 1], "masks": [None]}),
    (
        jt.axis_names,
        {"function": lambda own: own["net"]["a"]["bias"].sum(), "params": PARAMS},
        {"function": NO_FUNCTIONS},
    ),
    (
        jt.schedules.gradual,
        {"sparsity": 0.5, "start": 0, "stop": 4, "every": 2},
        {
            "sparsity": NO_SHARES,
            "start": NO_COUNTS,
            "stop": NO_COUNTS,
            "every": [0, *NO_COUNTS],
            "initial": NO_SHARES[1:],
            "power": [0, *NO_COUNTS],
            "score": NO_FUNCTIONS[:-1],
            "scope": NO_TEXTS,
            "structure": NO_TEXTS,
            "min_per_layer": NO_COUNTS,
            "seed": [*NO_COUNTS, 1 << 32],
            "levels": [(0.5,)],
        },
    ),
    (jt.schedules.one_shot, {"sparsity": 0.5}, {"at": NO_COUNTS, "foo": [1]}),
    (jt.schedules.static, {"sparsity": 0.5}, {"foo": [1], "initial": [0.3], "start": [1], "scope": NO_TEXTS}),
    (
        jt.schedules.rigl,
        {"sparsity": 0.5, "every": 1, "stop": 4},
        {"fraction": [-1, 2, "x"], "growth": NO_FUNCTIONS[:-1], "scope": NO_TEXTS, "score": [jt.magnitude], "foo": [1]},
    ),
    (
        jt.schedules.sparse_evolutionary,
        {"sparsity": 0.5, "every": 1, "stop": 4},
        {"growth": [jt.magnitude], "foo": [1]},
    ),
    (
        jt.imp,
        {"train_fn": train, "params": PARAMS, "key": KEY, "rounds": 1},
        {
            "train_fn": NO_FUNCTIONS,
            "params": [None, 3, [], {"net": 3}],
            "rounds": NO_COUNTS,
            "rate": [0.0, *NO_SHARES],
            "masks": [*NO_TREES[1:], of_other_shapes(MASKS), jax.tree.map(np.float32, MASKS)],
            "early": NO_FUNCTIONS[1:],
            "rewinds": [None, "x", 1],
            "params_of": NO_FUNCTIONS[1:],
            "score": [*NO_FUNCTIONS[:-1], lambda params, masks: 3, lambda params, masks: None],
            "scope": NO_TEXTS,
            "structure": NO_TEXTS,
            "min_per_layer": NO_COUNTS,
            "callback": [*NO_FUNCTIONS[1:], lambda round_, state: 3, lambda round_, state: {3: 4}],
            "workdir": [3, b"x", "", []],
        },
    ),
    (
        jt.imp,
        {"train_fn": train, "params": PARAMS, "key": KEY, "targets": [0.5]},
        {
            "targets": [
                0.5,
                [],
                "x",
                {},
                [None],
                [float("nan")],
                [0.0],
                [1.0],
                [[0.5]],
                np.float32(0.5),
                np.ones((1, 1)),
            ]
        },
    ),
]


@pytest.mark.parametrize(("function", "right", "wrong"), CASES, ids=lambda each: getattr(each, "__name__", ""))
def test_each_argument_that_can_not_be_is_refused_in_a_line_that_names_it(function, right, wrong):
    function(**right)
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(UserError) as caught:
                function(**right | {name: value})
            message = str(caught.value)
            assert name in message and "allowed" in message and "\n" not in message, (name, value, message)
            assert "prune." not in message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: jt.masks.apply(PARAMS, jt.masks.ones({"net": {"c": {"kernel": np.ones((2, 2))}}})),
            "masks: is built unlike params (params has no net/c/kernel); allowed is a tree such as jt.masks.ones(",
        ),
        (
            lambda: jt.masks.apply(PARAMS, {"net": {"a": DENSE["net"]["a"]}}),
            "masks: is built unlike params (there is no net/b/kernel in it); allowed is a tree such as",
        ),
        (
            lambda: jt.prune(SCORES, DENSE, 0.9, "layerwise", min_per_layer=5),
            "sparsity: 0.9 leaves 3 weights in net/a/kernel, fewer than min_per_layer=5 asks for over 1 layers",
        ),
        (lambda: jt.masks.ones(PARAMS, exclude=["."]), "include, exclude and components leave nothing to prune"),
        (
            lambda: jt.masks.ones(PARAMS, exclude=["."], prefix="prune."),
            "prune.include, prune.exclude and prune.compone",
        ),
        (
            lambda: jt.prune(SCORES, DENSE, 0.9, "layerwise", 5, prefix="prune."),
            "sparsity: 0.9 leaves 3 weights in net/a/kernel, fewer than prune.min_per_layer=5 asks for over 1 layers",
        ),
        (
            lambda: jt.schedules.gradual(0.5, 0, 4, 2, scop="erk"),
            "scop: 'erk': is no argument of this schedule; did you mean 'scope'?; allowed are scope, structure",
        ),
        (
            lambda: jt.imp(lambda params: params, PARAMS, key=KEY, rounds=1),
            "train_fn: can't be called so (too many positional arguments); allowed is a function of (params, masks,",
        ),
        (
            lambda: jt.imp(train, PARAMS, key=KEY, rounds=1, rate=0.0),
            "rate: 0.0 prunes nothing; allowed is a number above 0 and below 1",
        ),
    ],
)
def test_a_line_says_what_is_wrong_and_what_is_allowed(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_the_warning_of_an_emptied_layer_names_the_argument_or_the_field(caplog):
    scores = {"net": {"a": {"kernel": np.zeros((2, 2))}, "b": {"kernel": np.ones((2, 2))}}}
    for prefix in ("", "prune."):
        jt.prune(scores, jt.masks.ones(scores), 0.5, prefix=prefix)
        assert caplog.messages[-1].endswith(
            f"nothing flows through it; {prefix}min_per_layer=1 keeps a weight in each layer"
        )


def test_rounds_warn_of_layers_that_they_empty_alone(caplog):
    params = {"tiny": {"kernel": 9 * np.ones((1, 1), np.float32)}, "wide": {"kernel": np.ones((8, 8), np.float32)}}
    rounds = jt.imp(lambda own, masks, key: jt.masks.apply(own, masks), params, key=KEY, targets=[0.9])
    assert rounds[-1].masks["tiny"]["kernel"].all() and not caplog.messages
    dense = jt.masks.ones(params)
    for warns in (False, True):  # Of random scores the layer is emptied.
        jt.prune(jt.pruning.random(params, dense, 0), dense, 0.9, warns=warns)
        assert len(caplog.messages) == warns


def test_counts_may_be_arrays_of_no_axis_as_shares_may():
    for number in (3, np.int64(3), np.array(3), jnp.int32(3)):
        found = jt.masks.shuffle(MASKS, number)
        jax.tree.map(np.testing.assert_array_equal, found, jt.masks.shuffle(MASKS, 3))
        tx = jt.sparsify(ADAM, jt.schedules.rigl(0.5, number, 2 * number))
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
        assert jt.schedules.gradual(0.5, number, 9, number) == jt.schedules.gradual(0.5, 3, 9, 3)
    for number in (np.array(3.0), np.array(True), np.array([3]), jnp.int32(-1)):
        with pytest.raises(UserError, match="^seed: .* allowed is a whole number of at least 0"):
            jt.masks.shuffle(MASKS, number)


def test_masks_that_prune_nothing_are_refused_when_the_state_is_made():
    nothing = jax.tree.map(lambda _: None, DENSE)
    for make in (jt.masked, lambda tx, masks: jt.sparsify(tx, jt.schedules.one_shot(0.5), masks=masks)):
        with pytest.raises(UserError, match="^masks: there is nothing in it; allowed is a tree of arrays"):
            make(ADAM, nothing).init(PARAMS)


def test_masks_of_replicated_parameters_need_no_axis_in_front():
    replicated = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), PARAMS)
    effective = jt.masks.apply(replicated, MASKS)["net"]["a"]["kernel"]
    np.testing.assert_array_equal(effective[1], PARAMS["net"]["a"]["kernel"] * MASKS["net"]["a"]["kernel"])


def test_gradients_and_parameters_of_another_network_are_refused_in_an_update():
    tx = jt.masked(ADAM, MASKS)
    state = tx.init(PARAMS)
    with pytest.raises(UserError, match="^updates: it has|^updates: is built unlike params"):
        tx.update({"net": 3}, state, PARAMS)
    with pytest.raises(UserError, match="^state: is built unlike params"):
        tx.update(PARAMS, state, {"net": PARAMS["net"]["a"]})


def test_layers_without_a_bias_have_channels_too():
    params = {"net": {**PARAMS["net"], "a": {**PARAMS["net"]["a"], "bias": None}}}
    names = {"net": {**NAMES["net"], "a": {**NAMES["net"]["a"], "bias": None}}}
    assert jt.channels.groups(params, names) == {"net": {"h": 8}}
    masks = jt.channels.to_weight_masks(jt.channels.select(jt.channels.filter_l1(params, names), 0.5), params, names)
    assert masks["net"]["a"]["bias"] is None and jt.masks.sparsity(masks) == 0.5


def test_rewinding_finds_the_moments_of_a_player_that_has_some_components_alone():
    params = {"generator": PARAMS["net"]["a"], "discriminator": PARAMS["net"]["b"]}
    masks = {"generator": MASKS["net"]["a"], "discriminator": MASKS["net"]["b"]}
    ones = jax.tree.map(np.ones_like, params)
    players = {name: optax.ScaleByAdamState(np.int32(3), {name: own}, {name: own}) for name, own in ones.items()}
    found = jt.rewind({"params": params, "players": players}, masks)
    for name, own in found["players"].items():
        for moments in (own.mu, own.nu):
            np.testing.assert_array_equal(moments[name]["kernel"], masks[name]["kernel"])
    np.testing.assert_array_equal(found["players"]["generator"].mu["generator"]["bias"], np.ones(8))
