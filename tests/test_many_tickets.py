"""The ways of `benchmarks/many_tickets.py` train the same tickets to the same numbers."""

import importlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT

from jaxtickets import masks as mask_lib
from jaxtickets.devices import unreplicate

pytestmark = pytest.mark.slow  # They test a benchmark.

SEEDS, SPARSITIES, STEPS = 2, (0.5, 0.9), 3
NETWORKS = {"dcgan": {"width": 4, "image_size": 16}, "linear_ae": {"width": 16, "image_size": 28, "latent_size": 3}}


@pytest.fixture(scope="module")
def many_tickets():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("many_tickets")


@pytest.fixture(scope="module", params=NETWORKS)
def fleet(request, many_tickets):
    sizes = NETWORKS[request.param]
    network = many_tickets.harness.training(request.param, **sizes)
    images = many_tickets.harness.random_images(64, sizes["image_size"])
    return many_tickets.make_fleet(network, images, 8, SEEDS, SPARSITIES, STEPS)


@pytest.fixture(scope="module")
def trained(fleet, many_tickets):
    """The states on the host after each of two calls, one ticket after another."""
    run = many_tickets.one_by_one(fleet, jax.local_devices()[0])
    return [[unreplicate(state) for state in run()] for _ in range(2)]


def test_tickets_have_seeds_masks_and_batches_of_their_own(fleet, trained):
    assert len(fleet.tickets) == len(trained[0]) == SEEDS * len(SPARSITIES)
    for number, (start, masks, chosen) in enumerate(fleet.tickets):
        assert int(start.seed) == number // len(SPARSITIES)
        assert mask_lib.sparsity(masks) == pytest.approx(SPARSITIES[number % len(SPARSITIES)], abs=0.01)
        assert chosen.shape == (STEPS, 8)
        for call, states in enumerate(trained, start=1):
            assert int(states[number].step) == call * STEPS
            for path, leaf in mask_lib.named_leaves(states[number].params).items():
                mask = mask_lib.named_leaves(masks).get(path)
                assert mask is None or np.all(leaf[~mask] == 0)
    assert not np.array_equal(fleet.tickets[0][2], fleet.tickets[-1][2])


def test_threads_train_bit_for_bit_as_one_after_another(fleet, trained, many_tickets):
    run = many_tickets.on_each_device(fleet, jax.local_devices()[:1] * 2)
    for states in trained:
        for ours, theirs in zip(run(), states, strict=True):
            jax.tree.map(np.testing.assert_array_equal, unreplicate(ours), theirs)


@pytest.mark.parametrize("way", [None, "xla", "products"])
def test_vmapped_tickets_train_as_one_after_another_within_rounding(fleet, trained, many_tickets, way):
    states = unreplicate(many_tickets.vmapped(fleet, jax.local_devices()[0], way)())
    for number, theirs in enumerate(trained[0]):
        ours = jax.tree.map(lambda leaf, number=number: leaf[number], states)
        for field in ("step", "seed"):
            assert getattr(ours, field) == getattr(theirs, field)
        for field in ("params", "batch_stats"):
            there = mask_lib.named_leaves(getattr(theirs, field))
            for path, leaf in mask_lib.named_leaves(getattr(ours, field)).items():
                np.testing.assert_allclose(leaf, there[path], rtol=1e-3, atol=1e-5, err_msg=path)


def test_the_benchmark_measures_every_way(tmp_path):
    command = [sys.executable, "benchmarks/many_tickets.py", "--networks=linear_ae", "--steps=2", "--repeats=2"]
    command += ["--host_devices=2", f"--out={tmp_path / 'figures.json'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["devices"] == 2
    seconds = written["results"]["linear_ae"]["seconds"]
    assert list(seconds) == ["one by one", "on each device", "vmapped, products", "vmapped, xla", "processes"]
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())
    assert len(result.stdout.splitlines()) == 7
