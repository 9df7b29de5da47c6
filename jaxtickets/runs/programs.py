"""The compiled train steps of a run."""

import threading
import time
from collections.abc import Callable, Iterable

import jax
import numpy as np

from jaxtickets import train
from jaxtickets.devices import Devices, device_count
from jaxtickets.progress import say

# One after the other: what one group of devices has compiled is there for the next, where JAX's compilation cache
# does not tell devices apart (GPUs), so that all run the same program.
_COMPILING = threading.Lock()


class Programs:
    """The compiled programs of a train step: one per set of players that move in it, and one for several steps.

    They are compiled at once, when the first is asked for, and ahead of time: a later round of another shape is an
    error, not a second compilation.
    """

    def __init__(
        self,
        objective,
        optimizers,
        arguments: Callable[[], tuple],
        batches: Callable[[Iterable[range]], Iterable[tuple]],
        steps_per_call: int,
        devices: Devices,
        rematerialize: bool,
        tickets: int = 1,
        **settings,
    ):
        """
        Args:
          arguments: `() -> (state, masks, teacher)`, arrays or shapes as they are on one device.
          batches: as `train.train` takes them.
          tickets: the number of tickets that a program trains.
          settings: those of `train.step_function`.
        """
        self._objective, self._optimizers, self._arguments, self._batches = objective, optimizers, arguments, batches
        self._steps_per_call, self._devices, self._rematerialize = steps_per_call, devices, rematerialize
        self._tickets, self._settings, self._compiled = tickets, settings, None
        self._preparing = threading.Lock()

    def get(self, step: int, n: int = 1) -> Callable:
        """The program of the `n` steps after `step` steps; `n` is 1 or `steps_per_call`."""
        moving = train.movers(self._objective, step) if n == 1 else train.period(self._objective)
        return self.compiled()[moving]

    def compiled(self) -> dict:
        """All programs, by the players that move in each of their steps."""
        with self._preparing:
            if self._compiled is None:
                self._compiled = self._compile()
            return self._compiled

    def release(self) -> None:
        """Gives back the programs and what they hold; the next step compiles anew."""
        self._compiled = None

    def step_bytes(self) -> int | None:
        """The memory of one train step on a device, by XLA's own account; None where the back end gives none."""
        sizes = [train.program_bytes(program) for program in self.compiled().values()]
        return max(sizes) if all(sizes) else None

    def _compile(self):
        leading = device_count(self._devices), *((self._tickets,) if self._tickets > 1 else ())
        # Not shapes alone, which `pmap` does not take where there are several hosts; these views take no memory.
        state, masks, teacher = jax.tree.map(
            lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), (*leading, *np.shape(leaf))), self._arguments()
        )
        period, compiled = train.period(self._objective), {}
        programs = dict.fromkeys(period, 1)
        if self._steps_per_call > 1:
            programs[period] = self._steps_per_call
        for moving, steps in programs.items():
            _, *batch = next(iter(self._batches([range(steps)])))
            settings = {**self._settings, "devices": self._devices, "tickets": self._tickets}
            step = train.make_step(self._objective, self._optimizers, moving, steps, **settings)
            with _COMPILING:
                started = time.perf_counter()
                lowered = step.lower(state, masks, *batch, teacher)
                compiled[moving] = lowered.compile(train.compiler_options(self._rematerialize))
            what = "the train step" if steps == 1 else f"{steps} train steps together"
            what += f" of {self._tickets} tickets" if self._tickets > 1 else ""
            say(f"compiled {what} in {time.perf_counter() - started:.1f} s")
        return compiled
