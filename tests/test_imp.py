"""`jt.imp`: the lottery loop around a training function of one's own."""

import json
import logging
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import jaxtickets as jt
from jaxtickets import UserError

DIGITS = load_digits()
IMAGES, LABELS = jnp.asarray(DIGITS.data / 16, jnp.float32), jnp.asarray(DIGITS.target)
TRAIN, TEST = slice(1500), slice(1500, None)
KEY = jax.random.key(0)
OPTIMIZER = optax.adam(0.01)


def mlp(seed=0, width=24):
    rng = np.random.default_rng(seed)
    sizes = [(64, width), (width, 10)]
    draw = lambda a, b: jnp.asarray(rng.normal(size=(a, b)) / a**0.5, jnp.float32)  # noqa: E731
    return [{"w": draw(a, b), "b": jnp.zeros(b)} for a, b in sizes]


def logits(params, images):
    first, second = params
    return jax.nn.relu(images @ first["w"] + first["b"]) @ second["w"] + second["b"]


def loss(params, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels).mean()


def accuracy(params):
    return float((logits(params, IMAGES[TEST]).argmax(1) == LABELS[TEST]).mean())


class State(NamedTuple):
    """A state of one's own: the parameters are in `params`."""

    params: Any
    moments: Any
    step: jax.Array
    key: jax.Array


def start(params):
    return State(params, OPTIMIZER.init(params), jnp.int32(0), jax.random.key(7))


@partial(jax.jit, static_argnames="stop", donate_argnums=0)
def go_on(state, masks, key, stop):
    """Trains up to step `stop`; the batch of a step is a function of the key and the step. What it is given is gone."""

    def step(state):
        chosen = jax.random.randint(jax.random.fold_in(key, state.step), (64,), 0, 1500)
        gradients = jax.grad(lambda p: loss(jt.masks.apply(p, masks), IMAGES[chosen], LABELS[chosen]))(state.params)
        updates, moments = OPTIMIZER.update(gradients, state.moments)
        return State(optax.apply_updates(state.params, updates), moments, state.step + 1, state.key)

    return jax.lax.while_loop(lambda state: state.step < stop, step, state)


def train(params, masks, key, stop=150):
    return go_on(start(params), masks, key, stop).params


def early(params, masks, key):
    return go_on(start(jax.tree.map(jnp.copy, params)), masks, key, 20)


def late(state, masks, key):
    return go_on(state, masks, key, 150)


def trees_equal(first, second):
    return jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), first, second))


def recorded(function, calls):
    """`function`, with its arguments as NumPy arrays in `calls`."""

    def recording(state, masks, key):
        calls.append(jax.tree.map(np.array, (getattr(state, "params", state), masks, jax.random.key_data(key))))
        if hasattr(state, "moments"):
            calls[-1] = (*calls[-1], jax.tree.map(np.array, state.moments))
        return function(state, masks, key)

    return recording


@pytest.fixture(scope="module")
def digits():
    """`(rounds, the arguments of each call of the training function)` of five rounds on digits."""
    calls = []
    rounds = jt.imp(recorded(train, calls), mlp(), key=KEY, rounds=5, rate=0.3)
    return rounds, calls


def test_a_network_of_digits_has_tickets_of_the_asked_sparsities(digits):
    rounds, _ = digits
    weights = 64 * 24 + 24 * 10
    for number, round_ in enumerate(rounds):
        assert round_.number == number
        assert jt.masks.counts(round_.masks) == (weights, weights - round((1 - 0.7**number) * weights))
        assert round_.sparsity == jt.masks.sparsity(round_.masks)
    assert accuracy(rounds[0].params) > 0.85
    assert accuracy(rounds[-1].params) > accuracy(rounds[0].params) - 0.05


def test_masks_of_later_rounds_are_nested_and_keep_the_largest_trained_weights(digits):
    rounds, _ = digits
    for before, after in zip(rounds, rounds[1:], strict=False):
        assert jt.masks.is_nested(after.masks, before.masks)
        kept, gone = [], []
        for layer, old, new in zip(before.params, before.masks, after.masks, strict=True):
            kept.append(np.abs(layer["w"])[new["w"]])
            gone.append(np.abs(layer["w"])[old["w"] & ~new["w"]])
        assert np.concatenate(gone).max() <= np.concatenate(kept).min()


def test_kept_weights_are_rewound_to_the_initialisation_bit_for_bit_and_pruned_ones_are_zero(digits):
    rounds, calls = digits
    for round_, (params, masks, key) in zip(rounds, calls, strict=True):
        assert trees_equal(masks, round_.masks)
        assert trees_equal(params, jt.masks.apply(mlp(), masks))
        assert trees_equal(round_.params, jt.masks.apply(round_.params, masks))
        assert (key == jax.random.key_data(KEY)).all()  # The same data in each round.


def test_late_rewinding_starts_each_round_from_the_early_state_with_its_moments():
    calls = []
    rounds = jt.imp(recorded(late, calls), mlp(), key=KEY, targets=[0.5, 0.8], early=early)
    point = early(mlp(), jt.masks.ones(mlp()), KEY)
    for round_, (params, masks, _, moments) in zip(rounds, calls, strict=True):
        assert trees_equal(params, jt.masks.apply(point.params, round_.masks))
        for name in ("mu", "nu"):
            own = getattr(moments[0], name)
            assert trees_equal(own, jt.masks.apply(getattr(point.moments[0], name), masks))
        assert moments[0].count == 20
    assert [round(round_.sparsity, 3) for round_ in rounds] == [0, 0.5, 0.8]


def test_fine_tuning_goes_on_from_the_trained_weights():
    calls = []
    rounds = jt.imp(recorded(train, calls), mlp(), key=KEY, rounds=2, rewinds=False)
    for before, (params, masks, _) in zip(rounds, calls[1:], strict=False):
        assert trees_equal(params, jt.masks.apply(before.params, masks))


def test_scores_may_read_the_rewind_point_and_a_seed():
    seen = []

    def change(params, masks, start, seed):
        seen.append((jax.tree.map(np.array, start), seed))
        return jt.pruning.magnitude_change(params, masks, start)

    rounds = jt.imp(late, mlp(), key=KEY, rounds=2, early=early, score=change)
    point = early(mlp(), jt.masks.ones(mlp()), KEY).params
    assert all(trees_equal(start, point) for start, _ in seen)
    assert len({seed for _, seed in seen}) == 2
    dense = rounds[0]
    expected = jt.prune(jt.pruning.magnitude_change(dense.params, dense.masks, point), dense.masks, 0.2)
    assert trees_equal(rounds[1].masks, expected)


@pytest.mark.parametrize(("structure", "sparsities"), [("2:4", [0, 0.5]), ("filter", [0, 0.3, 0.51])])
def test_structures_are_pruned_along_axes_that_are_given(structure, sparsities):
    how = {"rounds": 1 if structure == "2:4" else 2, "rate": 0.3, "axes": lambda path: (0, 1)}
    rounds = jt.imp(lambda params, masks, key: params, mlp(), key=KEY, structure=structure, exclude=["^1/"], **how)
    assert [round_.sparsity for round_ in rounds] == pytest.approx(sparsities, abs=0.03)


def test_each_round_prunes_the_rate_of_what_given_masks_leave():
    dense = jt.masks.ones(mlp())
    half = jt.prune(jt.magnitude(mlp(), dense), dense, 0.5)
    rounds = jt.imp(lambda params, masks, key: params, mlp(), key=KEY, rounds=2, rate=0.25, masks=half)
    assert trees_equal(rounds[0].masks, half)
    assert [jt.masks.counts(found.masks).kept for found in rounds] == [888, 666, 500]  # 499.5 is rounded to even.
    assert jt.masks.is_nested(rounds[2].masks, rounds[1].masks)


# Pruned weights are zero.


def trained(tx, with_masks=True):
    """A training function: ten steps of `tx`, with the masks in the loss or without."""

    @jax.jit
    def train(params, masks, key):
        own = masks if with_masks else jax.tree.map(jnp.ones_like, masks)

        def step(_, carry):
            params, state = carry
            slopes = jax.grad(lambda params: loss(jt.masks.apply(params, own), IMAGES[:64], LABELS[:64]))(params)
            updates, state = tx.update(slopes, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 10, step, (params, tx.init(params)))[0]

    return train


def test_training_without_the_masks_is_refused_before_anything_is_measured_or_saved(tmp_path):
    seen = []
    how = {"key": KEY, "rounds": 2, "workdir": tmp_path, "callback": lambda found, state: seen.append(found.number)}
    message = (
        r"^train_fn: has returned pruned weights that are not zero, \d+ in 0/w: training has not had the masks; allow"
    )
    with pytest.raises(UserError, match=message) as caught:
        jt.imp(trained(optax.sgd(0.1), with_masks=False), mlp(), **how)
    assert "\n" not in str(caught.value)
    assert seen == [0] and not (tmp_path / "round_001.safetensors").exists()
    jt.imp(trained(optax.sgd(0.1)), mlp(), **how)  # From the dense round, which needs no masks.
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    "tx", [optax.adamw(0.01, weight_decay=0.1), optax.sgd(0.1, 0.9, nesterov=True), optax.lion(0.01)]
)
def test_usual_optimisers_keep_pruned_weights_at_zero_if_the_loss_has_the_masks(tx):
    rounds = jt.imp(trained(tx), mlp(), key=KEY, rounds=1, rate=0.5)
    assert jt.masks.is_nested(jt.masks.nonzero(rounds[1].params), rounds[1].masks)


def test_training_that_moves_weights_which_the_loss_does_not_read_masks_what_it_returns():
    noisy = lambda params, masks, key: jax.tree.map(lambda leaf: leaf + 0.01, params)  # noqa: E731
    with pytest.raises(UserError, match=r"Where the loss has them, return jt.masks.apply\(trained, masks\)$"):
        jt.imp(noisy, mlp(), key=KEY, rounds=1)
    masked = lambda params, masks, key: jt.masks.apply(noisy(params, masks, key), masks)  # noqa: E731
    assert len(jt.imp(masked, mlp(), key=KEY, rounds=1)) == 2


def test_what_diverged_is_not_taken_for_forgotten_masks_and_has_zeros_all_the_same():
    diverged = lambda params, masks, key: jax.tree.map(lambda leaf: leaf + jnp.nan, params)  # noqa: E731
    dense = jt.masks.ones(mlp())
    half = jt.prune(jt.magnitude(mlp(), dense), dense, 0.5)
    (found,) = jt.imp(diverged, mlp(), key=KEY, rounds=0, masks=half)
    for layer, mask in zip(found.params, half, strict=True):
        assert (layer["w"][~mask["w"]] == 0).all() and np.isnan(layer["w"][mask["w"]]).all()


# Resuming.


class KilledError(Exception):
    pass


def until(function, calls):
    """`function`, which is killed in a call after this number of them."""
    counted = []

    def killed(*arguments):
        counted.append(0)
        if len(counted) > calls:
            raise KilledError
        return function(*arguments)

    return killed


def measured(round_, state):
    return {"accuracy": accuracy(round_.params), "step": state.step}


HOW = {"key": KEY, "rounds": 3, "rate": 0.4, "early": early, "callback": measured}


@pytest.fixture(scope="module")
def whole():
    return jt.imp(late, mlp(), **HOW)


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_killed_loop_goes_on_to_the_same_rounds_bit_for_bit(whole, tmp_path, calls):
    with pytest.raises(KilledError):
        jt.imp(until(late, calls), mlp(), **HOW, workdir=tmp_path / "run")
    rounds = jt.imp(until(late, 4 - calls), mlp(), **HOW, workdir=tmp_path / "run")
    assert trees_equal(rounds, whole)
    assert rounds[2].metrics == {"accuracy": accuracy(rounds[2].params), "step": 150}
    again = jt.imp(until(late, 0), mlp(), **{**HOW, "early": until(early, 0)}, workdir=tmp_path / "run")
    assert trees_equal(again, whole)  # Nothing is trained.


def test_training_goes_on_before_a_damaged_round(whole, tmp_path, caplog):
    jt.imp(late, mlp(), **HOW, workdir=tmp_path)
    file = tmp_path / "round_002.safetensors"
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert trees_equal(jt.imp(until(late, 2), mlp(), **HOW, workdir=tmp_path), whole)
    assert "round_002.safetensors: can't be read as a round" in caplog.text


def test_arrays_of_any_type_come_back_as_they_were(tmp_path):
    params = {"kernel": jnp.asarray([[1.5, -2], [0.25, 3]], jnp.bfloat16), "scale": jnp.float16(2), "n": np.int64(3)}
    how = {"key": jax.random.PRNGKey(1), "rounds": 1, "workdir": tmp_path}
    first = jt.imp(lambda params, masks, key: params, params, **how)
    again = jt.imp(until(train, 0), params, **how)
    assert trees_equal(first, again)
    assert again[1].params["kernel"].dtype == jnp.bfloat16 and again[1].params["scale"].dtype == np.float16


def test_numbers_among_the_parameters_come_back_as_they_were_trained(tmp_path):
    params = {"kernel": jnp.ones((2, 2)), "scale": 0.5, "steps": 0, "is_done": False}

    def trained(params, masks, key):
        return {**params, "scale": params["scale"] / 2, "steps": 3, "is_done": True}

    how = {"rounds": 1, "workdir": tmp_path}
    jt.imp(trained, params, key=0, **how)
    again = jt.imp(until(trained, 0), params, key=0, **how)
    found = {name: value for name, value in again[1].params.items() if name != "kernel"}
    assert found == {"scale": 0.25, "steps": 3, "is_done": True}
    assert {name: type(value) for name, value in found.items()} == {"scale": float, "steps": int, "is_done": bool}
    with pytest.raises(UserError, match="its rounds differ in key;"):
        jt.imp(until(trained, 0), params, key=7, **how)
    with pytest.raises(UserError, match="its rounds differ in params;"):
        jt.imp(until(trained, 0), {**params, "scale": 0.25}, key=0, **how)


def test_metrics_that_are_no_finite_numbers_come_back(tmp_path):
    metrics = {"nan": float("nan"), "inf": float("inf"), "low": -float("inf"), "loss": 0.1}
    how = {"key": KEY, "rounds": 0, "callback": lambda found, state: metrics, "workdir": tmp_path}
    jt.imp(lambda params, masks, key: params, mlp(), **how)
    (again,) = jt.imp(until(train, 0), mlp(), **how)
    assert again.metrics.keys() == metrics.keys()
    np.testing.assert_array_equal([again.metrics[name] for name in metrics], list(metrics.values()))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"rounds": None, "targets": [0.5]}, r"levels \(\[0.0, .* there, \[0.0, .* here\)"),
        ({"rate": 0.3}, "levels .*"),
        ({"early": None}, r"early \(True there, False here\)"),
        ({"score": partial(jt.pruning.random, seed=1)}, r"score \('magnitude' there, 'random\(seed=1\)' here\)"),
        ({"scope": "layerwise", "min_per_layer": 2}, r"scope \(.*\), min_per_layer \(0 there, 2 here\)"),
        ({"key": jax.random.key(1)}, "key"),
        ({"exclude": ["^1/"]}, "masks"),
        ({"params": mlp(1)}, "params"),
    ],
)
def test_a_directory_of_other_arguments_is_refused_before_anything_is_trained(tmp_path, changed, named):
    with pytest.raises(KilledError):
        jt.imp(until(late, 0), mlp(), **HOW, workdir=tmp_path)
    how = {"params": mlp(), **HOW, **changed}
    with pytest.raises(UserError, match=f"its rounds differ in {named}; allowed are the arguments") as caught:
        jt.imp(until(late, 0), **how, workdir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds something else; allowed is an empty directory"):
        jt.imp(until(train, 0), mlp(), key=KEY, rounds=1, workdir=tmp_path)
    with pytest.raises(UserError, match="is a file; allowed is a directory"):
        jt.imp(until(train, 0), mlp(), key=KEY, rounds=1, workdir=tmp_path / "thesis.tex")
    (tmp_path / "imp.json").write_text("{}")
    with pytest.raises(UserError, match="is not what jt.imp has written"):
        jt.imp(until(train, 0), mlp(), key=KEY, rounds=1, workdir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imp.json", "thesis.tex"]


def test_what_partial_has_given_a_score_is_compared(tmp_path):
    how = {"params": mlp(), "key": KEY, "rounds": 1}
    other = jax.tree.map(lambda leaf: leaf + 1, mlp())
    change = jt.pruning.magnitude_change

    def of(start, path):
        return jt.imp(until(late, 0), **how, score=partial(change, start=start), workdir=tmp_path / path)

    for number, pair in enumerate([(mlp(), other), (1, 2), ([len], [max])]):
        for start in (pair[0], pair[0]):
            with pytest.raises(KilledError):
                of(start, str(number))
        with pytest.raises(UserError, match=r"differ in score .*magnitude_change.*start="):
            of(pair[1], str(number))


@pytest.mark.parametrize("metrics", [{"loss": np.ones(2)}, {"loss": "low"}, 0.5])
def test_a_callback_that_fails_loses_no_trained_round(tmp_path, metrics):
    how = {"key": KEY, "rounds": 1, "workdir": tmp_path}
    with pytest.raises(UserError, match="callback: (loss is|has returned a float)") as caught:
        jt.imp(train, mlp(), **how, callback=lambda found, state: metrics)
    assert "\n" not in str(caught.value)
    rounds = jt.imp(until(train, 1), mlp(), **how, callback=lambda found, state: {"n": found.number})
    assert [found.metrics for found in rounds] == [{"n": 0}, {"n": 1}]


def test_a_new_callback_measures_the_rounds_that_are_there_as_if_it_had_always_been_there(tmp_path):
    how = {"params": mlp(), "key": KEY, "rounds": 1}
    loss_of = lambda found, state: {"loss": loss(state, IMAGES, LABELS)}  # noqa: E731
    jt.imp(train, **how, workdir=tmp_path)
    again = jt.imp(until(train, 0), **how, callback=loss_of, workdir=tmp_path)
    assert trees_equal(again, jt.imp(train, **how, callback=loss_of))
    assert trees_equal(again, jt.imp(until(train, 0), **how, callback=until(loss_of, 0), workdir=tmp_path))


def test_a_callback_that_returns_nothing_is_called_once_per_round(tmp_path):
    for calls in (2, 0):
        nothing = until(lambda found, state: None, calls)
        rounds = jt.imp(until(train, calls), mlp(), key=KEY, rounds=1, callback=nothing, workdir=tmp_path)
        assert [found.metrics for found in rounds] == [{}, {}]


def test_rounds_whose_metrics_need_a_state_that_is_gone_are_named_in_a_warning(tmp_path, caplog):
    how = {"key": KEY, "rounds": 1, "early": early, "workdir": tmp_path}
    with pytest.raises(KilledError):
        jt.imp(late, mlp(), **how, callback=until(measured, 1))
    with caplog.at_level(logging.WARNING):
        rounds = jt.imp(until(late, 0), mlp(), **how, callback=until(measured, 0))
    assert [len(found.metrics) for found in rounds] == [2, 0]
    assert "rounds without metrics: 1. No callback had returned" in caplog.text


def test_more_rounds_go_on_after_those_that_are_there(tmp_path):
    how = {"params": mlp(), "key": KEY, "rate": 0.4}
    jt.imp(train, **how, rounds=1, workdir=tmp_path)
    longer = jt.imp(until(train, 1), **how, rounds=2, workdir=tmp_path)
    assert trees_equal(longer, jt.imp(train, **how, rounds=2))
    for rounds in (1, 2):
        again = jt.imp(until(train, 0), **how, rounds=rounds, workdir=tmp_path)
        assert trees_equal(again, longer[: rounds + 1])


def test_what_killed_writes_have_left_is_no_obstacle_and_goes(tmp_path):
    for name in (".imp-abcd1234.json", ".round_000-abcd1234.safetensors"):
        (tmp_path / name).write_text("")
        jt.imp(train, mlp(), key=KEY, rounds=0, workdir=tmp_path)
        assert not (tmp_path / name).exists()


def test_nothing_is_written_into_a_directory_that_was_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxtickets.lock.BEAT_SECONDS", 0.01)

    def losing(params, masks, key):
        (tmp_path / "lock").unlink()
        time.sleep(0.3)
        return params

    with pytest.raises(UserError, match="lock has gone: .*; allowed is one process"):
        jt.imp(losing, mlp(), key=KEY, rounds=0, workdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["imp.json"]


DENSE = jt.masks.ones(mlp())
HALF = jt.prune(jt.magnitude(mlp(), DENSE), DENSE, 0.5)


def of_older_version(directory, levels):
    """Gives a directory the levels that were saved when those of given masks began at 0."""
    file = directory / "imp.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"levels": levels}))


def test_a_directory_of_an_older_version_goes_on_with_the_same_targets_and_masks(tmp_path):
    how = {"train_fn": train, "params": mlp(), "key": KEY, "masks": HALF, "workdir": tmp_path}
    rounds = jt.imp(**how, targets=[0.7])
    of_older_version(tmp_path, [0.0, 0.7])
    assert trees_equal(jt.imp(**how | {"train_fn": until(train, 0)}, targets=[0.7]), rounds)
    longer = jt.imp(**how | {"train_fn": until(train, 1)}, targets=[0.7, 0.8])
    assert trees_equal(longer[:2], rounds) and longer[2].sparsity == pytest.approx(0.8, abs=1e-3)


def test_a_directory_whose_rate_counted_from_0_names_the_targets_that_go_on_with_it(tmp_path):
    how = {"train_fn": train, "params": mlp(), "key": KEY, "masks": HALF, "workdir": tmp_path}
    rounds = jt.imp(**how, targets=[0.6, 0.84])
    of_older_version(tmp_path, [0.0, 0.6, 0.84])
    with pytest.raises(
        UserError, match=r"differ in levels .* older version's .*: targets=\[0.6, 0.84\] goes on"
    ) as caught:
        jt.imp(**how, rounds=2, rate=0.6)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"differ in key; allowed are [^:]*$"):
        jt.imp(**how | {"key": jax.random.key(1)}, targets=[0.6, 0.84])
    assert trees_equal(jt.imp(**how | {"train_fn": until(train, 0)}, targets=[0.6, 0.84]), rounds)


@pytest.mark.parametrize("key", [None, (KEY, KEY), {"a": KEY}, "x", 1.5], ids=str)
def test_any_key_is_handed_on_as_it_is_unless_the_score_draws_with_it(key, tmp_path):
    keys = []

    def own(params, masks, key):
        keys.append(key)
        return params

    jt.imp(own, mlp(), key=key, rounds=1, workdir=tmp_path)
    assert all(given is key for given in keys) and len(keys) == 2
    with pytest.raises(UserError, match="^key: .*: the score needs seed, .*; allowed is a key of JAX, such as"):
        jt.imp(until(train, 0), mlp(), key=key, rounds=1, score=jt.pruning.random)


# Mistakes.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "rounds: None: allowed is a whole number, or targets"),
        ({"rounds": 3, "targets": [0.5]}, "rounds, targets: both are given"),
        ({"rounds": -1}, "rounds: -1: allowed is a whole number of at least 0"),
        ({"targets": [0.5, 0.5]}, r"targets: \[0.5, 0.5\]: allowed are sparsities above 0, each above the one before"),
        ({"targets": [50]}, "targets: 50: allowed is a number from 0 to below 1"),
        ({"rounds": 1, "early": early, "rewinds": False}, "early: nothing is rewound"),
        ({"rounds": 1, "score": jt.snip}, r"score: needs losses, which imp does not have; allowed is what functools"),
        ({"rounds": 1, "structure": "filter"}, "structure 'filter': which axes of 0/w .* is not known"),
        ({"rounds": 1, "masks": jt.masks.ones(mlp(width=8))}, "masks: that of 0/w has the shape"),
        (
            {"rounds": 1, "masks": jax.tree.map(jnp.int32, jt.masks.ones(mlp()))},
            "masks: that of 0/w is of int32; allowed",
        ),
        (
            {"targets": [0.4], "masks": HALF},
            r"targets: \[0.4\]: allowed are sparsities above 0.5, the masks' own, each",
        ),
        ({"rounds": 1, "masks": HALF, "include": ["w"]}, "^masks, include: both are given; allowed is one of them"),
        ({"rounds": 1, "masks": HALF, "exclude": "^1/"}, "^masks, exclude: both are given; allowed is one of them"),
        ({"rounds": 50}, "^rounds: the last round would keep none of 1776 weights"),
        ({"targets": [0.5, 0.99999]}, "^targets: the last round would keep none of 1776 weights"),
        ({"rounds": 10, "structure": "2:4"}, "rounds: 10: 2:4 has one sparsity, 0.5, and so one round; allowed is 1"),
        ({"targets": [0.5, 0.6], "structure": "2:4"}, r"targets: .*; allowed is \[0.5\]"),
        ({"rounds": 1, "include": ["kernel"]}, "^include: 'kernel' matches no parameter"),
    ],
)
def test_mistakes_are_told_in_a_line_before_anything_is_trained(options, message):
    with pytest.raises(UserError, match=message) as caught:
        jt.imp(until(train, 0), mlp(), key=KEY, **options)
    assert "\n" not in str(caught.value)


def test_a_training_function_that_returns_other_shapes_is_told():
    with pytest.raises(UserError, match=r"train_fn: 0/b has the shape \(1, 24\); allowed is the shape \(24,\)"):
        jt.imp(
            lambda params, masks, key: [{**params[0], "b": params[0]["b"][None]}, params[1]], mlp(), key=KEY, rounds=1
        )


def test_a_training_function_that_returns_no_parameters_is_told():
    with pytest.raises(UserError, match=r"train_fn: has returned a tuple in which .* params_of=, such as"):
        jt.imp(lambda params, masks, key: (params, 0.5), mlp(), key=KEY, rounds=1)
    found = jt.imp(lambda p, masks, key: (p, 0.5), mlp(), key=KEY, rounds=1, params_of=lambda state: state[0])
    assert len(found) == 2
