"""How far the runs of a sweep have come, from the files of their workdirs alone, and how long the rest takes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtickets.errors import UserError
from jaxtickets.report.reading import UNKNOWN, About, describe, is_finite, main_metric
from jaxtickets.workdir import Workdir
from launch.checking import Checked
from launch.points import Point

TAIL = 4096  # Bytes at the end of a log, which hold its last row.
UNREADABLE = (UserError, OSError, ValueError, KeyError, TypeError)  # Of files that are being written, or damaged.


class Best(NamedTuple):
    """The best finished round of a run, by its main metric.

    Attributes:
      metric: the column of `rounds.csv`.
      value: of that round.
      sparsity: of that round.
      is_higher_better: the metric's direction.
    """

    metric: str
    value: float
    sparsity: float
    is_higher_better: bool

    def __str__(self):
        return f"{self.metric} {self.value:.4g} at {self.sparsity:.1%}"

    def beats(self, other: "Best") -> bool:
        """Whether this one, of the same metric, is better."""
        return self.value > other.value if self.is_higher_better else self.value < other.value


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
      rounds: the number of finished rounds, of all seeds.
      step: the last logged step of the round that trains.
      share: the share of all its work that is done, in [0, 1]; 0 where the number of rounds is not known.
      best: its best finished round; None before the first one.
    """

    rounds: int = 0
    step: int = 0
    share: float = 0.0
    best: Best | None = None


class Watch:
    """Follows the runs of a sweep, and learns from them how long others take."""

    def __init__(self, points: Sequence[Point], checked: Mapping[str, Checked], seconds: Mapping[str, float]):
        """Reads nothing yet.

        Args:
          seconds: the wall-clock seconds that each run has taken in the starts before, by name.
        """
        self._points = {point.name: point for point in points}
        self._checked, self.seconds = checked, dict(seconds)
        self._steps = {name: one.steps for name, one in checked.items()}
        self.at_start: dict[str, float] = {}  # The share of each run that was done when it was last started.

    def rounds(self, name: str) -> int | None:
        """The number of rounds of a run, if it is known."""
        return self._checked[name].rounds

    def look(self, name: str) -> Progress:
        """How far a run has come; nothing where its files can't be read now."""
        place = Workdir(self._points[name].workdir)
        try:
            seeds = place.seed_dirs() or {0: place}
            tables = [(one, one.read_rounds()) for one in seeds.values() if one.is_started]
            done = sum(len(rows) for _, rows in tables)
            step = 0
            for one, rows in tables:
                last = _last_row(one)
                if last.get("round") == len(rows) and last.get("split") in ("train", "search"):
                    step = max(step, last["step"])
                elif rows and not self._checked[name].steps:  # Its data decide the number of steps.
                    self._steps[name] = max(self._steps[name], last.get("step", 0))
            about = (place.read_origin() or {}).get("about") if place.is_started else None
            verdict = place.read_verdict()
        except UNREADABLE:
            return Progress()
        rows = [row for _, rows in tables for row in rows]
        return Progress(done, step, self._share(name, done, step), _best(rows, about, verdict))

    def _share(self, name, done, step):
        rounds, steps = self.rounds(name), self._steps[name]
        within = min(step / steps, 1) if steps else 0
        return min((done + within) / rounds, 1) if rounds else 0.0

    def left(self, name: str, share: float, since_start: float) -> float | None:
        """The seconds that a run which goes on has left, by its own speed since it was started, else by the others'."""
        moved = share - self.at_start.get(name, 0)
        if moved > 0:
            return since_start * (1 - share) / moved
        return self.needed([name], share)

    def trained(self, names: Iterable[str]) -> dict[str, float]:
        """The seconds that runs have trained, by name, as their tables tell them; without those that can't be read."""
        found = {}
        for name in names:
            place = Workdir(self._points[name].workdir)
            try:
                rows = [row for one in (place.seed_dirs() or {0: place}).values() for row in one.read_rounds()]
                found[name] = sum(row["train_seconds"] for row in rows if is_finite(row["train_seconds"]))
            except UNREADABLE:
                continue
        return {name: seconds for name, seconds in found.items() if seconds > 0}

    def needed(self, names: Iterable[str], share: float = 0.0, by: Mapping[str, float] | None = None) -> float | None:
        """The seconds that runs need, one after another, by those that have finished; None if that is not known.

        Args:
          by: the seconds of each run that has finished, by name; None is `seconds`.
        """
        measured = [
            (seconds, self._work(name))
            for name, seconds in (self.seconds if by is None else by).items()
            if name in self._points and Workdir(self._points[name].workdir).is_finished
        ]
        known = [(seconds, work) for seconds, work in measured if work]
        works = [self._work(name) for name in names]
        if not works:
            return 0.0
        if not known or None in works:
            return None
        return sum(works) * (1 - share) * sum(seconds for seconds, _ in known) / sum(work for _, work in known)

    def _work(self, name):
        """The steps of a run, or its rounds where the data decide the number of steps; None where neither is known."""
        rounds, steps = self.rounds(name), [one.steps for one in self._checked.values()]
        return rounds and rounds * (self._checked[name].steps if all(steps) else 1)


def best_of(found: Mapping[str, Progress]) -> tuple[str, Best] | None:
    """The run with the best round of all, and that round; None if there is no round, or their metrics differ."""
    leader = None
    for name, progress in found.items():
        if progress.best and leader and progress.best.metric != leader[1].metric:
            return None
        if progress.best and (leader is None or progress.best.beats(leader[1])):
            leader = (name, progress.best)
    return leader


def _last_row(place: Workdir) -> dict[str, Any]:
    """The last row of the logged scalars; {} if there is none."""
    try:
        with place.scalars.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        return row if isinstance(row, dict) else {}
    return {}


def _best(rows, about, verdict) -> Best | None:
    """The best of finished rounds, those of all seeds; of several, the sparsest."""
    named = About(metrics=about["metrics"]) if about and about.get("metrics") else UNKNOWN
    metric = main_metric(rows, verdict, named)
    rows = [row for row in rows if metric and is_finite(row.get(metric)) and is_finite(row.get("sparsity"))]
    if not rows:
        return None
    is_higher_better = describe(metric, verdict, named).better == "higher"
    sign = 1 if is_higher_better else -1
    row = max(rows, key=lambda row: (sign * row[metric], row["sparsity"]))
    return Best(metric, row[metric], row["sparsity"], is_higher_better)
