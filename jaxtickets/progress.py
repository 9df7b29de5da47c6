"""What a run shows while it goes: a bar on a terminal, a line a round elsewhere."""

import sys

import rich.console
import rich.progress


def say(line: str) -> None:
    """A line on standard error about something that takes a while or happens only once."""
    print(f"jaxtickets: {line}", file=sys.stderr, flush=True)


class Progress:
    """Rounds, steps, losses and time left on standard error."""

    def __init__(self, rounds: int, steps: int):
        self._console = rich.console.Console(file=sys.stderr, highlight=False)
        self._rounds, self._steps = rounds, steps
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[losses]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._all = self._bar.add_task("all rounds", total=rounds * steps, losses="")
        self._one = self._bar.add_task("", total=steps, losses="")

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def expect(self, rounds: int) -> None:
        self._bar.update(self._all, total=rounds * self._steps)

    def start_round(self, round_: int, what: str, step: int, stop: int) -> None:
        """`what`: the network that trains, in two words."""
        self._bar.reset(self._one, total=stop, completed=step)
        self._bar.update(self._one, description=f"round {round_} ({what})")
        self._bar.update(self._all, completed=round_ * self._steps + min(step, self._steps))

    def update(self, round_: int, step: int, losses: dict[str, float]) -> None:
        text = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses.items() if "loss" in name)
        self._bar.update(self._one, completed=step, losses=text)
        self._bar.update(self._all, completed=round_ * self._steps + min(step, self._steps))

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, soft_wrap=True, markup=False)

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
