"""What a run shows while it goes: a bar on a terminal, a line a round elsewhere."""

import contextlib
import contextvars
import sys
import threading

import rich.console
import rich.progress

_SPEAKER = contextvars.ContextVar("speaker", default="")
_ADDING = threading.Lock()  # The two lines of a run stay together.


@contextlib.contextmanager
def speaking_as(name: str):
    """What this thread says and shows in this block begins with `name`: whose run it is, where several go on."""
    token = _SPEAKER.set(name)
    try:
        yield
    finally:
        _SPEAKER.reset(token)


def say(line: str) -> None:
    """A line on standard error about something that takes a while or happens only once."""
    # In one piece, so that another thread's line does not come between.
    sys.stderr.write(f"jaxtickets: {_SPEAKER.get()}{line}\n")
    sys.stderr.flush()


def bars() -> rich.progress.Progress:
    """An empty display for one `Progress` or several, shown within its `with` block; nothing where is no terminal."""
    console = rich.console.Console(file=sys.stderr, highlight=False)
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[losses]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


class Progress:
    """Rounds, steps, losses and time left on standard error."""

    def __init__(self, rounds: int, steps: int, shown_in: rich.progress.Progress | None = None):
        """Has a display of its own, or is two lines of `shown_in` while the run goes on."""
        self._rounds, self._steps = rounds, steps
        self._is_shared, self._bar = shown_in is not None, bars() if shown_in is None else shown_in
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
        self._bar.update(self._all, total=rounds * self._steps)

    def start_round(self, round_: int, what: str, step: int, stop: int) -> None:
        """`what`: the network that trains, in two words."""
        self._bar.reset(self._one, total=stop, completed=step)
        self._bar.update(self._one, description=f"{_SPEAKER.get()}round {round_} ({what})")
        self._bar.update(self._all, completed=round_ * self._steps + min(step, self._steps))

    def update(self, round_: int, step: int, losses: dict[str, float]) -> None:
        text = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses.items() if "loss" in name)
        self._bar.update(self._one, completed=step, losses=text)
        self._bar.update(self._all, completed=round_ * self._steps + min(step, self._steps))

    def say(self, text: str) -> None:
        """One line that stays."""
        self._bar.console.print(f"{_SPEAKER.get()}{text}", soft_wrap=True, markup=False)

    def within(self, round_: int) -> "Part":
        """What a run within a round of this one shows: that round."""
        return Part(self, round_)


class Part:
    """The progress of a run within a round of another, which tells of its rounds itself."""

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
