"""What a run does between the steps of a training: the hooks of `train.train`."""

import math
from collections.abc import Callable, Container

import jax

from jaxtickets import snapshots, train
from jaxtickets.devices import Devices, replicate
from jaxtickets.errors import UserError
from jaxtickets.train import Hook, Moment


class Log:
    """Writes the scalars of every `every`-th step, of the last one and of those in `also`.

    What was computed a while ago is read at the next log, so that the devices never wait for the host.
    """

    def __init__(
        self, write: Callable[[int, float, dict], None], round_: int, every: int, stop: int, also: Container = ()
    ):
        """write: `(step, seconds, scalars)`."""
        self._write, self._round, self._unread = write, round_, None
        self.hook = Hook(lambda step: step % every == 0 or step == stop or step in also, self._log)

    def _log(self, moment: Moment) -> None:
        self.flush()
        self._unread = moment.step, moment.clock.seconds(), moment.scalars

    def flush(self) -> None:
        """Writes what has not been read yet.

        Raises:
          UserError: a scalar is not finite.
        """
        if self._unread is None:
            return
        (step, seconds, scalars), self._unread = self._unread, None
        scalars = {name: float(values[0]) for name, values in jax.device_get(scalars).items()}
        for name, value in scalars.items():
            if not math.isfinite(value):
                raise UserError(
                    f"training diverged: {name} is {value} at step {step} of round {self._round}; "
                    "a lower config.optimizer.learning_rate may help"
                )
        self._write(step, seconds, scalars)


def checkpoints(last: snapshots.LastState, log: Log, round_: int, every: int, stop: int) -> Hook:
    """Saves the train state every `every` steps before `stop`; 0 is never."""

    def save(moment):
        log.flush()  # A run that goes on from here will not compute these scalars again.
        last.save(round_, moment.host_state(), moment.masks, stop, moment.clock.seconds())

    return Hook(lambda step: bool(every) and step % every == 0 and step < stop, save)


def snapshot(path, step: int) -> Hook:
    """Saves the train state after `step` steps at `path`; None: nothing is saved, and due all the same.

    What is due must be the same in every round, so that each step is done in the same program.
    """

    def save(moment):
        if path is not None:
            snapshots.save(path, moment.host_state())

    return Hook(lambda done: done == step, save, at_start=True)


def mask_updates(update: Callable | None, steps: Container, stop: int, devices: Devices) -> Hook:
    """Changes the masks by `update(step, state, masks)` before each step in `steps`; pruned weights become zero.

    Without an `update` nothing is changed, and due all the same (`snapshot`).
    """

    def act(moment):
        if update is None:
            return None
        state = moment.host_state()
        masks = update(moment.step, state, moment.masks)
        return moment._replace(state=replicate(train.rewind(state, masks), devices), masks=masks)

    return Hook(lambda step: step in steps and step < stop, act, at_start=True)


def search(draw: Callable[[train.TrainState, float], bool], steps: Container) -> Hook:
    """Calls `draw(state, seconds)` after each step in `steps`, and ends training when it returns True.

    The seconds are those of training; drawing a mask does not count.
    """

    def act(moment):
        state, seconds = moment.host_state(), moment.clock.seconds()
        with moment.clock.paused():
            return moment._replace(is_over=draw(state, seconds))

    return Hook(lambda step: step in steps, act, at_start=True)
