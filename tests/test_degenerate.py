"""Degenerate cases of training and pruning: an emptied layer, equal scores, another number of devices on resume."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import Killed, environment, finish, kill_after, tiny

from jaxtickets import finite, pruning, train
from jaxtickets import masks as mask_lib
from jaxtickets.devices import replicate, unreplicate
from jaxtickets.runs import Setup

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def config(data_directory):
    return tiny("ae_digits", data_directory, **{"model.name": "linear_ae", "model.image_size": 28, "prune.rounds": 1})


@pytest.mark.parametrize("layer", ["encoder/down_1/kernel", "decoder/unproject/kernel"])
def test_a_network_with_an_emptied_layer_trains_on_in_finite_numbers(config, layer):
    setup = Setup(config)
    masks = jax.tree_util.tree_map_with_path(
        lambda path, mask: np.zeros_like(mask) if mask_lib.path_name(path) == layer else mask, setup.dense_masks
    )
    state = replicate(train.rewind(setup.init(0), masks))
    for step in range(5):
        _, *batch = next(iter(setup.batches([0], [range(step, step + 1)])))
        state, scalars = setup.programs.get(step)(state, replicate(masks), *batch, None)
        assert np.all(np.asarray(scalars[finite.FINITE]) == 1)
    weights = mask_lib.named_leaves(unreplicate(state).params)
    assert not np.any(weights[layer])
    assert finite.all_finite(weights)


def test_of_equal_scores_the_first_weights_stay():
    masks = {"net": {"a": np.ones(6, bool), "b": np.ones(4, bool)}}
    scores = jax.tree.map(lambda mask: np.ones(mask.shape, np.float32), masks)
    kept = pruning.prune(scores, masks, 0.3)
    assert kept["net"]["a"].tolist() == [True] * 6
    assert kept["net"]["b"].tolist() == [True, False, False, False]


@pytest.mark.skipif(jax.local_device_count() < 2, reason="needs two devices; the test below runs it with them")
def test_a_run_goes_on_with_another_number_of_devices_to_the_same_numbers(config, tmp_path):
    one, all_devices = Setup(config, devices=tuple(jax.local_devices()[:1])), Setup(config)
    whole, _ = finish(one, tmp_path / "whole")
    kill_after(one, 12 + 6)
    with pytest.raises(Killed):
        finish(one, tmp_path / "cut")
    cut, _ = finish(all_devices, tmp_path / "cut")
    for ours, theirs in zip(jax.tree.leaves(cut.trained.params), jax.tree.leaves(whole.trained.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    rows = [run.place.read_rounds()[1]["reconstruction_error"] for run in (cut, whole)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-3)


@pytest.mark.slow
def test_it_does_so_with_two_devices():
    given = {name: value for name, value in environment(2).items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-k", "another_number", __file__]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
