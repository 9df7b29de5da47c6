"""The progress of a run on standard error: bars on a terminal, else lines now and then, and one line per round."""

import contextlib
import contextvars
import sys
import threading

import rich.console
import rich.progress

from jaxtickets import notebooks
from jaxtickets.errors import printable
from jaxtickets.progress_lines import Lines

_SPEAKER = contextvars.ContextVar("speaker", default="")
_ADDING = threading.Lock()  # Keeps the two bars of a run together.


@contextlib.contextmanager
def speaking_as(name: str):
    """In this block, lines and bars of this thread begin with `name`; it tells apart runs that go on at a time."""
    token = _SPEAKER.set(name)
    try:
        yield
    finally:
        _SPEAKER.reset(token)


def say(line: str) -> None:
    """Writes a line on standard error, about something that takes a while or happens only once."""
    # Written at once, so that no other thread's line comes in between.
    sys.stderr.write(f"jaxtickets: {_SPEAKER.get()}{printable(line)}\n")
    sys.stderr.flush()


def show(*texts: object) -> None:
    """Writes results on standard output; what can't be printed in their lines is escaped."""
    print(*(printable(line) for text in texts for line in str(text).split("\n")), sep="\n", flush=True)


def bars() -> rich.progress.Progress:
    """An empty display for one or several `Progress`, shown within its `with` block.

    It is shown on a terminal and in a notebook.
    """
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[losses]}"),
    )
    if notebooks.is_running():
        return notebooks.Line(*columns)
    console = rich.console.Console(file=sys.stderr, highlight=False)
    return rich.progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


class Progress:
    """The two bars of a run: all its rounds, and the steps, losses and time left of the current one."""

    def __init__(self, rounds: int, steps: int, shown_in: rich.progress.Progress | None = None):
        """Makes the bars.

        Args:
          rounds: the number of rounds.
          steps: the number of steps per round.
          shown_in: a display that several runs share; None makes one for this run.
        """
        self._rounds, self._steps, self._stop = rounds, steps, steps
        self._is_shared, self._bar = shown_in is not None, bars() if shown_in is None else shown_in
        self._lines = Lines(self.say) if self._bar.disable and not notebooks.is_running() else None
        with _ADDING:
            self._all = self._bar.add_task(f"{_SPEAKER.get()}all rounds", total=rounds * steps, losses="")
            self._one = self._bar.add_task("", total=steps, losses="")

    def __enter__(self):
        if not self._is_shared:
            self._bar.start()
        return self

    def __exit__(self, *_):
        if not self._is_shared:
            return self._bar.stop()
        for task in (self._all, self._one):
            self._bar.remove_task(task)

    def expect(self, rounds: int) -> None:
        """Changes the number of rounds."""
        self._rounds = rounds
        self._bar.update(self._all, total=rounds * self._steps)

    def start_round(self, round_: int, what: str, step: int, stop: int) -> None:
        """Shows a new round.

        Args:
          round_: its number.
          what: the network that trains, in two words.
          step: the step at which training starts or goes on.
          stop: the step at which it ends.
        """
        self._bar.reset(self._one, total=stop, completed=step)
        self._bar.update(self._one, description=f"{_SPEAKER.get()}round {round_} ({what})")
        self._bar.update(self._all, completed=self._done(round_, step))
        self._stop = stop
        if self._lines:
            self._lines.start_round(f"round {round_} ({what})")

    def update(self, round_: int, step: int, losses: dict[str, float]) -> None:
        """Shows a step of the round, and those of its scalars that are losses."""
        losses, done = {name: value for name, value in losses.items() if "loss" in name}, self._done(round_, step)
        text = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses.items())
        self._bar.update(self._one, completed=step, losses=text)
        self._bar.update(self._all, completed=done)
        if self._lines:
            self._lines.update(step, self._stop, losses, done, self._rounds * self._steps)

    def _done(self, round_, step):
        """The number of steps of all rounds."""
        return round_ * self._steps + min(step, self._steps)

    def say(self, text: str) -> None:
        """Prints a line that stays above the bars."""
        self._bar.console.print(f"{_SPEAKER.get()}{printable(text)}", soft_wrap=True, markup=False)

    def within(self, round_: int) -> "Part":
        """The progress of a run inside a round of this one: it moves the bars of that round."""
        return Part(self, round_)


class Part:
    """The progress of a run inside a round of another run; it prints nothing, because the outer run does."""

    def __init__(self, whole: Progress, round_: int):
        self._whole, self._round = whole, round_

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start_round(self, round_: int, what: str, step: int, stop: int) -> None:
        del round_, what
        self._whole.start_round(self._round, "smaller network", step, stop)

    def update(self, round_: int, step: int, losses: dict[str, float]) -> None:
        del round_
        self._whole.update(self._round, step, losses)

    def say(self, text: str) -> None:
        pass
