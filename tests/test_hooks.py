"""The hooks of a run, each with a stand-in for a moment of training."""

from types import SimpleNamespace

import pytest

from jaxtickets.errors import UserError
from jaxtickets.runs import hooks


class Stand:
    """A moment whose step takes two more seconds until its state is on the host."""

    def __init__(self, step=4, scalars=None):
        self.step, self.masks, self.scalars, self.now, self.counts = step, "masks", scalars, 10.0, True
        self.clock = SimpleNamespace(seconds=lambda: self.now, paused=lambda: self)

    def host_state(self):
        self.now += 2
        return "state"

    def _replace(self, **changes):
        return changes

    def __enter__(self):
        self.counts = False

    def __exit__(self, *_):
        self.counts = True


def test_a_checkpoint_has_the_seconds_until_its_state_was_there():
    saved = []
    last = SimpleNamespace(save=lambda *arguments: saved.append(arguments))
    log = hooks.Log(None, round_=1, every=2, stop=9)
    hooks.checkpoints(last, log, round_=1, every=4, stop=9).act(Stand())
    assert saved == [(1, "state", "masks", 9, 12.0)]


@pytest.mark.parametrize(("every", "due"), [(0, []), (4, [4, 8]), (3, [3, 6])])
def test_checkpoints_are_due_before_the_end(every, due):
    hook = hooks.checkpoints(None, None, round_=0, every=every, stop=9)
    assert [step for step in range(1, 10) if hook.due(step)] == due
    assert not hook.at_start


def test_drawing_a_mask_is_no_training():
    moment, seen = Stand(), []

    def draw(state, seconds):
        seen.append((state, seconds, moment.counts))
        return True

    assert hooks.search(draw, [4]).act(moment) == {"is_over": True}
    assert seen == [("state", 12.0, False)]


def test_what_is_due_does_not_depend_on_the_round():
    first, later = hooks.snapshot("path", 3), hooks.snapshot(None, 3)
    changing, dense = (hooks.mask_updates(update, [2, 4, 9], 9, None) for update in (max, None))
    for step in range(10):
        assert first.due(step) == later.due(step)
        assert changing.due(step) == dense.due(step)
    assert later.act(Stand()) is dense.act(Stand()) is None


def test_masks_do_not_change_after_the_last_step():
    hook = hooks.mask_updates(max, [2, 4, 9], 9, None)
    assert [step for step in range(10) if hook.due(step)] == [2, 4]


def test_a_scalar_is_read_at_the_next_log_or_flush_and_with_the_seconds_of_its_step():
    rows = []
    log = hooks.Log(lambda *row: rows.append(row), round_=2, every=2, stop=5, also=[3])
    assert [step for step in range(1, 6) if log.hook.due(step)] == [2, 3, 4, 5]
    moment = Stand(2, {"loss": [1.5]})
    log.hook.act(moment)
    assert rows == []
    moment.now = 50.0
    log.flush()
    log.flush()
    assert rows == [(2, 10.0, {"loss": 1.5})]


def test_training_that_diverges_is_one_line():
    log = hooks.Log(None, round_=2, every=2, stop=5)
    log.hook.act(Stand(4, {"loss": [float("nan")]}))
    with pytest.raises(UserError, match="training diverged: loss is nan at step 4 of round 2; a lower"):
        log.flush()
