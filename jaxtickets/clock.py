"""The time that a training has taken."""

import time


class Clock:
    """The time that training has taken. Steps run behind the host: read it once what they make has arrived."""

    def __init__(self, seconds: float = 0.0):
        """Starts with the seconds of an earlier part of the training."""
        self._started = time.perf_counter() - seconds

    def seconds(self) -> float:
        """The time so far."""
        return time.perf_counter() - self._started
