"""Where seed runs meet to train: each keeps its thread, its recipe and its workdir, and all train in one program.

Nothing is waited for within a training: the runs meet before it and part after it.
"""

import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

from jaxtickets import loop
from jaxtickets.finite import DivergedError
from jaxtickets.stopping import Stop, StoppedError

POLL_SECONDS = 0.1  # Between two looks for the request to end, while a run waits for others.


class Request(NamedTuple):
    """A training that a run asks for.

    Attributes:
      progress: the numbers of its round and of its first and last step: requests with equal ones train together, and
        those with the smallest come first.
      kind: what else must be equal, because it decides the programs.
      training: what this run brings to it.
      train: `(the training of each seat) -> their ends`, as `loop.train` gives them.
      seed: of the order of its data.
    """

    progress: tuple[int, ...]
    kind: Any
    training: loop.Training
    train: Callable[[Sequence["Request"]], list[loop.Moment | DivergedError]]
    seed: int


def alone(request: Request) -> loop.Moment:
    """The end of a training of one run alone."""
    return _given(*request.train([request]))


class Meeting:
    """A fixed number of seats, one per run. A training starts once every run has asked for one, or has ended.

    A program always has as many tickets as there are seats. Seats whose runs ask for another training, or have ended,
    have copies, at which nobody looks. So a ticket has the same bits whoever trains beside it, and wherever runs were
    killed.

    Attributes:
      seats: the number of seats.
      alone: held by a run for what only one of them does at a time.
    """

    def __init__(self, seats: int, stopped: Stop):
        """stopped: the request to end; once it is set, no training starts. It is set if a training fails."""
        self.seats, self.alone, self._stopped = seats, threading.Lock(), stopped
        self._changed = threading.Condition()
        self._present = set(range(seats))
        self._asked: dict[int, Request] = {}
        self._ends: dict[int, loop.Moment | BaseException] = {}

    def leave(self, seat: int) -> None:
        """Tells that the run of a seat has ended: nobody waits for it any more."""
        with self._changed:
            self._present.discard(seat)
            self._changed.notify_all()

    def train(self, seat: int, request: Request) -> loop.Moment:
        """Waits for the other runs, trains, and returns the end of this run's training.

        Raises:
          DivergedError: this run's training has diverged.
          StoppedError: the request to end came before the training, or the training has failed in another thread.
        """
        with self._changed:
            self._asked[seat] = request
            self._changed.notify_all()
            while (group := self._led_by(seat)) is None and seat not in self._ends:
                self._changed.wait(POLL_SECONDS)
        if group is not None:
            self._lead(group)
        with self._changed:
            return _given(self._ends.pop(seat))

    def _led_by(self, seat) -> dict[int, Request] | None:
        """The requests that train next, by seat, if this seat's run has to train them: the first of them does."""
        if seat not in self._asked:
            return None
        if self._stopped.is_set():
            del self._asked[seat]
            raise StoppedError
        if self._asked.keys() != self._present:
            return None
        asked = sorted(self._asked.items(), key=lambda item: (item[1].progress, item[0]))
        (first, request), *_ = asked
        if seat != first:
            return None
        same = [number for number, other in asked if other[:2] == request[:2]]
        return {number: self._asked.pop(number) for number in same}

    def _lead(self, group):
        first = next(iter(group.values()))
        copy = first._replace(training=first.training._replace(is_copy=True))
        try:
            ends = first.train([group.get(seat, copy) for seat in range(self.seats)])
        except BaseException:
            self._stopped.set()
            self._tell({seat: StoppedError() for seat in list(group)[1:]})
            raise
        self._tell({seat: ends[seat] for seat in group})

    def _tell(self, ends):
        with self._changed:
            self._ends |= ends
            self._changed.notify_all()


class Seat(NamedTuple):
    """One run's seat in a meeting."""

    meeting: Meeting
    number: int

    def train(self, request: Request) -> loop.Moment:
        """See `Meeting.train`."""
        return self.meeting.train(self.number, request)

    def one_at_a_time(self, functions):
        """A named tuple whose functions are called by one run of the meeting at a time.

        Each takes memory and starts as many threads as there are cores; and what one run has compiled is there for the
        next.
        """

        def locked(function):
            @wraps(function)
            def call(*arguments, **named):
                with self.meeting.alone:
                    return function(*arguments, **named)

            return call

        return functions._replace(**{k: locked(value) for k, value in functions._asdict().items() if callable(value)})


def _given(end):
    if isinstance(end, BaseException):
        raise end
    return end
