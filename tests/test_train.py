"""The step, rewinding, and one device against eight."""

import functools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtickets import masks as mask_lib
from jaxtickets import models, train
from jaxtickets.data import batches
from jaxtickets.objectives import OBJECTIVES
from jaxtickets.pruning import magnitude, prune

OPTIONS = SimpleNamespace(real_label=0.9, beta=1.0)
MODEL_OF = {"gan": "dcgan", "vae": "conv_vae", "autoencoder": "conv_ae"}


@functools.cache
def adam(weight_decay=0.0):
    return train.adam(SimpleNamespace(learning_rate=1e-3, beta1=0.5, beta2=0.999, weight_decay=weight_decay))


@functools.cache
def make(objective_name, axis_name=None):
    sizes = dict(width=4, latent_size=4, image_size=16, channels=1)
    components = models.MODELS[MODEL_OF[objective_name]](**sizes, axis_name=axis_name)
    return OBJECTIVES[objective_name](components, OPTIONS)


@functools.cache
def initial_state(objective_name, seed=0, axis_name=None):
    return jax.device_get(train.init_state(make(objective_name, axis_name), adam(), seed))


@functools.cache
def compiled_step(objective_name, weight_decay, axis_name):
    return train.make_step(make(objective_name, axis_name), adam(weight_decay))


def images(n=64):
    return np.random.default_rng(0).integers(0, 256, (n, 16, 16, 1), dtype=np.uint8)


def fit(objective_name, state, masks, steps, weight_decay=0.0, batch_size=8, axis_name=None):
    """The state, on the host, and the last scalars after `steps` more steps."""
    step = compiled_step(objective_name, weight_decay, axis_name)
    devices = jax.local_device_count()
    state, masks, data = train.replicate(state), train.replicate(masks), train.replicate(images())
    for _, indices in batches.resident(data, batches.indices(0, 0, steps, 64, batch_size), devices):
        state, scalars = step(state, masks, data, indices)
    return train.unreplicate(state), {name: float(values[0]) for name, values in scalars.items()}


def pruned(state, sparsity):
    masks = mask_lib.ones(state.params)
    return prune(magnitude(state.params, masks), masks, sparsity)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_after_rewinding_all_that_is_kept_equals_the_rewind_point_bit_for_bit(name):
    start = initial_state(name)
    point, _ = fit(name, start, mask_lib.ones(start.params), 3)
    masks = pruned(point, 0.7)
    state = train.rewind(point, masks)
    chex.assert_trees_all_equal(state.batch_stats, point.batch_stats)
    assert state.step == point.step == 3
    assert state.seed == point.seed

    moments = {}
    for player, components in make(name).players.items():
        player_masks = {component: masks[component] for component in components}
        adam_before, adam_after = (tree.opt_state[player][1][0] for tree in (point, state))
        assert isinstance(adam_after, optax.ScaleByAdamState)
        assert adam_after.count == adam_before.count == 3
        moments[player] = [(adam_before.mu, adam_after.mu, player_masks), (adam_before.nu, adam_after.nu, player_masks)]
    trees = [(point.params, state.params, masks), *(row for rows in moments.values() for row in rows)]
    for before, after, tree_masks in trees:
        before, after = mask_lib.named_leaves(before), mask_lib.named_leaves(after)
        tree_masks = mask_lib.named_leaves(tree_masks)
        assert before.keys() == after.keys()
        for path, leaf in after.items():
            keep = tree_masks.get(path, np.ones(leaf.shape, bool))
            np.testing.assert_array_equal(leaf[keep], before[path][keep])
            assert np.all(leaf[~keep] == 0)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_a_pruned_weight_stays_exactly_zero_through_training(name, weight_decay):
    start = initial_state(name)
    # The state of Adam behind weight decay is that of Adam without it.
    point, _ = fit(name, start, mask_lib.ones(start.params), 3)
    masks = pruned(point, 0.6)
    state, _ = fit(name, train.rewind(point, masks), masks, 5, weight_decay)
    leaves = mask_lib.named_leaves(state.params)
    for path, mask in mask_lib.named_leaves(masks).items():
        assert np.all(leaves[path][~mask] == 0)
        assert np.any(leaves[path][mask] != mask_lib.named_leaves(point.params)[path][mask])


def test_training_with_the_dense_mask_equals_training_without_masks():
    state = initial_state("vae")
    masked, _ = fit("vae", state, mask_lib.ones(state.params), 4)
    unmasked, _ = fit("vae", state, jax.tree.map(lambda _: None, state.params), 4)
    chex.assert_trees_all_close(masked.params, unmasked.params, rtol=1e-5, atol=1e-7)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    start = initial_state("gan")
    masks = mask_lib.ones(start.params)
    first, second, other = (fit("gan", start.replace(seed=np.uint32(seed)), masks, 3)[0] for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, second)
    assert not np.array_equal(jax.tree.leaves(first.params)[0], jax.tree.leaves(other.params)[0])


def test_weight_decay_is_that_of_pytorchs_adam():
    torch = pytest.importorskip("torch")
    weights = np.array([1.0, -2.0, 3.0], np.float32)
    gradients = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(weights))
    torch_adam = torch.optim.Adam([parameter], lr=1e-3, betas=(0.5, 0.999), weight_decay=0.1)
    optimizer = adam(0.1)
    params = {"w": jnp.asarray(weights)}
    state = optimizer.init(params)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        torch_adam.step()
        updates, state = optimizer.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], parameter.detach().numpy(), rtol=1e-5)


def test_images_are_mapped_from_bytes_to_minus_one_to_one():
    np.testing.assert_allclose(train.to_float(np.array([0, 255], np.uint8)), [-1, 1])


def test_flipping_mirrors_about_half_of_the_images_and_changes_nothing_else():
    batch = train.to_float(images(200))
    keys = jax.random.split(jax.random.key(0), 200)
    flipped = np.asarray(train._random_flip(batch, keys))
    mirrored = (flipped == np.asarray(batch)[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == np.asarray(batch)).all(axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 70 < mirrored.sum() < 130


def test_the_order_of_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    order = batches.epoch_order(1, 2, 50)
    np.testing.assert_array_equal(order, batches.epoch_order(1, 2, 50))
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert not np.array_equal(order, batches.epoch_order(1, 3, 50))
    assert not np.array_equal(order, batches.epoch_order(2, 2, 50))


def test_the_data_order_after_step_k_is_the_same_wherever_training_starts():
    whole = list(batches.indices(3, 0, 40, 50, 8))
    np.testing.assert_array_equal(whole[13:], list(batches.indices(3, 13, 40, 50, 8)))


def test_streamed_batches_are_the_resident_ones():
    data, devices = images(), jax.local_device_count()
    resident = batches.resident(train.replicate(data), batches.indices(0, 0, 9, 64, 8 * devices), devices)
    streamed = batches.streamed(data, batches.indices(0, 0, 9, 64, 8 * devices), devices)
    for (whole, chosen), (batch, order) in zip(resident, streamed, strict=True):
        gathered = np.stack([np.asarray(whole[device])[chosen[device]] for device in range(devices)])
        again = np.stack([np.asarray(batch[device])[order[device]] for device in range(devices)])
        np.testing.assert_array_equal(gathered, again)


def test_an_error_while_streaming_reaches_the_loop():
    class Broken:
        shape = (4, 16, 16, 1)

        def __getitem__(self, chosen):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(batches.streamed(Broken(), iter([np.arange(4)]), 1))


PROGRAM = """
import json, sys
sys.path.insert(0, {tests!r})
import jax, numpy as np
import test_train as t
from jaxtickets import masks as mask_lib, train
results = {{}}
for name in t.MODEL_OF:
    state = t.initial_state(name, 0, train.AXIS)
    state, scalars = t.fit(name, state, t.pruned(state, 0.5), 3, batch_size=16, axis_name=train.AXIS)
    norms = {{path: float(np.abs(leaf).sum()) for path, leaf in mask_lib.named_leaves(state.params).items()}}
    stats = {{path: float(np.abs(leaf).sum()) for path, leaf in mask_lib.named_leaves(state.batch_stats).items()}}
    results[name] = [scalars, norms, stats]
print(json.dumps([jax.local_device_count(), results]))
"""


def _on_devices(count):
    program = PROGRAM.format(tests=os.path.dirname(__file__))
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    devices, results = json.loads(result.stdout.splitlines()[-1])
    assert devices == count
    return results


def test_eight_devices_compute_what_one_computes():
    one, eight = _on_devices(1), _on_devices(8)
    for name in MODEL_OF:
        for ours, theirs in zip(one[name], eight[name], strict=True):
            assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-5), name
