"""The hooks of a run, each with a stand-in for a moment of training."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxtickets.finite import DivergedError
from jaxtickets.runs import hooks

STATE = {"weights": np.ones(3, np.float32), "step": np.int32(4)}
LOG = hooks.Log(lambda *_: None, every=2, stop=9)


class Stand:
    """A moment whose step takes two more seconds until its state is on the host."""

    def __init__(self, step=4, scalars=None):
        self.step, self.masks, self.scalars, self.ticket = step, "masks", scalars, None
        self.now = 10.0
        self.clock = SimpleNamespace(seconds=lambda: self.now)

    def host_state(self):
        self.now += 2
        return STATE

    def _replace(self, **changes):
        return changes


def test_a_checkpoint_has_the_seconds_until_its_state_was_there():
    saved = []
    last = SimpleNamespace(save=lambda *arguments: saved.append(arguments))
    log = hooks.Log(None, every=2, stop=9)
    hooks.checkpoints(last, log, round_=1, every=4, stop=9).act(Stand())
    assert saved == [(1, STATE, "masks", 9, 12.0)]


@pytest.mark.parametrize(("every", "due"), [(0, []), (4, [4, 8]), (3, [3, 6])])
def test_checkpoints_are_due_before_the_end(every, due):
    hook = hooks.checkpoints(None, None, round_=0, every=every, stop=9)
    assert [step for step in range(1, 10) if hook.due(step)] == due
    assert not hook.at_start


def test_the_time_of_drawing_a_mask_counts():
    moment, seen = Stand(), []

    def draw(state, seconds):
        seen.append((state, seconds()))
        moment.now += 3
        seen.append((state, seconds()))
        return True

    assert hooks.search(draw, LOG, [4]).act(moment) == {"is_over": True}
    assert seen == [(STATE, 12.0), (STATE, 15.0)]


def test_what_is_due_does_not_depend_on_the_round():
    first, later = hooks.snapshot("path", LOG, 3), hooks.snapshot(None, LOG, 3)
    changing, dense = (hooks.mask_updates(update, LOG, [2, 4, 9], 9, None) for update in (max, None))
    for step in range(10):
        assert first.due(step) == later.due(step)
        assert changing.due(step) == dense.due(step)
    assert later.act(Stand()) is dense.act(Stand()) is None


def test_masks_do_not_change_after_the_last_step():
    hook = hooks.mask_updates(max, LOG, [2, 4, 9], 9, None)
    assert [step for step in range(10) if hook.due(step)] == [2, 4]


def test_a_scalar_is_read_at_the_next_log_or_flush_and_with_the_seconds_of_its_step():
    rows = []
    log = hooks.Log(lambda *row: rows.append(row), every=2, stop=5, also=[3])
    assert [step for step in range(1, 6) if log.hook.due(step)] == [2, 3, 4, 5]
    moment = Stand(2, {"loss": [1.5]})
    log.hook.act(moment)
    assert rows == []
    moment.now = 50.0
    log.flush()
    log.flush()
    assert rows == [(2, 10.0, {"loss": 1.5})]


# What is not finite.


def reporting(log, *finite, loss=1.5, every=1):
    """Programs of `every` steps that report to a log: how many of their steps were finite."""
    for number, steps in enumerate(finite):
        block = range(number * every, (number + 1) * every)
        log.seen(block, {"loss": [loss if steps == every else float("nan")]}, [steps])


def test_the_first_step_that_is_not_finite_is_named_and_the_rows_before_it_are_written():
    rows = []
    log = hooks.Log(lambda *row: rows.append(row), every=2, stop=9)
    log.hook.act(Stand(2, {"loss": [1.5]}))
    reporting(log, 1, 1, 1, 0, 0)
    with pytest.raises(DivergedError, match="loss is nan at step 4") as error:
        log.flush()
    assert error.value.step == 4
    assert rows == [(2, 10.0, {"loss": 1.5})]


def test_a_row_behind_the_first_step_that_is_not_finite_is_not_written():
    rows = []
    log = hooks.Log(lambda *row: rows.append(row), every=2, stop=9)
    log.hook.act(Stand(4, {"loss": [float("nan")]}))
    reporting(log, 1, 1, 0, 0)
    with pytest.raises(DivergedError, match="at step 3"):
        log.flush()
    assert not rows


@pytest.mark.parametrize(("finite", "step"), [((4, 4, 2), 11), ((0,), 1), ((4, 3), 8)])
def test_the_step_is_found_within_a_program_of_several_steps(finite, step):
    log = hooks.Log(None, every=2, stop=9)
    reporting(log, *finite, every=4)
    with pytest.raises(DivergedError) as error:
        log.flush()
    assert error.value.step == step


def test_a_gradient_is_named_where_all_scalars_are_finite():
    log = hooks.Log(None, every=2, stop=9)
    log.seen(range(4, 5), {"loss": [1.0]}, [0])
    with pytest.raises(DivergedError, match="a gradient is not finite at step 5"):
        log.flush()


def test_a_log_reads_nothing_of_the_steps_since_the_log_before():
    class Unread:
        def __array__(self, *_, **__):
            raise AssertionError("the host waits for a step that may still be running")

    rows = []
    log = hooks.Log(lambda *row: rows.append(row), every=2, stop=9)
    log.seen(range(2), {}, [2])
    log.hook.act(Stand(2, {"loss": [1.5]}))
    log.seen(range(2, 4), {}, Unread())
    log.hook.act(Stand(4, {"loss": Unread()}))
    assert rows == [(2, 10.0, {"loss": 1.5})]


def test_what_is_unread_stays_bounded():
    log = hooks.Log(None, every=10**6, stop=10**6)
    reporting(log, *[1] * 5 * hooks.MOST_UNREAD)
    assert len(log._programs) <= 2 * hooks.MOST_UNREAD
    log.seen(range(7, 8), {}, [0])
    with pytest.raises(DivergedError, match="at step 8"):
        reporting(log, *[1] * 3 * hooks.MOST_UNREAD)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_not_saved(value):
    moment, saved = Stand(), []
    moment.host_state = lambda: {"moments": np.array([1, value], np.float32), "count": np.int32(3)}
    last = SimpleNamespace(save=lambda *arguments: saved.append(arguments))
    for hook in (hooks.checkpoints(last, LOG, round_=1, every=4, stop=9), hooks.snapshot("path", LOG, 4)):
        with pytest.raises(DivergedError, match="the train state is not finite at step 4"):
            hook.act(moment)
    assert not saved
