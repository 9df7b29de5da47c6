"""Tests of the train step, its players and optimisers, batches and rewinding, and of one device against eight."""

import functools
import json
import os
import subprocess
import sys
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_masked, environment, moments

from jaxtickets import masks as mask_lib
from jaxtickets import models, train
from jaxtickets.config import get_config
from jaxtickets.data import batches
from jaxtickets.devices import AXIS, replicate, unreplicate
from jaxtickets.examples import to_float, training_images
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.optimizers import make_optimizers
from jaxtickets.pruning import channels, magnitude, prune


class Game(NamedTuple):
    """An objective, its network, and their fields that have not their defaults.

    options: of `config.objective`; optimizer: of `config.optimizer`; sizes: what the network is made with.
    """

    objective: str
    model: str
    options: dict = {}
    optimizer: dict = {}
    sizes: dict = {}


EMA_DECAY = 0.2  # Reached in the third step, because 1 / 10 and 2 / 11 are less.
CLIP, N_CRITIC = 0.01, 3
RATES = {"discriminator": 4e-3, "generator": 1e-3}
GAMES = {
    "gan": Game("gan", "dcgan", {"real_label": 0.9}),
    "vae": Game("vae", "conv_vae"),
    "vq_vae": Game("vq_vae", "vq_vae", sizes={"codes": 4}),
    "autoencoder": Game("autoencoder", "conv_ae"),
    "wgan": Game(
        "gan", "dcgan", {"loss": "wasserstein", "clip": CLIP, "n_critic": N_CRITIC}, {"name": "rmsprop", "beta2": 0.9}
    ),
    "averaged": Game(
        "gan",
        "dcgan",
        {"loss": "hinge", "ema_decay": EMA_DECAY, "augmentations": ("translation",)},
        {"discriminator_learning_rate": RATES["discriminator"]},
        {"discriminator_norm": "spectral"},
    ),
    "averaged_codes": Game("vq_vae", "vq_vae", sizes={"codes": 4, "codebook_decay": 0.9}),
    "rematerialized": Game("gan", "dcgan", sizes={"rematerialize": True}),
}
assert set(GAMES) >= set(OBJECTIVES)


def configured(name, /, **optimizer):
    """The config of a game, with changes of `config.optimizer`."""
    game, config = GAMES[name], get_config()
    config.objective.update(game.options)
    config.optimizer.update({"learning_rate": RATES["generator"], "beta1": 0.5, **game.optimizer, **optimizer})
    return config


def make_game(name, /, **optimizer):
    """The objective of a game, with changes of `config.optimizer`."""
    game = GAMES[name]
    sizes = dict(width=4, latent_size=4, image_size=16, channels=1)
    components = models.NETWORKS[game.model].make(**sizes, **game.sizes, axis_name=AXIS)
    return OBJECTIVES[game.objective].make(components, configured(name, **optimizer))


@functools.cache
def make(name):
    return make_game(name)


@functools.cache
def optimizers(name, weight_decay=0.0):
    return make_optimizers(make(name), configured(name, weight_decay=weight_decay).optimizer)


@functools.cache
def initial_state(name):
    return jax.device_get(jax.jit(functools.partial(train.init_state, make(name), optimizers(name)))(np.uint32(0)))


@functools.cache
def compiled_step(name, moving, weight_decay=0.0):
    return train.make_step(make(name), optimizers(name, weight_decay), moving)


def images(n=64):
    return np.random.default_rng(0).integers(0, 256, (n, 16, 16, 1), dtype=np.uint8)


def one_by_one(start, stop):
    return [range(step, step + 1) for step in range(start, stop)]


def on_device(data, blocks, **options):
    """The inputs of each block of steps, for 64 images on the devices of which a step reads 16."""
    chosen = functools.partial(batches.indices, 0, n=64, batch_size=16)
    return batches.resident(data, chosen, blocks, jax.local_device_count(), **options)


def fit(name, state, masks, steps, weight_decay=0.0):
    """`(state, last scalars)`, on the host, after `steps` more steps."""
    start = int(state.step)
    state, masks, resident = map(replicate, (state, masks, (images(), None)))
    for block, data, indices in on_device(resident, one_by_one(start, start + steps)):
        step = compiled_step(name, train.movers(make(name), block.start), weight_decay)
        state, scalars = step(state, masks, data, indices)
    return unreplicate(state), {name: float(values[0]) for name, values in scalars.items()}


def pruned(state, sparsity):
    masks = mask_lib.ones(state.params)
    return prune(magnitude(state.params, masks), masks, sparsity, scope="layerwise")


@functools.cache
def trained(name):
    """`(states after 0, 1, 2 and 3 steps, masks of the last of them)`."""
    states = [initial_state(name)]
    for _ in range(3):
        states.append(fit(name, states[-1], mask_lib.ones(states[-1].params), 1)[0])
    return states, pruned(states[-1], 0.6)


@functools.cache
def retrained(name):
    """The states after 0, 1, 2 and 3 more steps from the last state of `trained` under its masks."""
    states, masks = trained(name)
    states = [train.rewind(states[-1], masks)]
    for _ in range(3):
        states.append(fit(name, states[-1], masks, 1)[0])
    return states


@pytest.mark.parametrize("name", GAMES)
def test_after_rewinding_what_is_kept_equals_the_rewind_point(name):
    states, masks = trained(name)
    point, state = states[-1], retrained(name)[0]
    chex.assert_trees_all_equal(state.batch_stats, point.batch_stats)
    assert state.step == point.step == 3
    assert state.seed == point.seed
    assert_masked(state.params, masks, point.params)
    for player, (components, *_) in make(name).players.items():
        (before, count_before), (after, count_after) = moments(point, player), moments(state, player)
        if GAMES[name].optimizer.get("name") != "rmsprop":
            assert count_before == count_after == 3
        for tree_before, tree_after in zip(before, after, strict=True):
            assert_masked(tree_after, {component: masks[component] for component in components}, tree_before)


@pytest.mark.parametrize("name", GAMES)
def test_a_pruned_weight_stays_exactly_zero_through_training(name):
    _, masks = trained(name)
    start, *_, end = retrained(name)
    assert_masked(end.params, masks)
    before, after = (mask_lib.named_leaves(state.params) for state in (start, end))
    for path, mask in mask_lib.named_leaves(masks).items():
        assert np.any(after[path][mask] != before[path][mask]), path


@pytest.mark.parametrize("name", ["gan", "vq_vae"])
def test_weight_decay_does_not_move_a_pruned_weight_either(name):
    # Adam behind weight decay has the same state as Adam without it.
    _, masks = trained(name)
    state, _ = fit(name, retrained(name)[0], masks, 2, weight_decay=1e-2)
    assert_masked(state.params, masks)


def differ(first, second):
    return any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.any(a != b)), first, second)))


def test_the_generator_moves_in_every_third_step_only():
    objective = make("wgan")
    both, one = ("discriminator", "generator"), ("discriminator",)
    assert [train.movers(objective, step) for step in range(6)] == [one, one, both, one, one, both]
    states = [*trained("wgan")[0], *retrained("wgan")]
    for before, after in zip(states, states[1:], strict=False):
        if after.step == before.step:  # The rewind.
            continue
        moves = after.step % N_CRITIC == 0
        assert differ(before.params["discriminator"], after.params["discriminator"])
        assert differ(before.params["generator"], after.params["generator"]) == moves
        assert differ(before.opt_state["generator"], after.opt_state["generator"]) == moves
        # The generator's batch norms see a batch whenever the discriminator does.
        assert differ(before.batch_stats["generator"], after.batch_stats["generator"])
    assert states[-1].step == 6


def test_clipped_weights_stay_within_bounds_and_pruned_ones_at_zero():
    (start, *states), masks = trained("wgan")
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(start.params["discriminator"])) > CLIP
    for state in (*states, *retrained("wgan")):
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.params["discriminator"]))
        assert largest == np.float32(CLIP)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(state.params["generator"])) > CLIP
    for state in retrained("wgan"):
        assert_masked(state.params["discriminator"], masks["discriminator"])


def test_each_players_first_step_is_as_long_as_its_learning_rate():
    # Adam's first step is the learning rate times the sign of the gradient, if the gradient is well above epsilon.
    before, after, *_ = trained("averaged")[0]
    for player, rate in RATES.items():
        (first_moment, _), count = moments(after, player)
        assert count == 1
        trees = (before.params, after.params, first_moment)
        old, new, moment = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree[player])]) for tree in trees)
        gradient = moment / (1 - 0.5)
        clear = np.abs(gradient) > 1e-4
        assert clear.mean() > 0.5
        np.testing.assert_allclose((new - old)[clear], -rate * np.sign(gradient[clear]), rtol=2e-3, atol=2e-7)


def test_the_l1_penalty_adds_its_weight_times_the_sign_of_each_gamma():
    game, weights, rng = "vae", {"encoder": 0.5, "decoder": 0.0}, np.random.default_rng(0)
    start = initial_state(game)
    names = models.axis_names(make(game).components).params
    is_gamma = channels.is_gamma(start.params, names, start.batch_stats)
    draw = lambda leaf: rng.choice([-0.5, 0.0, 2.0], leaf.shape).astype(np.float32)  # noqa: E731
    start = start.replace(
        params=jax.tree.map(lambda gamma, leaf: draw(leaf) if gamma else leaf, is_gamma, start.params)
    )
    masks = mask_lib.ones(start.params)
    l1 = {
        component: jax.tree.map(lambda gamma, weight=weight: weight if gamma else None, is_gamma[component])
        for component, weight in weights.items()
    }
    step = train.make_step(make(game), optimizers(game), (game,), l1=l1)
    ((_, *batch),) = on_device(replicate((images(), None)), one_by_one(0, 1))
    state, _ = step(replicate(start), replicate(masks), *batch)
    plain, _ = fit(game, start, masks, 1)
    # After the first step Adam's first moment is 1 - beta1 times the gradient.
    penalized, before = (mask_lib.named_leaves(moments(each, game)[0][0]) for each in (unreplicate(state), plain))
    gammas = {path for path, gamma in mask_lib.named_leaves(is_gamma).items() if gamma}
    assert {path.split("/")[0] for path in gammas} == set(weights)
    leaves = mask_lib.named_leaves(start.params)
    for path, moment in before.items():
        if path in gammas and (weight := weights[path.split("/")[0]]):
            added = (1 - 0.5) * weight * np.sign(leaves[path])
            np.testing.assert_allclose(penalized[path] - moment, added, rtol=1e-5, atol=1e-6, err_msg=path)
        else:  # The same number, of another program.
            np.testing.assert_allclose(penalized[path], moment, rtol=1e-5, atol=1e-7, err_msg=path)


# The optimisers with L2 weight decay: our options, and the same in PyTorch.
OPTIMIZERS = {
    "adam": ({"beta1": 0.5, "beta2": 0.99, "weight_decay": 0.1}, ("Adam", {"betas": (0.5, 0.99), "weight_decay": 0.1})),
    "rmsprop": ({"beta2": 0.99, "weight_decay": 0.0}, ("RMSprop", {})),  # 0.99 is PyTorch's default.
    "rmsprop_decayed": ({"beta2": 0.9, "weight_decay": 0.1}, ("RMSprop", {"alpha": 0.9, "weight_decay": 0.1})),
}


def _optimized(name, decay=None):
    """`(weights before, gradients, weights after)` of 300 steps in float64, at a learning rate of 0.01.

    The gradients are from 1e-12 to 1, so that an epsilon of 1e-8 matters; `decay` replaces the weight decay.
    """
    rng = np.random.default_rng(0)
    weights, gradients = rng.normal(size=13), rng.normal(size=(300, 13)) * 10.0 ** np.arange(-12, 1)
    options = OPTIMIZERS[name][0] | ({} if decay is None else {"weight_decay": decay})
    with jax.enable_x64(True):
        options = configured("autoencoder", name=name.partition("_")[0], learning_rate=0.01, **options).optimizer
        optimizer = make_optimizers(make("autoencoder"), options)["autoencoder"]
        params = {"w": jnp.asarray(weights)}
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        for gradient in gradients:
            updates, state = update({"w": jnp.asarray(gradient)}, state, params)
            params = optax.apply_updates(params, updates)
        return weights, gradients, np.asarray(params["w"])


def test_rmsprop_adds_epsilon_to_the_root_of_the_mean_square():
    weights, gradients, ours = _optimized("rmsprop")
    mean_square = np.zeros(13)
    for gradient in gradients:
        mean_square = 0.99 * mean_square + 0.01 * np.square(gradient)
        weights = weights - 0.01 * gradient / (np.sqrt(mean_square) + 1e-8)
    np.testing.assert_allclose(ours, weights, rtol=1e-12)


def test_adam_is_the_published_algorithm():
    """Kingma, Ba 2015, algorithm 1."""
    weights, gradients, ours = _optimized("adam", decay=0.0)
    mean, mean_square = np.zeros(13), np.zeros(13)
    for step, gradient in enumerate(gradients, start=1):
        mean = 0.5 * mean + 0.5 * gradient
        mean_square = 0.99 * mean_square + 0.01 * np.square(gradient)
        root = np.sqrt(mean_square / (1 - 0.99**step))
        weights = weights - 0.01 * mean / (1 - 0.5**step) / (root + 1e-8)
    np.testing.assert_allclose(ours, weights, rtol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_with_weight_decay_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    weights, gradients, ours = _optimized(name)
    parameter = torch.nn.Parameter(torch.tensor(weights))
    kind, options = OPTIMIZERS[name][1]
    optimizer = getattr(torch.optim, kind)([parameter], lr=0.01, **options)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(ours, parameter.detach().numpy(), rtol=1e-12)


def test_the_discriminators_learning_rate_may_be_its_own():
    for own, expected in ((0.0, 1e-3), (4e-3, 4e-3)):
        changes = {"discriminator_learning_rate": own}
        options = configured("gan", **changes).optimizer
        for player, optimizer in make_optimizers(make_game("gan", **changes), options).items():
            params = {"w": jnp.zeros(1)}
            updates, _ = optimizer.update({"w": jnp.ones(1)}, optimizer.init(params), params)
            assert updates["w"][0] == pytest.approx(-(expected if player == "discriminator" else 1e-3), rel=1e-4)


def _running_average(states):
    """Yields the generator's running averages, by NumPy, after the steps that made `states[1:]`."""
    average = {field: getattr(states[0], field)["generator"] for field in ("params", "batch_stats")}
    for steps_done, state in enumerate(states[1:]):
        decay = min(EMA_DECAY, (1 + steps_done) / (10 + steps_done))
        average = {
            field: jax.tree.map(
                lambda old, new, decay=decay: decay * np.asarray(old, np.float64) + (1 - decay) * new,
                tree,
                getattr(state, field)["generator"],
            )
            for field, tree in average.items()
        }
        yield average


def test_the_running_average_is_over_the_generators_of_all_steps():
    states, _ = trained("averaged")
    for state, expected in zip(states[1:], _running_average(states), strict=True):
        ours = {field: tree["generator"] for field, tree in state.average.items()}
        chex.assert_trees_all_close(ours, expected, rtol=1e-5, atol=1e-7)
        assert set(state.average["params"]) == {"generator"}
    decays = [min(EMA_DECAY, (1 + step) / (10 + step)) for step in range(3)]
    assert decays == [1 / 10, 2 / 11, EMA_DECAY]


def test_running_averages_are_evaluated_where_there_are_any():
    state = trained("averaged")[0][-1]
    params, batch_stats = train.evaluated(state)
    for ours, own, average in (
        (params, state.params, state.average["params"]),
        (batch_stats, state.batch_stats, state.average["batch_stats"]),
    ):
        chex.assert_trees_all_equal(ours, {"discriminator": own["discriminator"], "generator": average["generator"]})
        assert differ(ours["generator"], own["generator"])
    for name in ("gan", "vae"):
        state = trained(name)[0][-1]
        assert state.average == {}
        chex.assert_trees_all_equal(train.evaluated(state), (state.params, state.batch_stats))


def test_a_pruned_weight_is_exactly_zero_in_the_average_too():
    states, masks = trained("averaged")
    point, (start, *later) = states[-1], retrained("averaged")
    generator = {"generator": masks["generator"]}
    assert_masked(start.average["params"], generator, point.average["params"])
    chex.assert_trees_all_equal(start.average["batch_stats"], point.average["batch_stats"])
    for state in later:
        assert_masked(state.average["params"], generator)
        assert differ(state.average, start.average)


def test_training_with_the_dense_mask_equals_training_without_masks():
    state = initial_state("autoencoder")
    masked, _ = fit("autoencoder", state, mask_lib.ones(state.params), 4)
    unmasked, _ = fit("autoencoder", state, jax.tree.map(lambda _: None, state.params), 4)
    chex.assert_trees_all_close(masked.params, unmasked.params, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["gan", "averaged"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name):
    start = initial_state(name)
    masks = mask_lib.ones(start.params)
    first, second, other = (fit(name, start.replace(seed=np.uint32(seed)), masks, 3)[0] for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, second)
    assert differ(first.params, other.params)


def test_images_are_mapped_from_bytes_to_minus_one_to_one():
    np.testing.assert_allclose(to_float(np.array([0, 255], np.uint8)), [-1, 1])


def test_flipping_mirrors_about_half_of_the_images():
    batch, flipped = (np.asarray(training_images(images(200), 0, 0, np.arange(200), flip)) for flip in (False, True))
    np.testing.assert_array_equal(batch, to_float(images(200)))
    mirrored = (flipped == batch[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == batch).all(axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 70 < mirrored.sum() < 130


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    order = batches.epoch_order(1, 2, 50)
    np.testing.assert_array_equal(order, batches.epoch_order(1, 2, 50))
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert not np.array_equal(order, batches.epoch_order(1, 3, 50))
    assert not np.array_equal(order, batches.epoch_order(2, 2, 50))


def test_the_data_order_is_the_same_wherever_training_starts():
    whole = list(batches.indices(3, 0, 40, 50, 8))
    np.testing.assert_array_equal(whole[13:], list(batches.indices(3, 13, 40, 50, 8)))


@pytest.mark.parametrize("labels", [None, np.arange(64, dtype=np.int32)], ids=["without_labels", "with_labels"])
def test_streamed_batches_are_the_resident_ones(labels):
    data, devices = (images(), labels), jax.local_device_count()
    choose = functools.partial(batches.indices, 0, n=64, batch_size=8 * devices)
    blocks = list(batches.blocks(1, 21, 3, lambda step: step == 10))
    resident = batches.resident(replicate(data), choose, blocks, devices, rows=6)
    for block, (ours, whole, chosen), (theirs, batch, order) in zip(
        blocks, resident, batches.streamed(data, choose, blocks, devices), strict=True
    ):
        assert block == ours == theirs
        assert jax.tree.structure(whole) == jax.tree.structure(batch) == jax.tree.structure(data)
        for step, expected in zip(block, choose(block.start, block.stop), strict=True):
            for device, own in enumerate(expected.reshape(devices, -1)):
                np.testing.assert_array_equal(chosen[device][step % chosen.shape[1]], own)
                for leaf, on_device, sent in zip(*map(jax.tree.leaves, (data, whole, batch)), strict=True):
                    np.testing.assert_array_equal(on_device[device], leaf)
                    np.testing.assert_array_equal(
                        np.asarray(sent[device])[order[device][step % order.shape[1]]], leaf[own]
                    )


def test_an_error_while_streaming_reaches_the_loop():
    class Broken:
        shape = (4, 16, 16, 1)

        def __getitem__(self, chosen):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(batches.streamed(Broken(), lambda start, stop: [np.arange(4)], [range(1)], 1))


ON_DEVICES = ("gan", "vae", "autoencoder", "averaged", "averaged_codes", "rematerialized")


def sums_after_three_steps():
    """`{game: [scalars, sums of params, of batch_stats, of averages]}` after three steps on all local devices."""
    sums = {}
    for name in ON_DEVICES:
        state = initial_state(name)
        state, scalars = fit(name, state, pruned(state, 0.5), 3)
        trees = (mask_lib.named_leaves(tree) for tree in (state.params, state.batch_stats, state.average))
        sums[name] = [scalars, *({path: float(np.abs(leaf).sum()) for path, leaf in tree.items()} for tree in trees)]
    return sums


PROGRAM = """
import json, sys
sys.path.insert(0, {tests!r})
import jax, test_train
print(json.dumps([jax.local_device_count(), test_train.sums_after_three_steps()]))
"""


def _on_devices(count):
    if (jax.default_backend(), jax.local_device_count()) == ("cpu", count):
        return sums_after_three_steps()
    program = PROGRAM.format(tests=os.path.dirname(__file__))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment(count))
    assert result.returncode == 0, result.stderr
    devices, results = json.loads(result.stdout.splitlines()[-1])
    assert devices == count
    return results


def test_eight_devices_compute_what_one_computes():
    one, eight = _on_devices(1), _on_devices(8)
    for name in ON_DEVICES:
        for ours, theirs in zip(one[name], eight[name], strict=True):
            assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-5), name
