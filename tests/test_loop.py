"""Tests of the training loop, with fake programs: hooks, blocks of steps, masks, seconds, and how training ends."""

import contextlib
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import Killed
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtickets import clock as clock_lib
from jaxtickets import loop, models, train
from jaxtickets.data import batches
from jaxtickets.devices import device_count, replicate, unreplicate
from jaxtickets.finite import FINITE, DivergedError
from jaxtickets.objectives import Objective, Player
from jaxtickets.train import Hook, Moment, TrainState

# The fakes train a network `net` whose `kernel` has four whole numbers.


def a_state(step=0):
    weights = {"net": {"kernel": np.arange(1, 5, dtype=np.int32)}}
    return TrainState(np.int32(step), np.uint32(0), weights, {}, {}, {}, {})


def a_mask(*kept):
    return {"net": {"kernel": np.array(kept, bool)}}


DENSE, SPARSE = a_mask(1, 1, 1, 1), a_mask(1, 0, 1, 0)


def weights_of(state):
    return np.asarray(state.params["net"]["kernel"])


def kept_by(masks):
    return masks["net"]["kernel"]


def moved(weights, mask, step):
    """The weights after the step that follows `step` steps. They depend on the order of the steps and on every mask."""
    return mask * (3 * weights + step + 1) % 10007


class Programs:
    """Fake programs `(step, n) -> program`, which note what they are called with."""

    def __init__(self, dies_in: int | None = None):
        """dies_in: the step, counted from 0, in which the program fails with `Killed`."""
        self.blocks, self.calls, self._dies_in = [], [], dies_in

    def __call__(self, start: int, n: int):
        steps = range(start, start + n)

        def program(state, masks, data, indices, teacher):
            assert np.all(state.step == start)
            if self._dies_in in steps:
                raise Killed
            self.blocks.append(steps)
            self.calls.append(SimpleNamespace(masks=masks, data=data, indices=indices, teacher=teacher))
            weights = weights_of(state)
            for step in steps:
                weights = moved(weights, np.asarray(kept_by(masks)), step)
            return state.replace(step=state.step + n, params={"net": {"kernel": weights}}), {"last": state.step + n}

        return program


def numbered(blocks):
    """Batches that name their block."""
    for block in blocks:
        yield block, f"data of {block}", f"indices of {block}"


def fit(program, stop, hooks=(), state=None, masks=DENSE, source=numbered, **options) -> Moment:
    return train.train(program, source, a_state() if state is None else state, masks, stop, hooks, **options)


def noting(notes, name, due, **options) -> Hook:
    """A hook that adds `(name, step)` to `notes`."""
    return Hook(due, lambda moment: notes.append((name, moment.step)), **options)


def every(n):
    return lambda step: step % n == 0


# Hooks.


def test_hooks_act_in_order_at_every_step_when_due():
    notes = []
    fit(Programs(), 6, [noting(notes, name, due) for name, due in (("b", every(3)), ("a", every(2)), ("c", every(3)))])
    assert notes == [("a", 2), ("b", 3), ("c", 3), ("a", 4), ("b", 6), ("a", 6), ("c", 6)]


def test_a_hook_sees_the_moment():
    seen = []
    hook = Hook(every(2), lambda moment: seen.append((moment, moment.host_state())))
    fit(Programs(), 5, [hook])
    weights = weights_of(a_state())
    for step in range(5):
        weights = moved(weights, kept_by(DENSE), step)
        if step % 2:
            moment, state = seen.pop(0)
            assert (moment.step, moment.is_over, moment.masks) == (step + 1, False, DENSE)
            assert moment.scalars["last"].shape == (device_count(None),)
            assert np.all(moment.scalars["last"] == step + 1)
            assert state.step == step + 1
            np.testing.assert_array_equal(weights_of(state), weights)
    assert not seen


@pytest.mark.parametrize("start", [0, 4])
def test_only_hooks_with_at_start_act_at_the_start(start):
    notes, scalars = [], []
    always = lambda step: True  # noqa: E731
    hooks = [
        noting(notes, "log", always),
        Hook(always, lambda moment: scalars.append(moment.scalars), at_start=True),
        noting(notes, "update", every(4), at_start=True),
        noting(notes, "later", every(3), at_start=True),
    ]
    fit(Programs(), start + 1, hooks, state=a_state(start))
    later = [("later", 0)] if start == 0 else []
    assert notes == [("update", start), *later, ("log", start + 1)]
    assert scalars[0] is None
    assert scalars[1] is not None


def test_later_hooks_and_steps_see_what_a_hook_changes():
    seen = []

    def change(moment):
        state = moment.host_state()
        state = state.replace(params=jax.tree.map(lambda leaf: leaf + 5, state.params))
        return moment._replace(state=replicate(state), masks=SPARSE)

    see = Hook(every(2), lambda moment: seen.append((moment.masks, weights_of(moment.host_state()))))
    end = fit(Programs(), 3, [Hook(every(2), change), see])
    before = moved(moved(weights_of(a_state()), kept_by(DENSE), 0), kept_by(DENSE), 1)
    ((masks, weights),) = seen
    assert masks is end.masks is SPARSE
    np.testing.assert_array_equal(weights, before + 5)
    np.testing.assert_array_equal(weights_of(end.host_state()), moved(before + 5, kept_by(SPARSE), 2))


def test_only_changed_masks_go_to_the_devices_again():
    programs = Programs()
    hooks = [
        Hook(every(1), lambda moment: moment._replace(masks=moment.masks)),
        Hook(lambda step: step in (0, 3), lambda moment: moment._replace(masks=SPARSE), at_start=True),
        Hook(lambda step: step == 3, lambda moment: moment._replace(masks=DENSE)),
    ]
    fit(programs, 5, hooks)
    used = [call.masks for call in programs.calls]
    for masks, expected in zip(used, [SPARSE] * 3 + [DENSE] * 2, strict=True):
        np.testing.assert_array_equal(kept_by(unreplicate(masks)), kept_by(expected))
    assert used[0] is used[1] is used[2]
    assert used[3] is used[4]


# Programs and batches.


def test_each_program_gets_the_data_of_its_block_and_the_teacher():
    programs, teacher = Programs(), {"weight": np.float32(0.5)}
    fit(programs, 8, [noting([], "due", lambda step: step == 5)], teacher=teacher, steps_per_call=3)
    assert programs.blocks == [range(3), range(3, 4), range(4, 5), range(5, 6), range(6, 7), range(7, 8)]
    for block, call in zip(programs.blocks, programs.calls, strict=True):
        assert (call.data, call.indices) == (f"data of {block}", f"indices of {block}")
        assert call.teacher["weight"].shape == (device_count(None),)
        assert unreplicate(call.teacher) == teacher
    fit(programs, 1)
    assert programs.calls[-1].teacher is None


def test_a_training_at_its_end_only_acts_at_its_start():
    notes, programs = [], Programs()
    hooks = [noting(notes, "update", every(7), at_start=True), noting(notes, "log", every(7))]
    end = fit(programs, 7, hooks, state=a_state(7), steps_per_call=2)
    assert (end.step, end.scalars, end.is_over) == (7, None, False)
    np.testing.assert_array_equal(weights_of(end.host_state()), weights_of(a_state()))
    assert (programs.blocks, notes) == ([], [("update", 7)])


@st.composite
def trainings(draw):
    """`(start, stop, steps per call, due steps)`."""
    start = draw(st.integers(0, 12))
    stop = start + draw(st.integers(0, 24))
    return start, stop, draw(st.integers(1, 6)), draw(st.frozensets(st.integers(start, stop), max_size=6))


many = settings(deadline=None, max_examples=300, derandomize=True)


@many
@given(trainings())
def test_no_program_spans_a_due_step_and_each_step_is_done_once(training):
    start, stop, length, due = training
    programs, notes = Programs(), []
    fit(programs, stop, [noting(notes, "due", due.__contains__)], state=a_state(start), steps_per_call=length)
    assert [step for block in programs.blocks for step in block] == list(range(start, stop))
    assert {len(block) for block in programs.blocks} <= {1, length}
    assert not any(due & set(block[1:]) for block in programs.blocks)
    assert notes == [("due", step) for step in sorted(due) if step > start]
    # No block is split without need: `length` steps from a multiple of it on are one program if nothing is due inside.
    for first in range(-(-start // length) * length, stop - length + 1, length):
        assert (range(first, first + length) in programs.blocks) == (not due & set(range(first + 1, first + length)))


FIRST = a_mask(0, 1, 1, 1)


def like_a_run(saved, logged, due_log, due_save, due_update):
    """The hooks of a run: its log, then its checkpoints, then its updates of masks."""

    def log(moment):
        logged.append((moment.step, int(moment.scalars["last"][0])))

    def save(moment):
        saved.append((moment.host_state(), moment.masks, list(logged)))

    def update(moment):
        return moment._replace(masks=jax.tree.map(lambda mask: np.roll(mask, 1), moment.masks))

    return [
        Hook(due_log.__contains__, log),
        Hook(due_save.__contains__, save),
        Hook(due_update.__contains__, update, at_start=True),
    ]


@many
@given(trainings(), st.data())
def test_a_cut_training_goes_on_in_the_same_blocks_to_the_same_state(training, data):
    start, stop, length, due = training
    times = [data.draw(st.frozensets(st.sampled_from(sorted(due)))) if due else due for _ in ("log", "save", "update")]
    dies_in = data.draw(st.integers(start, stop))

    def train_from(programs, state, masks, saved, logged):
        return fit(programs, stop, like_a_run(saved, logged, *times), state, masks, steps_per_call=length)

    # Step by step, by hand.
    weights, mask = weights_of(a_state()), kept_by(FIRST)
    for step in range(start, stop + 1):
        mask = np.roll(mask, 1) if step in times[2] else mask
        weights = moved(weights, mask, step) if step < stop else weights
    rows = [(step, step) for step in sorted(times[0]) if step > start]

    whole, logged = Programs(), []
    end = train_from(whole, a_state(start), FIRST, [], logged)
    assert (end.step, logged) == (stop, rows)
    np.testing.assert_array_equal(weights_of(end.host_state()), weights)
    np.testing.assert_array_equal(kept_by(end.masks), mask)

    cut, saved = Programs(dies_in), [(a_state(start), FIRST, [])]
    with pytest.raises(Killed) if dies_in < stop else contextlib.nullcontext():
        train_from(cut, a_state(start), FIRST, saved, [])
    resumed, (state, masks, logged) = Programs(), saved[-1]
    again = train_from(resumed, state, masks, [], logged)
    assert [block for block in cut.blocks if block.start < state.step] + resumed.blocks == whole.blocks
    assert (again.step, logged) == (stop, rows)
    np.testing.assert_array_equal(weights_of(again.host_state()), weights)
    np.testing.assert_array_equal(kept_by(again.masks), mask)


class Bias(nn.Module):
    """Adds a bias to three numbers."""

    @nn.compact
    def __call__(self, x, train, labels=None):
        return x + self.param("bias", nn.initializers.ones, (3,))


def test_the_loop_trains_with_real_programs_and_batches():
    # The bias goes down (bias - mean of the batch)^2 by gradient descent, so that NumPy has every step.
    def loss(params, batch_stats, batch):
        value = jnp.square(params["net"]["bias"] - batch.images.mean()).sum()
        return value, (batch_stats, {"loss": value})

    objective = Objective({"net": models.Component(Bias(), (3,))}, {"player": Player(("net",), loss)})
    optimizers, masks = {"player": optax.sgd(0.1)}, {"net": {"bias": np.array([True, False, True])}}
    n, size = device_count(None), 2 * device_count(None)
    images = np.random.default_rng(0).integers(0, 256, (4 * size, 2, 2, 1), dtype=np.uint8)
    per_step = np.arange(len(images), dtype=np.int32).reshape(4, size)

    def source(blocks):
        chosen = lambda start, stop: [per_step[step % 4] for step in range(start, stop)]  # noqa: E731
        return batches.resident(replicate((images, None)), chosen, blocks, n, rows=4)

    one = train.make_step(objective, optimizers, ("player",))
    two = train.make_step(objective, optimizers, train.period(objective), steps_per_call=2)
    start = train.rewind(jax.device_get(train.init_state(objective, optimizers, 0)), masks)
    due = Hook(lambda step: step == 3, lambda moment: None)
    end = train.train(lambda step, n: {1: one, 2: two}[n], source, start, masks, stop=6, hooks=[due], steps_per_call=2)
    bias = np.array([1, 0, 1], np.float64)
    for step in range(6):
        bias -= 0.1 * 2 * (bias - (images[per_step[step % 4]] / 127.5 - 1).mean()) * masks["net"]["bias"]
    np.testing.assert_allclose(end.host_state().params["net"]["bias"], bias, rtol=1e-5)


def test_what_a_program_says_of_finite_steps_is_seen_and_is_no_scalar():
    seen, scalars = [], []

    def program(start, n):
        return lambda state, *_: (state.replace(step=state.step + n), {"loss": start, FINITE: n})

    fit(
        program,
        5,
        [Hook(every(1), lambda moment: scalars.append(moment.scalars))],
        seen=lambda *told: seen.append(told),
    )
    assert seen == [(range(step, step + 1), {"loss": step}, 1) for step in range(5)]
    assert scalars == [{"loss": step} for step in range(5)]


# How training ends.


class Source:
    """Batches that note how many were asked for and whether they were closed, rather than collected as garbage."""

    def __init__(self):
        self.asked, self.closed, self._batches = 0, False, None

    def __call__(self, blocks):
        self._batches = self._generate(blocks)
        return self._batches

    def _generate(self, blocks):
        try:
            for batch in numbered(blocks):
                self.asked += 1
                yield batch
        finally:
            self.closed = True


def test_a_hook_can_end_training_after_the_later_hooks_of_that_step():
    notes, programs, source = [], Programs(), Source()
    end_at = Hook(lambda step: step >= 4, lambda moment: moment._replace(is_over=True))
    end = fit(programs, 100, [end_at, noting(notes, "log", every(2))], source=source)
    assert (end.step, end.is_over) == (4, True)
    assert end.host_state().step == 4
    assert notes == [("log", 2), ("log", 4)]
    assert sum(map(len, programs.blocks)) == source.asked == 4
    assert source.closed


def test_a_hook_can_end_training_at_its_start():
    programs, source = Programs(), Source()
    end_now = Hook(every(1), lambda moment: moment._replace(is_over=True), at_start=True)
    end = fit(programs, 100, [end_now], source=source)
    assert (end.step, end.is_over, programs.blocks, source.asked) == (0, True, [], 0)


def fail(moment):
    raise Killed


@pytest.mark.parametrize(
    ("program", "hooks"),
    [(Programs(dies_in=2), []), (Programs(), [Hook(lambda step: step == 2, fail)])],
    ids=["program", "hook"],
)
def test_batches_are_closed_when_a_program_or_a_hook_fails(program, hooks):
    source = Source()
    with pytest.raises(Killed):
        fit(program, 100, hooks, source=source)
    assert source.closed


def test_batches_need_not_be_a_generator():
    programs = Programs()
    end = fit(programs, 3, source=lambda blocks: list(numbered(blocks)))
    assert (end.step, end.is_over, len(programs.blocks)) == (3, False, 3)


# Seconds.


def test_seconds_go_on_from_those_that_have_led_to_the_state(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(clock_lib, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    seen = []

    def program(start, n):
        run = Programs()(start, n)

        def takes_two_seconds(*arguments):
            clock.now += 2
            return run(*arguments)

        return takes_two_seconds

    def act(moment):
        seen.append((moment.step, moment.clock.seconds()))
        clock.now += 0.5

    first = fit(program, 3, [Hook(every(1), act)])
    assert seen == [(1, 2.0), (2, 4.5), (3, 7.0)]
    led = first.clock.seconds()
    assert led == 7.5
    clock.now = 5000.0
    second = fit(program, 4, [Hook(every(1), act)], first.host_state(), seconds=led)
    assert seen[3:] == [(4, 9.5)]
    assert second.clock.seconds() == 10.0


# Several trainings in one program.


def together(stop, *trainings, program=None):
    """Fake programs that train several tickets; the devices' axis is before that of the tickets."""
    calls = program or Programs()
    return loop.train(calls, numbered, trainings, stop)


def test_each_of_several_trainings_has_its_weights_masks_and_hooks():
    seen = []

    def change(moment):
        state = moment.host_state()
        state = state.replace(params=jax.tree.map(lambda leaf: leaf + 5, state.params))
        return moment._replace(state=replicate(state), masks=SPARSE)

    look = Hook(every(2), lambda moment: seen.append((moment.ticket, weights_of(moment.host_state()).tolist())))
    idle = Hook(every(2), lambda moment: None)
    ends = together(
        3,
        loop.Training(a_state(), DENSE, [look, idle]),
        loop.Training(a_state(), SPARSE, [idle, look, Hook(every(2), change)]),
    )
    alone = [fit(Programs(), 3), fit(Programs(), 3, [Hook(every(2), change)], masks=SPARSE)]
    for number, (end, other) in enumerate(zip(ends, alone, strict=True)):
        assert (end.step, end.ticket, end.masks) == (3, number, other.masks)
        np.testing.assert_array_equal(weights_of(end.host_state()), weights_of(other.host_state()))
    assert [ticket for ticket, _ in seen] == [0, 1]
    assert seen[0][1] == weights_of(fit(Programs(), 2).host_state()).tolist()


def test_a_training_that_diverges_ends_alone_and_a_copy_is_not_looked_at():
    steps = []

    def diverge(moment):
        raise DivergedError(moment.step, "loss is nan")

    note = Hook(every(1), lambda moment: steps.append(moment.step))
    bad, good = loop.Training(a_state(), DENSE, [Hook(every(2), diverge)]), loop.Training(a_state(), DENSE, [note])
    ends = together(5, bad, good, good._replace(is_copy=True))
    assert isinstance(ends[0], DivergedError) and ends[1].step == 5
    assert steps == [1, 2, 3, 4, 5]
    programs = Programs()
    ends = together(5, bad, good._replace(is_copy=True), program=programs)
    assert isinstance(ends[0], DivergedError)
    assert sum(map(len, programs.blocks)) == 2  # Nobody is left.


def test_one_of_several_trainings_cannot_be_over_before_the_others():
    over = Hook(every(2), lambda moment: moment._replace(is_over=True))
    with pytest.raises(ValueError, match="can't end one of several"):
        together(5, loop.Training(a_state(), DENSE, [over]), loop.Training(a_state(), DENSE))
