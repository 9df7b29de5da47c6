"""The processes of a sweep: started in order, some at a time, and ended when a signal comes or the time is over."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxtickets import ending
from jaxtickets.workdir import Workdir
from launch.grid import Point

POLL_SECONDS = 0.1
GRACE_SECONDS = 60
FINISHED, STOPPED, NOT_STARTED, FAILED = "finished", "stopped", "not started", "failed"
AS_ASKED = (128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL)  # Exit statuses of runs that `_end` has ended.


@dataclass
class Job:
    """A process that has been started, with the run of one point or those of several.

    Attributes:
      log_start: the number of bytes that earlier attempts left in the log.
      began: when it was started, of `time.monotonic`.
      logged: the number of bytes of scalars that its workdirs had when they were last looked at.
      is_training: whether it has logged a step since it was started.
    """

    points: tuple[Point, ...]
    process: subprocess.Popen
    log: Path
    log_start: int
    began: float
    logged: int
    is_training: bool = False


class Runs:
    """Runs the points of a sweep.

    Attributes:
      ends: what has become of each run, by name: `FINISHED`, or a text that begins with `STOPPED`, `NOT_STARTED` or
        `FAILED`.
    """

    def __init__(
        self,
        sweepdir: Path,
        commands: Mapping[str, Sequence[str]],
        environments: Sequence[Mapping[str, str]],
        until: float = float("inf"),
    ):
        """Starts nothing yet.

        Args:
          commands: the command of each process, by the name of the first point whose run it is.
          environments: the environment variables of each of the runs at a time, beside the inherited ones.
          until: when the time is over, of `time.monotonic`.
        """
        self._sweepdir, self._commands, self._environments, self._until = sweepdir, commands, environments, until
        self._running: dict[int, Job] = {}
        self._start_up = 0.0  # The longest time that a run has taken from its start to its first logged step.
        self.ends: dict[str, str] = {}

    def run(self, groups: Sequence[tuple[Point, ...]]) -> int | None:
        """Runs all groups of points, or as many as the time allows; returns the signal that has stopped them, if any.

        No run is started in whose time it would not come to its first step, as far as the runs before it tell.
        """
        queue, stopped_by = list(groups), None
        with _signals_interrupt():
            try:
                while self._running or (queue and self._has_time()):
                    for slot in range(len(self._environments)):
                        if queue and slot not in self._running and self._has_time():
                            self._start(slot, queue.pop(0))
                    time.sleep(POLL_SECONDS)
                    is_over = time.monotonic() >= self._until
                    self._look()
                    if is_over:
                        break
            except KeyboardInterrupt as error:
                stopped_by = error.args[0]
            finally:
                _end([job.process for job in self._running.values()])
        for job in self._running.values():
            self._tell_all(job, is_asked=True)
        self._running.clear()
        for group in queue:
            for point in group:
                self._tell(point, NOT_STARTED)
        return stopped_by

    def _has_time(self):
        return time.monotonic() + self._start_up < self._until

    def _start(self, slot, group):
        name = group[0].name
        command, log = self._commands[name], self._sweepdir / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            # In a new session the terminal's Ctrl-C does not reach the run; the sweep passes it on once.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environments[slot]},
                start_new_session=True,
            )
            how = "started" if len(group) == 1 else "started together"
            print(f"{'; '.join(point.name for point in group)}: {how}, output in {log}", flush=True)
            self._running[slot] = Job(group, process, log, file.tell(), time.monotonic(), self._logged(group))

    def _look(self):
        """Notes which runs have ended and which have come to their first step."""
        for slot, job in list(self._running.items()):
            # Before the look at what it has logged, so that nothing is missed.
            has_ended = job.process.poll() is not None
            if not job.is_training and self._until < float("inf"):
                before, job.logged = job.logged, self._logged(job.points)
                if job.logged > before:
                    job.is_training = True
                    self._start_up = max(self._start_up, time.monotonic() - job.began)
            if has_ended:
                del self._running[slot]
                self._tell_all(job)

    def _logged(self, group):
        return sum(_logged(self._sweepdir / point.name) for point in group)

    def _tell_all(self, job, is_asked=False):
        for point in job.points:
            self._tell(point, self._outcome(job, point, is_asked))

    def _tell(self, point, outcome):
        self.ends[point.name] = outcome
        print(f"{point.name}: {outcome}", flush=True)

    def _outcome(self, job, point, is_asked) -> str:
        """What has become of a run whose process has ended; of a failed one with its last line of output."""
        status = job.process.returncode
        is_together = len(job.points) > 1
        if Workdir(self._sweepdir / point.name).is_finished and (status == 0 or is_asked or is_together):
            return FINISHED
        if is_asked and status in AS_ASKED:
            is_early = not job.is_training and self._until < float("inf")
            how = ", by force: it goes on from its last saved state" if status == -signal.SIGKILL else ""
            return f"{STOPPED}{' before its first step' if is_early else ''}{how}"
        cause = "no verdict" if status == 0 else f"exit status {status}" if status > 0 else f"signal {-status}"
        with job.log.open("rb") as file:
            file.seek(job.log_start)
            lines = file.read().decode(errors="replace").split("\n")
        if is_together:  # Its own lines say whose they are.
            lines = [line for line in lines if f": {point.name}: " in line] or lines
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        return f"{FAILED} ({cause}): {last}"


def failures(ends: Mapping[str, str]) -> dict[str, str]:
    """Those of `Runs.ends` that tell of failure."""
    return {name: end for name, end in ends.items() if end.startswith(FAILED)}


def _logged(workdir: Path) -> int:
    """The number of bytes of scalars that a run has logged, in all workdirs inside its own."""
    sizes = 0
    for path in workdir.rglob(Workdir(workdir).scalars.name):
        try:
            sizes += path.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Asks the runs to end; kills those that have not ended within a minute, or at a second Ctrl-C."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    try:
        for process in processes:
            process.wait(timeout=max(0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in processes:
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Makes the signals that ask the sweep to end raise KeyboardInterrupt and do no more: runs have time to end."""

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    heard = [number for number in ending.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in heard}
    wakeup = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
