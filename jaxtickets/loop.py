"""The training loop: of one training, or of several tickets that do each step in one program."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from jaxtickets import finite
from jaxtickets.clock import Clock
from jaxtickets.data.batches import blocks
from jaxtickets.devices import Devices, exchanged, replicate, stacked, unreplicate
from jaxtickets.finite import DivergedError


class Moment(NamedTuple):
    """Training between two steps.

    Attributes:
      step: the number of steps done.
      state: the train state on the devices, as `replicate` makes it; of tickets that train together all of them,
        `[devices, tickets, ...]`. The next step destroys it: a hook that wants it for longer takes `host_state()`.
      masks: the masks of the next steps, on the host.
      scalars: what the step before has reported, on the devices; None before the first one.
      clock: the time that training has taken. A step may still be running: `host_state()` waits for it.
      is_over: whether training ends here.
      ticket: which of the tickets that train together this one is; None: it trains alone.
    """

    step: int
    state: Any
    masks: Any
    scalars: Any = None
    clock: Clock | None = None
    is_over: bool = False
    ticket: int | None = None

    def host_state(self):
        """The train state on the host; waits for the step that makes it."""
        return unreplicate(self.state, self.ticket)


class Hook(NamedTuple):
    """Something that is done between the steps of a training.

    Attributes:
      due: `(the number of steps done) -> bool`; a pure function, because steps are grouped into programs by it.
      act: `(moment) -> moment`, or None where nothing changes. A changed `state` is that of this training alone, as
        `replicate` makes it.
      at_start: whether it also acts on the state that a training starts from. True if the action must be done again
        after a resume, such as a change of masks: a checkpoint is saved before later hooks act, and a run that goes on
        from it does the change, once. False if it was done before the state was saved, such as a log.
    """

    due: Callable[[int], bool]
    act: Callable[[Moment], Moment | None]
    at_start: bool = False


class Training(NamedTuple):
    """What one training brings to the loop.

    Attributes:
      state: where it starts, on the host or on one device.
      masks: those of the steps until a hook changes them.
      hooks: what is done between steps.
      teacher: that of the losses' `Batch`.
      seconds: of training that has led to `state`.
      seen: called after each program with its steps, its scalars, its `finite.FINITE` and `Moment.ticket`. The numbers
        are on the devices, `[devices]` or `[devices, tickets]`, and may not be there yet.
      is_copy: whether it only fills a place among several: its hooks do not act, and nothing is seen.
    """

    state: Any
    masks: Any
    hooks: Sequence[Hook] = ()
    teacher: Any = None
    seconds: float = 0.0
    seen: Callable[[range, Any, Any, int | None], None] = lambda *_: None
    is_copy: bool = False


def train(
    program: Callable[[int, int], Callable],
    batches: Callable[[Iterable[range]], Iterable[tuple]],
    trainings: Sequence[Training],
    stop: int,
    *,
    steps_per_call: int = 1,
    devices: Devices = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> list[Moment | DivergedError]:
    """Trains from the step of the states, which is the same in all, to step `stop`.

    Returns the last moment of each training. One that diverges (a hook or `seen` raises `DivergedError`) ends with its
    error, and the others go on; any other error ends all.

    The arguments are those of `jaxtickets.train.train`. What several trainings give to a program has an axis of
    tickets behind the axis of devices; `batches` gives data without it, and indices with it. Their hooks must be due at
    the same steps, so that none of them changes the programs of another.

    Raises:
      ValueError: a hook ends one of several trainings.
    """
    count, step, diverged = len(trainings), int(trainings[0].state.step), {}

    def on_devices(trees):
        return replicate(stacked(trees) if count > 1 else trees[0], devices)

    state = on_devices([one.state for one in trainings])
    masks, teacher = on_devices([one.masks for one in trainings]), on_devices([one.teacher for one in trainings])
    moments = [
        Moment(step, state, one.masks, clock=Clock(one.seconds), ticket=number if count > 1 else None)
        for number, one in enumerate(trainings)
    ]

    @contextlib.contextmanager
    def ending_alone(number):
        try:
            yield
        except DivergedError as error:
            diverged[number] = error

    def going_on():
        return [(number, one) for number, one in enumerate(trainings) if not one.is_copy and number not in diverged]

    def act(*kinds):
        """The hooks that are due act, if their `at_start` is one of `kinds`."""
        nonlocal state, masks
        for number, one in going_on():
            with ending_alone(number):
                for hook in one.hooks:
                    if hook.at_start in kinds and hook.due(step):
                        before = moments[number]._replace(state=state)
                        moment = hook.act(before) or before
                        if moment.state is not before.state:
                            state = exchanged(state, number, moment.state, devices) if count > 1 else moment.state
                        moments[number] = moment._replace(state=state)
                        if moment.masks is not before.masks:
                            masks = on_devices([other.masks for other in moments])
        if count > 1 and any(moment.is_over for moment in moments):
            raise ValueError("a hook that ends training before its stop can't end one of several")

    def is_due(step):
        return any(hook.due(step) for one in trainings for hook in one.hooks)

    act(True)
    source = iter(batches(blocks(step, stop, steps_per_call, is_due)))
    try:
        while going_on() and not moments[0].is_over and (batch := next(source, None)) is not None:
            block, data, indices = batch
            state, scalars = program(block.start, len(block))(state, masks, data, indices, teacher)
            step, scalars = block.stop, dict(scalars)
            finite_steps = scalars.pop(finite.FINITE, None)
            for number, one in going_on():
                with ending_alone(number):
                    one.seen(block, scalars, finite_steps, moments[number].ticket)
                moments[number] = moments[number]._replace(step=step, state=state, scalars=scalars)
            is_cut = step < stop and is_stopped()
            act(*((False,) if is_cut else (False, True)))
            if is_cut:
                break
    finally:
        if hasattr(source, "close"):
            source.close()
    return [diverged.get(number, moment._replace(state=state)) for number, moment in enumerate(moments)]
