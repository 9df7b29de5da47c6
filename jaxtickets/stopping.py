"""A request that trainings save their state and end: `Stop`, and Ctrl-C as such a request in a library."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from jaxtickets.progress import say


class StoppedError(Exception):
    """A training has saved its state and ended, because it was asked to."""


class Stop(threading.Event):
    """Once it is set, every training saves its state after its step and ends with `StoppedError`."""

    def __init__(self, abort: Callable[[str], None] | None = None):
        """abort: ends the process at once, with a line that says why; without it the request is all there is."""
        super().__init__()
        self._saving = []  # Each append and remove is atomic; a lock could be held by what a signal interrupts.
        self._abort = abort

    def abort(self, line: str) -> None:
        """Ends the run because it must not write any more; in a library, where it looks for the request."""
        if self._abort:
            self._abort(line)
        say(line)
        self.set()

    @contextlib.contextmanager
    def saves(self) -> Iterator[None]:
        """Within its block the thread looks for the request, and saves before the block ends.

        Raises:
          StoppedError: at the end of the block, if the request is there.
        """
        with self.waits():
            yield
        if self.is_set():
            raise StoppedError

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """A process that is asked to end waits until the thread has left this block."""
        thread = threading.get_ident()
        self._saving.append(thread)
        try:
            yield
        finally:
            self._saving.remove(thread)

    @property
    def is_awaited(self) -> bool:
        """Whether a thread is within such a block."""
        return bool(self._saving)

    def is_awaited_from(self, thread: threading.Thread) -> bool:
        """Whether that thread is within such a block."""
        return thread.ident in self._saving


@contextlib.contextmanager
def saved_by_interrupt(stop: Stop) -> Iterator[Stop]:
    """Lets a training that is interrupted within the block, by Ctrl-C or a notebook's button, save its state first.

    The block ends with `KeyboardInterrupt` all the same, and the process goes on. A second interrupt, and one that
    comes while nothing trains, does so at once. In other threads than the main one, which get no signals, and where
    another handler than one of Python's is set, nothing changes.
    """
    before, main = signal.getsignal(signal.SIGINT), threading.main_thread()
    if threading.current_thread() is not main or not callable(before):
        yield stop
        return
    has_come = False

    def handle(number, frame):
        nonlocal has_come
        if stop.is_set() or not stop.is_awaited_from(main):
            return before(number, frame)
        has_come = True
        stop.set()
        say("interrupted: the training saves its state after this step (again: ends at once)")

    signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    except StoppedError:
        if not has_come:
            raise
        raise KeyboardInterrupt("the state is saved; the same call goes on from it") from None
    finally:
        signal.signal(signal.SIGINT, before)
