"""How a command ends: its exit statuses, the signals that end it, and failures as one line.

| status | meaning |
|---|---|
| 0 | success |
| 1 | the machine failed (a full disk, a directory that has gone, ...), or there is a bug, with its traceback |
| 2 | a mistake of the user's |
| 3 | a training has diverged, and `config.train.on_divergence` says that the run stops |
| 128 + n | signal n: 130 for Ctrl-C (SIGINT), 143 for SIGTERM, 138 for SIGUSR1 (on Linux) |

After a signal, trainings save their state and end (`stopping.Stop`); other work is given up. A process that does not
get there, because it is inside XLA's compiler or a writer waits for its disk, ends all the same.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from jaxtickets import lock
from jaxtickets.errors import UserError, printable
from jaxtickets.progress import say
from jaxtickets.stopping import Stop

PREFIX = "jaxtickets: "
FAILURE, MISTAKE = 1, UserError.status  # Exit statuses.
PATIENCE = 2.0  # Seconds that a process has to end by itself, once no training is saving.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
_ONE_LEAVES = threading.Lock()
_BEFORE: list[Callable[[int], None]] = []  # Called with the exit status by a process that ends at once.


def run(command: Callable[[Stop], int | None], goes_on: Callable[[], str] = lambda: "") -> NoReturn:
    """Calls `command(stop)` as the program of this process, and ends the process.

    Args:
      command: returns an exit status, None for success. `stop` is set when a signal asks the process to end.
      goes_on: tells at the end what a user may do after a failure or a signal, for the line that is printed then.
    """
    if os.name != "posix":
        leave(MISTAKE, "this system is not supported; allowed are Linux and macOS, and WSL 2 on Windows")
    ending = _Ending(goes_on)
    ending.watch_signals()
    try:
        status = command(ending.stop)
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        ending.end_after(error)
    if isinstance(status, str):
        leave(FAILURE, status)
    if status:
        leave(status)
    ending.forget_signals()
    sys.exit()


def leave(status: int, line: str | None = None) -> NoReturn:
    """Ends the process at once, whatever its threads do: Python's own end waits for them, and XLA's may crash in it."""
    _ONE_LEAVES.acquire()  # Another thread that comes here waits for the end.

    def tidy():
        lock.release_all()
        if line is not None:
            is_terminal = sys.stderr.isatty()
            # Below the ^C, and with the cursor that a progress bar hides.
            sys.stderr.write("\r\n\x1b[?25h" if is_terminal else "")
            sys.stderr.write(f"{PREFIX}{printable(line)}\n")
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for act in _BEFORE:
            act(status)

    # A pipe that nobody reads, or a disk that does not answer, holds it for a moment only.
    last = threading.Thread(target=tidy, daemon=True)
    last.start()
    last.join(PATIENCE)
    os._exit(status)


def before_leaving(act: Callable[[int], None]) -> None:
    """Has `act(exit status)` called when this process ends at once, within `PATIENCE`."""
    _BEFORE.append(act)


class _Ending:
    """Watches the signals of a process; see `run`."""

    def __init__(self, goes_on: Callable[[], str]):
        self.stop = Stop(abort=lambda line: leave(FAILURE, line))
        self._goes_on = goes_on
        self._asked: signal.Signals | None = None  # The first signal.
        self._may_raise = True  # Once, and not while the process ends already.
        self._main = threading.main_thread()

    def watch_signals(self) -> None:
        """Makes the signals of `SIGNALS` end the process; those that it was started to ignore stay ignored."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        # The kernel writes here whatever the main thread does; Python's own handlers wait for it.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

        def handle(number, frame):
            del frame
            raises = self._may_raise and not self.stop.is_awaited_from(self._main)
            self._may_raise, self._asked = False, self._asked or signal.Signals(number)
            sys.unraisablehook = lambda *_: None  # Where it can't be raised, Python would tell of it.
            with contextlib.suppress(OSError):  # An event loop may have taken the wake-up for itself.
                os.write(write, bytes([number | 0x80]))
            if raises:
                raise KeyboardInterrupt

        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handle)
        threading.Thread(target=self._watch, args=(read,), name="signals", daemon=True).start()

    def forget_signals(self) -> None:
        """Leaves the signals to the system again, because Python ends its threads before itself."""
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)

    def _watch(self, read):
        is_first = True
        for byte in _bytes(read):
            number, is_second_hand = byte & 0x7F, byte & 0x80
            if number not in SIGNALS or signal.getsignal(number) is signal.SIG_IGN:
                continue
            if is_first:
                is_first, self._asked = False, self._asked or signal.Signals(number)
                threading.Thread(target=self._end_soon, name="end", daemon=True).start()
            elif number == signal.SIGINT and not is_second_hand:
                self._leave_as_asked()

    def _end_soon(self):
        self.stop.set()
        if self.stop.is_awaited:
            say(f"{_cause(self._asked)}: the training saves its state after this step (Ctrl-C again: ends at once)")
        self._wait_for_saves()
        time.sleep(PATIENCE)
        self._wait_for_saves()  # The end of a training that has just ended may be saved in the background.
        self._leave_as_asked()

    def _wait_for_saves(self):
        while self.stop.is_awaited:
            time.sleep(0.02)

    def _leave_as_asked(self) -> NoReturn:
        leave(128 + self._asked, self._going_on(_cause(self._asked)))

    def _going_on(self, line):
        return "; ".join(filter(None, (line, self._goes_on())))

    def end_after(self, error: BaseException) -> NoReturn:
        """Ends the process after an error that nothing has caught."""
        self._may_raise = False
        if isinstance(error, KeyboardInterrupt) and self._asked is None:
            self._asked = signal.SIGINT
        if self._asked is not None:  # Whatever the error: the signal may have come anywhere.
            self.stop.set()
            self._wait_for_saves()
            self._leave_as_asked()
        if isinstance(error, UserError):
            leave(error.status, str(error))
        if isinstance(error, BrokenPipeError) and not error.filename:  # Nobody reads the output: `| head`.
            leave(128 + signal.SIGPIPE)
        if (line := failure(error)) is not None:
            leave(FAILURE, self._going_on(line))
        sys.excepthook(type(error), error, error.__traceback__)
        leave(FAILURE)


def _bytes(read) -> Iterator[int]:
    while True:
        yield from os.read(read, 64)


def _cause(number) -> str:
    return "interrupted" if number == signal.SIGINT else f"ended by {number.name}"


def failure(error: BaseException) -> str | None:
    """What the machine has refused, in a line; None for any other error."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        if isinstance(error, MemoryError):
            return "the memory of this machine is full"
        error = error.__cause__
    return None
