"""Several steps in one program: the numbers of single steps, at the same steps wherever a run starts again."""

import csv
import json
import re
from itertools import pairwise

import chex
import jax
import numpy as np
import pytest
from conftest import Killed, assert_masked, finish, kill_after, share, tiny

from jaxtickets import config as config_lib
from jaxtickets import pruning, train
from jaxtickets.data import batches
from jaxtickets.experiments import EXPERIMENTS, Run, Setup

pytestmark = pytest.mark.usefixtures("quick_runs")

TOGETHER, STEPS = 4, 24
ALL = {"data.flip": True, "optimizer.final_rate": 0.5}
# Each with something that changes from step to step, or that only some of the steps do.
GAMES = {
    "gan_digits": ALL | {"prune.score": "movement", "objective.distillation": 0.5},
    "vae_digits": ALL,
    "linear_ae": ALL | {"model.image_size": 28},
    "linear_vae": ALL | {"model.image_size": 28},
    "wgan_gp": ALL | {"objective.n_critic": 2},
    "sngan_conditional": ALL
    | {"objective.n_critic": 2, "objective.ema_decay": 0.9, "objective.augmentations": ("translation",)},
}
DENSE = ("linear_ae", "linear_vae")  # Their products are the same operations in a loop.


def configured(name, data_directory, **changes):
    """A config with a log, a rewind point and a checkpoint at, between and inside blocks of four steps."""
    times = {"train.steps": STEPS, "train.log_every": 8, "train.checkpoint_every": 10, "rewind_step": 4}
    return tiny(name, data_directory, **times, **{"train.steps_per_call": TOGETHER, **changes})


def blocks(setup, start, stop):
    return [(block.start, block.stop) for block, *_ in setup.batches(0, start, stop)]


# Where blocks lie.


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_blocks_lie_at_multiples_of_their_length_and_nothing_is_due_inside_one(length):
    due = {7, 12, 21, 22}
    for start in range(10):
        for stop in range(start, 40):
            found = list(batches.blocks(start, stop, length, due.__contains__))
            assert [step for block in found for step in block] == list(range(start, stop))
            for block in found:
                whole = range(block.start // length * length, (block.start // length + 1) * length)
                is_free = start <= whole.start and whole.stop <= stop and not due & set(whole[1:])
                assert block == whole if is_free else len(block) == 1


def test_a_run_that_goes_on_where_something_was_due_takes_the_same_blocks():
    due = {7, 12, 21, 22}
    whole = list(batches.blocks(0, 40, 4, due.__contains__))
    for start in due:
        rest = list(batches.blocks(start, 40, 4, due.__contains__))
        assert rest == [block for block in whole if block.start >= start]


def test_a_run_takes_single_steps_where_it_is_interrupted_between_them(data_directory):
    setup = Setup(configured("gan_digits", data_directory))
    inside = [(step, step + 1) for step in range(8, 12)]  # The checkpoint after step 10.
    assert blocks(setup, 0, STEPS) == [(0, 4), (4, 8), *inside, (12, 16), (16, 20), (20, 24)]
    assert blocks(setup, 2, 7) == [(step, step + 1) for step in range(2, 7)]
    changing = Setup(
        configured(
            "gan_digits", data_directory, experiment="set", **{"prune.update_every": 6, "prune.update_until": 0.5}
        )
    )
    assert list(changing.update_steps) == [6, 12]
    assert blocks(changing, 4, 16) == [*((step, step + 1) for step in range(4, 12)), (12, 16)]


@pytest.mark.parametrize(
    ("given", "n_critic", "platform", "expected"),
    [
        (0, 1, "cpu", 1),
        (0, 5, "cpu", 1),
        (0, 1, "gpu", 8),
        (0, 5, "gpu", 10),
        (0, 3, "tpu", 9),
        (1, 5, "gpu", 1),
        (4, 1, "cpu", 4),
        (10, 5, "gpu", 10),
        (0, 1, "another", 1),
    ],
)
def test_how_many_steps_a_call_does(given, n_critic, platform, expected):
    config = config_lib.get_config()
    config.train.steps_per_call, config.objective.n_critic = given, n_critic
    assert config_lib.resolve_steps_per_call(config, platform) == expected


# What a program of several steps computes.


def advance(setup, state, masks, teacher, steps):
    """The state and the last scalars after steps 0 to `steps` in calls of so many steps, on the host."""
    state, masks, teacher = (train.replicate(tree) for tree in (state, masks, teacher))
    for start in range(0, 2 * TOGETHER, steps):
        _, *batch = next(setup._batches(0, [range(start, start + steps)]))
        state, scalars = setup.step(start, steps=steps)(state, masks, *batch, teacher)
    return train.unreplicate(state), train.unreplicate(scalars)


QUICK = ("linear_ae", "wgan_gp")


@pytest.mark.parametrize(
    ("name", "placement"),
    [
        *(pytest.param(name, "device", marks=() if name in QUICK else pytest.mark.slow) for name in GAMES),
        ("linear_ae", "host"),
    ],
)
def test_a_program_of_several_steps_computes_what_these_compute_one_by_one(name, placement, data_directory):
    setup = Setup(configured(name, data_directory, **GAMES[name], **{"data.placement": placement}))
    initial = setup.init(0)
    scores = pruning.random(initial.params, setup.dense_masks, 0)
    masks = pruning.prune(scores, setup.dense_masks, 0.5, scope="layerwise")
    start, teacher = train.rewind(initial, masks), setup.teacher(setup.init(7), 0.5)
    one_by_one, together = (advance(setup, start, masks, teacher, steps) for steps in (1, TOGETHER))
    assert int(together[0].step) == 2 * TOGETHER
    if name in DENSE:
        chex.assert_trees_all_equal(together, one_by_one)
    else:
        for (path, ours), theirs in zip(
            jax.tree_util.tree_leaves_with_path(together), jax.tree.leaves(one_by_one), strict=True
        ):
            place = jax.tree_util.keystr(path)
            # The gradient of a bias in front of a norm is rounding errors, which Adam scales to steps of the learning
            # rate, and the norm's mean follows.
            is_free = re.search(r"generator.*(conv_|unproject|shortcut).*bias|generator.*norm.*mean", place)
            atol = 2 * 2 * TOGETHER * setup.config.optimizer.learning_rate if is_free else 1e-5
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol, err_msg=place)
    assert_masked(together[0].params, masks)
    if average := together[0].average:
        assert_masked(average["params"], {component: masks[component] for component in average["params"]})
    memory = [train.program_bytes(program) for program in setup._compiled.values()]
    assert setup.step_bytes == max(memory)


# Whole runs.


def table(path):
    with (path / "rounds.csv").open() as file:
        return [{**row, "train_seconds": 0, "steps_per_second": 0} for row in csv.DictReader(file)]


def logged(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def whole(quick_runs, data_directory, tmp_path_factory):
    """A finished run with four steps a call, and what was compiled by the end of each of its rounds."""
    compiled, counts = [], []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    class Counted(Run):
        def _record(self, *arguments):
            super()._record(*arguments)
            counts.append(len(compiled))

    config = configured("linear_vae", data_directory, **{"model.image_size": 28, "prune.rounds": 2})
    path = tmp_path_factory.mktemp("whole") / "run"
    jax.monitoring.register_event_duration_secs_listener(listen)
    with Counted(Setup(config), path) as run:
        EXPERIMENTS["imp"](run)
        run.finish()
    jax.monitoring.unregister_event_duration_listener(listen)
    return run, counts


def test_nothing_is_compiled_after_round_zero(whole):
    _, counts = whole
    assert counts[0] > 0
    assert all(before == after for before, after in pairwise(counts))


def test_a_run_has_the_rows_that_it_has_with_one_step_a_call(whole, data_directory, tmp_path):
    together, _ = whole
    config = together.config.copy_and_resolve_references()
    config.train.steps_per_call = 1
    one_by_one, _ = finish(Setup(config), tmp_path / "run")
    for read in (table, logged):
        ours, theirs = (read(run.path) for run in (together, one_by_one))
        assert len(ours) == len(theirs)
        for our_row, their_row in zip(ours, theirs, strict=True):
            assert our_row.keys() == their_row.keys()
            for name in our_row.keys() - {"step_bytes", "split"}:
                assert float(our_row[name]) == pytest.approx(float(their_row[name]), rel=1e-4), name


@pytest.mark.parametrize("steps", [16, *(pytest.param(n, marks=pytest.mark.slow) for n in (11, STEPS + 19))])
def test_a_run_that_was_cut_short_goes_on_to_the_same_bits(whole, tmp_path, steps):
    setup, path = share(Setup(whole[0].config), whole[0].setup), tmp_path / "run"
    with pytest.raises(Killed), Run(setup, path) as run:
        kill_after(setup, steps)
        EXPERIMENTS["imp"](run)
    run, _ = finish(share(Setup(whole[0].config), whole[0].setup), path)
    chex.assert_trees_all_equal(run.trained, whole[0].trained)
    assert table(path) == table(whole[0].path)
    assert logged(path) == logged(whole[0].path)
