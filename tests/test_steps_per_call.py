"""Several steps in one program: they compute what single steps compute, and a resumed run takes the same blocks."""

import re
from itertools import pairwise

import chex
import jax
import numpy as np
import pytest
from conftest import (
    FUSES_AS_USUAL,
    Killed,
    assert_masked,
    finish,
    kill_after,
    open_run,
    tiny,
    untimed_rounds,
    untimed_scalars,
)

from jaxtickets import config as config_lib
from jaxtickets import pruning, train
from jaxtickets.data import batches
from jaxtickets.devices import replicate, unreplicate
from jaxtickets.experiments import METHODS
from jaxtickets.finite import FINITE
from jaxtickets.runs import Networks, Run, Setup
from jaxtickets.workdir import Workdir

pytestmark = pytest.mark.usefixtures("quick_runs")

TOGETHER, STEPS = 4, 24
ALL = {"data.flip": True, "optimizer.final_rate": 0.5}
# Each has something that changes from step to step, or that only some of the steps do.
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
# Two programs round differently in float32, and Adam enlarges that beyond the tolerance: in float64 there is room.
ENLARGING = ("sngan_conditional",)


def configured(name, data_directory, **changes):
    """A config whose logs and rewind point lie between blocks of four steps, and a checkpoint inside one."""
    times = {"train.steps": STEPS, "train.log_every": 8, "train.checkpoint_every": 10, "rewind_step": 4}
    return tiny(name, data_directory, **{**times, "train.steps_per_call": TOGETHER, **changes})


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


def test_a_run_resumed_where_something_was_due_takes_the_same_blocks():
    due = {7, 12, 21, 22}
    whole = list(batches.blocks(0, 40, 4, due.__contains__))
    for start in due:
        rest = list(batches.blocks(start, 40, 4, due.__contains__))
        assert rest == [block for block in whole if block.start >= start]


class Noting:
    """Programs that train nothing, and note the blocks of steps that they are called for."""

    def __init__(self):
        self.blocks = []

    def get(self, step, n=1):
        def program(state, *_):
            self.blocks.append((step, step + n))
            return state.replace(step=state.step + n), {}

        return program

    def step_bytes(self):
        return 0


def blocks_of(config, path, start, like=None, **options):
    """The blocks in which a run trains a round from the step `start` to the end, and the run's setup."""
    setup = Setup(config, like=like)
    setup.programs = Noting()
    with open_run(setup, path) as run:
        run.round(0, run.dense_masks, run.initial_state.replace(step=np.int32(start)), **options)
    return setup.programs.blocks, setup


def test_a_run_takes_single_steps_where_something_is_due_between_them(data_directory, tmp_path):
    def singly(start, stop):
        return [(step, step + 1) for step in range(start, stop)]

    config = configured("gan_digits", data_directory)
    found, setup = blocks_of(config, tmp_path / "whole", 0)
    # The checkpoint after step 10 lies inside a block.
    assert found == [(0, 4), (4, 8), *singly(8, 12), (12, 16), (16, 20), (20, 24)]
    config = configured("gan_digits", data_directory, **{"train.steps": 7})
    found, _ = blocks_of(config, tmp_path / "short", 2, like=setup)
    assert found == singly(2, 7)
    updating = {"experiment": "set", "prune.update_every": 6, "prune.update_until": 0.5}
    config = configured("gan_digits", data_directory, **updating)
    found, setup = blocks_of(config, tmp_path / "set", 4, like=setup, update=lambda step, state, masks: masks)
    assert list(setup.timeline.update_steps) == [6, 12]
    assert found == [*singly(4, 12), (12, 16), (16, 20), (20, 24)]


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
def test_a_call_does_whole_periods_of_the_players(given, n_critic, platform, expected):
    config = config_lib.get_config()
    config.train.update(steps=100, steps_per_call=given)
    config.objective.n_critic = n_critic
    period = len(train.period(Networks(config).objective))
    assert config_lib.make_timeline(config, 1000, platform, period).steps_per_call == expected


# What a program of several steps computes.


def advance(setup, state, masks, teacher, steps):
    """The state and the last scalars, on the host, after two blocks of steps in calls of `steps` steps each."""
    state, masks, teacher = (replicate(tree) for tree in (state, masks, teacher))
    for start in range(0, 2 * TOGETHER, steps):
        _, *batch = next(setup.batches([0], [range(start, start + steps)]))
        state, scalars = setup.programs.get(start, steps)(state, masks, *batch, teacher)
        assert np.all(np.asarray(scalars.pop(FINITE)) == steps)
    return unreplicate(state), unreplicate(scalars)


QUICK = ("linear_ae", "wgan_gp")


@pytest.mark.parametrize(
    ("name", "placement"),
    [
        *(pytest.param(name, "device", marks=() if name in QUICK else pytest.mark.slow) for name in GAMES),
        ("linear_ae", "host"),
    ],
)
def test_a_program_of_several_steps_computes_what_single_steps_compute(name, placement, data_directory, request):
    exact = {}
    if name in ENLARGING:
        request.getfixturevalue("float64")
        exact = {"dtype": "float64"}
    setup = Setup(configured(name, data_directory, **GAMES[name], **exact, **{"data.placement": placement}))
    initial = setup.init(0)
    scores = pruning.random(initial.params, setup.dense_masks, 0)
    masks = pruning.prune(scores, setup.dense_masks, 0.5, scope="layerwise")
    start, teacher = train.rewind(initial, masks), setup.teacher(setup.init(7), 0.5)
    one_by_one, together = (advance(setup, start, masks, teacher, steps) for steps in (1, TOGETHER))
    assert int(together[0].step) == 2 * TOGETHER
    if name in DENSE and FUSES_AS_USUAL:
        chex.assert_trees_all_equal(together, one_by_one)
    else:
        for (path, ours), theirs in zip(
            jax.tree_util.tree_leaves_with_path(together), jax.tree.leaves(one_by_one), strict=True
        ):
            place = jax.tree_util.keystr(path)
            # The gradient of a bias in front of a norm is rounding errors, which Adam scales to steps of the learning
            # rate, and the norm's mean follows.
            is_free = re.search(r"generator.*(conv_|unproject|shortcut).*bias|generator.*norm.*mean", place)
            atol = 2 * 2 * TOGETHER * setup.config.optimizer.learning_rate if is_free else 1e-10 if exact else 1e-5
            np.testing.assert_allclose(ours, theirs, rtol=1e-8 if exact else 1e-4, atol=atol, err_msg=place)
    assert_masked(together[0].params, masks)
    if average := together[0].average:
        assert_masked(average["params"], {component: masks[component] for component in average["params"]})
    memory = [train.program_bytes(program) for program in setup.programs.compiled().values()]
    assert setup.step_bytes == max(memory)


# Whole runs.


@pytest.fixture(scope="module")
def whole(quick_runs, data_directory, tmp_path_factory):
    """A finished run with four steps per call, and the number of programs compiled by the end of each of its rounds."""
    compiled, counts = [], []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    class Counted(Run):
        def record(self, *arguments):
            super().record(*arguments)
            counts.append(len(compiled))

    config = configured("linear_vae", data_directory, **{"model.image_size": 28, "prune.rounds": 2})
    path = tmp_path_factory.mktemp("whole") / "run"
    jax.monitoring.register_event_duration_secs_listener(listen)
    with Counted(Setup(config), Workdir(path)) as run:
        METHODS["imp"].recipe(run)
        run.finish()
    jax.monitoring.unregister_event_duration_listener(listen)
    return run, counts


def test_nothing_is_compiled_after_round_zero(whole):
    _, counts = whole
    assert counts[0] > 0
    assert all(before == after for before, after in pairwise(counts))


def test_a_run_has_the_rows_that_it_has_with_one_step_per_call(whole, data_directory, tmp_path):
    together, _ = whole
    config = together.config.copy_and_resolve_references()
    config.train.steps_per_call = 1
    one_by_one, _ = finish(Setup(config, like=together.setup), tmp_path / "run")
    for read in (untimed_rounds, untimed_scalars):
        ours, theirs = (read(run.place.path) for run in (together, one_by_one))
        assert len(ours) == len(theirs)
        for our_row, their_row in zip(ours, theirs, strict=True):
            assert our_row.keys() == their_row.keys()
            for name in our_row.keys() - {"step_bytes", "split"}:
                assert float(our_row[name]) == pytest.approx(float(their_row[name]), rel=1e-4), name


@pytest.mark.parametrize("steps", [16, *(pytest.param(n, marks=pytest.mark.slow) for n in (11, STEPS + 19))])
def test_an_interrupted_run_goes_on_to_the_same_bits(whole, tmp_path, steps):
    setup, path = Setup(whole[0].config, like=whole[0].setup), tmp_path / "run"
    kill_after(setup, steps)
    with pytest.raises(Killed):
        finish(setup, path)
    run, _ = finish(Setup(whole[0].config, like=whole[0].setup), path)
    chex.assert_trees_all_equal(run.trained, whole[0].trained)
    for read in (untimed_rounds, untimed_scalars):
        assert read(path) == read(whole[0].place.path)
