"""A request that trainings save their state and end: `Stop`."""

import contextlib
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
        self._saving = set()  # Adding and discarding is atomic; a lock could be held by what a signal interrupts.
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
        thread = threading.get_ident()
        self._saving.add(thread)
        try:
            yield
        finally:
            self._saving.discard(thread)
        if self.is_set():
            raise StoppedError

    @property
    def is_awaited(self) -> bool:
        """Whether a thread is within such a block."""
        return bool(self._saving)

    def is_awaited_from(self, thread: threading.Thread) -> bool:
        """Whether that thread is within such a block."""
        return thread.ident in self._saving
