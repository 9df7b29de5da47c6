"""What a run does between the steps of a training: the hooks of `train.train`."""

import math
from collections.abc import Callable, Container

import jax
import numpy as np

from jaxtickets import finite, snapshots, train
from jaxtickets.devices import Devices, replicate
from jaxtickets.finite import DivergedError
from jaxtickets.loop import Hook, Moment

MOST_UNREAD = 256  # The number of programs that are not read before as many later ones have started.


class Log:
    """Writes the scalars of every `every`-th step, of the last one and of those in `also`, while they are finite.

    What was computed a while ago is read at the next log, so that the devices never wait for the host: the scalars of
    the log before, and whether the steps of every program were finite until then (`finite.FINITE`).
    """

    def __init__(self, write: Callable[[int, float, dict], None], every: int, stop: int, also: Container = ()):
        """write: `(step, seconds, scalars)`."""
        self._write, self._unread, self._programs = write, None, []
        self.hook = Hook(lambda step: step % every == 0 or step == stop or step in also, self._log)

    def seen(self, block: range, scalars, finite_steps, ticket: int | None = None) -> None:
        """Keeps what a program reports, unread (`loop.Training`)."""
        self._programs.append((block, scalars, finite_steps, ticket))
        if len(self._programs) > 2 * MOST_UNREAD:
            self._read(MOST_UNREAD)

    def _log(self, moment: Moment) -> None:
        if self._unread:
            self._read(sum(block.stop <= self._unread[0] for block, *_ in self._programs))
        self._write_unread()
        self._unread = moment.step, moment.clock.seconds(), moment.scalars, moment.ticket

    def flush(self) -> None:
        """Reads and writes what has not been read yet.

        Raises:
          DivergedError: a step was not finite. The scalars of the steps before it are written.
        """
        self._read(len(self._programs))
        self._write_unread()

    def host_state(self, moment: Moment) -> train.TrainState:
        """The train state on the host, once it is known to be finite, as is all that led to it.

        Raises:
          DivergedError: it is not.
        """
        self.flush()
        state = moment.host_state()
        if not finite.all_finite(state):
            raise DivergedError(moment.step, "the train state is not finite")
        return state

    def _read(self, count):
        read, self._programs = self._programs[:count], self._programs[count:]
        for block, scalars, finite_steps, ticket in read:
            steps = len(block) if finite_steps is None else int(_first(finite_steps, ticket))
            if steps < len(block):
                if self._unread and self._unread[0] <= block.start + steps:
                    self._write_unread()
                raise DivergedError(block.start + steps + 1, _what(scalars, ticket))

    def _write_unread(self):
        if self._unread is not None:
            (step, seconds, scalars, ticket), self._unread = self._unread, None
            self._write(step, seconds, _numbers(scalars, ticket))


def _first(values, ticket):
    """The number of the first device here, and of a ticket if there are several."""
    numbers = np.ravel(values.addressable_data(0) if isinstance(values, jax.Array) else values)
    return numbers[ticket or 0]


def _numbers(scalars, ticket):
    """Scalars on the host."""
    return {name: float(_first(values, ticket)) for name, values in scalars.items()}


def _what(scalars, ticket):
    """What is not finite in a step with these scalars."""
    values = [f"{name} is {value}" for name, value in _numbers(scalars, ticket).items() if not math.isfinite(value)]
    return values[0] if values else "a gradient is not finite"


def checkpoints(last: snapshots.LastState | None, log: Log, round_: int, every: int, stop: int) -> Hook:
    """Saves the train state every `every` steps before `stop`; 0 is never. Without `last` none is saved (`snapshot`).

    The log is written before: a run that goes on from here will not compute these scalars again.
    """

    def save(moment):
        if last is not None:
            last.save(round_, log.host_state(moment), moment.masks, stop, moment.clock.seconds())

    return Hook(lambda step: bool(every) and step % every == 0 and step < stop, save)


def snapshot(path, log: Log, step: int) -> Hook:
    """Saves the train state after `step` steps at `path`; None: nothing is saved, and due all the same.

    What is due must be the same in every round, so that each step is done in the same program.
    """

    def save(moment):
        if path is not None:
            snapshots.save(path, log.host_state(moment))

    return Hook(lambda done: done == step, save, at_start=True)


def mask_updates(update: Callable | None, log: Log, steps: Container, stop: int, devices: Devices) -> Hook:
    """Changes the masks by `update(step, state, masks)` before each step in `steps`; pruned weights become zero.

    Without an `update` nothing is changed, and due all the same (`snapshot`).
    """

    def act(moment):
        if update is None:
            return None
        state = log.host_state(moment)
        masks = update(moment.step, state, moment.masks)
        return moment._replace(state=replicate(train.rewind(state, masks), devices), masks=masks)

    return Hook(lambda step: step in steps and step < stop, act, at_start=True)


def search(draw: Callable[[train.TrainState, Callable[[], float]], bool], log: Log, steps: Container) -> Hook:
    """Calls `draw(state, seconds)` after each step in `steps`, and ends training when it returns True.

    `seconds()` is the time so far, that of drawing masks included.
    """

    def act(moment):
        return moment._replace(is_over=draw(log.host_state(moment), moment.clock.seconds))

    return Hook(lambda step: step in steps, act, at_start=True)
