"""One training on several hosts: the leader tells before each program what it is, and the followers do the same.

The leader's state and masks are sent with the first program of a training, and again when a hook has changed them. All
else the followers have themselves: the data, the programs, and the order of the batches.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxtickets.data import batches
from jaxtickets.devices import replicate, unreplicate
from jaxtickets.hosts import Hosts
from jaxtickets.loop import Hook
from jaxtickets.stopping import StoppedError


class Training(NamedTuple):
    """The order to take part in a training; the answer `READY` comes once its programs are compiled.

    Attributes:
      seed: of the order of its data.
      rate: a factor on the learning rates.
      start, stop: its first step and the one at which it ends.
      due: the steps at which something is done between programs, which decides how steps are put together.
    """

    seed: int
    rate: float
    start: int
    stop: int
    due: frozenset[int]


class Block(NamedTuple):
    """The order to run the next program.

    Attributes:
      changed: by name those of the program's first arguments, on the host, that are not what the program before has
        left (`state`) or was given (`masks`, `teacher`).
    """

    changed: dict[str, Any]


class Over(NamedTuple):
    """The order to end a training."""


READY = "ready"


@contextlib.contextmanager
def led(setup, training: Training, hooks: Sequence[Hook], programs) -> Iterator[Callable[[int, int], Callable]]:
    """Within its block the followers run each program that is got from what is yielded, and called.

    On one host that is `programs.get`. Programs are compiled before the block begins.

    Args:
      training: without its `due` steps.
      hooks: what is done between its steps.
    """
    hosts, is_over = setup.hosts, training.start >= training.stop
    if hosts is None or is_over:
        if not is_over:
            programs.get(training.start)
        yield programs.get
        return
    steps = range(training.start, training.stop + 1)
    hosts.send(training._replace(due=frozenset(step for step in steps if any(hook.due(step) for hook in hooks))))
    programs.get(training.start)
    hosts.receive()  # All are ready.
    try:
        yield _Leader(hosts, programs).get
    finally:
        hosts.send(Over())


class _Leader:
    """Tells the followers of each program before it runs."""

    def __init__(self, hosts: Hosts, programs):
        self._hosts, self._programs, self._known = hosts, programs, {}

    def get(self, step: int, n: int) -> Callable:
        program = self._programs.get(step, n)

        def run(state, masks, data, indices, teacher):
            given = {"state": state, "masks": masks, "teacher": teacher}
            changed = {name: tree for name, tree in given.items() if self._known.get(name, self) is not tree}
            self._hosts.send(Block({name: unreplicate(tree) for name, tree in changed.items()}))
            state, scalars = program(state, masks, data, indices, teacher)
            self._known = given | {"state": state}
            return state, scalars

        return run


def follow(setup) -> None:
    """Takes part in the leader's trainings until it ends.

    Raises:
      StoppedError: this process was asked to end, and the leader has ended the training.
    """
    while (order := _order(setup.hosts)) is not None:
        programs = setup.programs_of(rate=order.rate)
        programs.get(order.start)
        with setup.stopped.saves():  # From here on the leader counts on this host.
            setup.hosts.send(READY)
            _take_part(setup, programs, order)


def _take_part(setup, programs, training):
    blocks = batches.blocks(training.start, training.stop, setup.timeline.steps_per_call, training.due.__contains__)
    given = {}
    with contextlib.closing(setup.batches([training.seed], blocks)) as source:
        while isinstance(order := _order(setup.hosts), Block):
            block, data, indices = next(source)
            given |= {name: replicate(tree, setup.devices) for name, tree in order.changed.items()}
            program = programs.get(block.start, len(block))
            given["state"], _ = program(given["state"], given["masks"], data, indices, given["teacher"])
    if order is None:
        raise StoppedError


def _order(hosts):
    (order,) = hosts.receive()
    return order
