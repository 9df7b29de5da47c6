"""Progress as lines, for log files and other places without a terminal."""

import time
from collections.abc import Callable, Mapping

FIRST, LONGEST, SHARE = 10.0, 600.0, 0.05  # Seconds to the first line, most between two, and their share of all.


def duration(seconds: float) -> str:
    """A time in words: `45 s`, `12 min`, `3 h 20 min`, `2 d 5 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class Lines:
    """Writes where a run is, in intervals that grow from ten seconds to ten minutes with its age."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        """clock: gives seconds."""
        self._write, self._clock = write, clock
        self._begin = self._round_begin = self._told = None
        self._name = ""

    def start_round(self, name: str) -> None:
        """Begins a round, which lines call `name`; its speed counts from its first update, because it may compile."""
        self._name, self._round_begin = name, None

    def update(self, step: int, stop: int, losses: Mapping[str, float], done: int, total: int) -> None:
        """Writes a line, if it is time for one.

        Args:
          step, stop: of the round, and where it ends.
          losses: by name.
          done, total: steps of all rounds.
        """
        now = self._clock()
        self._begin, self._told = self._begin or (now, done), now if self._told is None else self._told
        self._round_begin = self._round_begin or (now, step)
        if now - self._told < min(LONGEST, max(FIRST, SHARE * (now - self._begin[0]))):
            return
        self._told = now
        parts = [f"{self._name}: step {step:,} of {stop:,}"]
        parts += [f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses.items()]
        if (speed := _speed(self._round_begin, now, step)) and (of_all := _speed(self._begin, now, done)):
            parts.append(f"{speed:.3g} steps/s")
            if (left := (total - done) / of_all) >= 1:  # What comes after the last step takes time too.
                parts += [f"{duration((stop - step) / speed)} left of the round", f"{duration(left)} of all"]
        self._write(", ".join(parts))


def _speed(begin, now, step):
    """Steps per second since a begin `(time, step)`; 0.0 where nothing has been done."""
    return max(0, step - begin[1]) / max(now - begin[0], 1e-9)
