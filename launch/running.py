"""The processes of a sweep: started in order, some at a time, and ended when a signal comes or the time is over."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxtickets import ending
from jaxtickets.errors import DivergenceError
from jaxtickets.workdir import Workdir
from launch.display import Display
from launch.overview import FAILED, FINISHED, RUNNING, WAITING, overview
from launch.points import Point
from launch.watching import Watch

POLL_SECONDS = 0.1
GRACE_SECONDS = 60
STOPPED, NOT_STARTED = "stopped", "not started"
FINAL = (ending.MISTAKE, DivergenceError.status)  # Exit statuses of what would fail in the same way again.
AS_ASKED = (128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGKILL)  # Exit statuses of runs that `_end` has ended.


@dataclass
class Job:
    """A process that has been started, with the run of one point or those of several.

    Attributes:
      log_start: the number of bytes that earlier attempts left in the log.
      began: when it was started, of `time.monotonic`.
      logged: the number of bytes of scalars that its workdirs had when they were last looked at.
      verdicts: when the verdict of each point was written, by name; None for others.
      is_training: whether it has logged a step since it was started.
    """

    points: tuple[Point, ...]
    process: subprocess.Popen
    log: Path
    log_start: int
    began: float
    logged: int
    verdicts: Mapping[str, int | None]
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
        command: Callable[[Sequence[Point]], Sequence[str]],
        environments: Sequence[Mapping[str, str]],
        watch: Watch,
        until: float = float("inf"),
        retry: int = 0,
    ):
        """Starts nothing yet.

        Args:
          command: gives the command of a process that runs a group of points.
          environments: the environment variables of each of the runs at a time, beside the inherited ones.
          watch: knows how far runs have come; it gets the seconds that they have taken.
          until: when the time is over, of `time.monotonic`.
          retry: how many times a run that has failed is started again.
        """
        self._sweepdir, self._command, self._environments, self._until = sweepdir, command, environments, until
        self._watch, self._retry, self._display = watch, retry, Display()
        self._running: dict[int, Job] = {}
        self._queue: list[tuple[Point, ...]] = []
        self._retried: dict[str, int] = {}
        self._start_up = 0.0  # The longest time that a run has taken from its start to its first logged step.
        self.ends: dict[str, str] = {}

    def run(self, groups: Sequence[tuple[Point, ...]], finished: Sequence[str] = ()) -> int | None:
        """Runs all groups of points, or as many as the time allows; returns the signal that has stopped them, if any.

        No run is started in whose time it would not come to its first step, as far as the runs before it tell, and
        none before those that it waits for have finished.

        Args:
          finished: the names of points that have finished before.
        """
        self._queue, self._finished, stopped_by = list(groups), set(finished), None
        with _signals_interrupt() as heard, self._display:
            try:
                while self._running or (self._queue and self._has_time()):
                    self._give_up()
                    for slot in range(len(self._environments)):
                        if slot not in self._running and self._has_time() and (group := self._next()):
                            self._start(slot, group)
                    self._show()
                    time.sleep(POLL_SECONDS)
                    is_over = time.monotonic() >= self._until
                    self._look()
                    if is_over:
                        break
            except KeyboardInterrupt as error:
                stopped_by = error.args[0]
            finally:
                heard.append(None)
                _end([job.process for job in self._running.values()])
        for job in self._running.values():
            self._note_seconds(job)
            self._tell_all(job, is_asked=True)
        self._running.clear()
        for group in self._queue:
            for point in group:
                self._tell(point, NOT_STARTED)
        return stopped_by

    def _next(self):
        """Takes the next group out of the queue that waits for nothing; None if there is none."""
        for number, group in enumerate(self._queue):
            if all(self._has_finished(name) for point in group for name in self._needed(point)):
                return self._queue.pop(number)
        return None

    def _needed(self, point):
        return () if point.name in self._finished else point.after

    def _has_finished(self, name):
        return name in self._finished or self.ends.get(name) == FINISHED

    def _give_up(self):
        """Takes runs out of the queue, and out of their groups, that wait for one that has failed."""
        is_failed = lambda name: self.ends.get(name, "").startswith(FAILED)  # noqa: E731
        queue, self._queue = self._queue, []
        for group in queue:
            lost = {point: failed for point in group if (failed := next(filter(is_failed, self._needed(point)), None))}
            for point, failed in lost.items():
                self._tell(point, f"{FAILED}: not started, because {failed} has failed, which it needs")
            rest = tuple(point for point in group if point not in lost)
            if any(point.name not in self._finished for point in rest):
                self._queue.append(rest)

    def _has_time(self):
        return time.monotonic() + self._start_up < self._until

    def _start(self, slot, group):
        name = group[0].name
        command, log = self._command(group), self._sweepdir / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        verdicts = {point.name: _written(point) for point in group}
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
            self._display.line(f"{'; '.join(point.name for point in group)}: {how}, output in {log}")
            self._running[slot] = Job(group, process, log, file.tell(), time.monotonic(), self._logged(group), verdicts)
        for point in group:
            self._watch.at_start[point.name] = self._watch.look(point.name).share

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
                self._note_seconds(job)
                if not self._starts_again(job):
                    self._tell_all(job)
                self._show(is_news=bool(self._running or self._queue))

    def _note_seconds(self, job):
        for point in job.points:
            seconds = (time.monotonic() - job.began) / len(job.points)
            self._watch.seconds[point.name] = self._watch.seconds.get(point.name, 0) + seconds

    def _starts_again(self, job):
        """Puts a group of which a run has failed into the queue again, if it may and could end otherwise (`FINAL`)."""
        name, outcomes = job.points[0].name, [self._outcome(job, point, False) for point in job.points]
        failed = [outcome for outcome in outcomes if outcome.startswith(FAILED)]
        times = self._retried.get(name, 0)
        if not failed or times >= self._retry or job.process.returncode in FINAL:
            return False
        self._retried[name] = times + 1
        self._display.line(f"{name}: {failed[0]}; it is started again ({times + 1} of {self._retry})")
        self._queue.append(job.points)
        return True

    def _logged(self, group):
        return sum(_logged(point.workdir) for point in group)

    def _tell_all(self, job, is_asked=False):
        for point in job.points:
            self._tell(point, self._outcome(job, point, is_asked))

    def _tell(self, point, outcome):
        self.ends[point.name] = outcome
        self._display.line(f"{point.name}: {outcome}")

    def _show(self, is_news=False):
        if is_news or self._display.is_due():
            self._display.show(*overview(self._watch, self._states(), len(self._environments)), is_news)

    def _states(self):
        """`{name: (state, seconds since its start)}`, in the order in which the table shows the runs."""
        now = time.monotonic()
        running = {point.name: (RUNNING, now - job.began) for job in self._running.values() for point in job.points}
        failed = {name: (FAILED, 0.0) for name in failures(self.ends)}
        waiting = {point.name: (WAITING, 0.0) for group in self._queue for point in group}
        done = {name: (FINISHED, 0.0) for name in reversed([*self._finished, *self.ends]) if self._has_finished(name)}
        return running | failed | waiting | done

    def _outcome(self, job, point, is_asked) -> str:
        """What has become of a run whose process has ended; of a failed one with its last line of output."""
        status = job.process.returncode
        is_together = len(job.points) > 1
        # A finished run that should go on may still have its old verdict.
        has_ended = point.name in self._finished or _written(point) != job.verdicts[point.name]
        if Workdir(point.workdir).is_finished and (status == 0 or ((is_asked or is_together) and has_ended)):
            return FINISHED
        if is_asked and status in AS_ASKED:
            is_early = not job.is_training and self._until < float("inf")
            how = ""
            if status == -signal.SIGKILL:
                is_saved = Workdir(point.workdir).has_saved
                how = f", by force: {'it goes on from its last saved state' if is_saved else 'it begins again'}"
            return f"{STOPPED}{' before its first step' if is_early else ''}{how}"
        if status < 0:
            return f"{FAILED} (killed by {_named(-status)}), output in {job.log}"
        cause = f"exit status {status}" if status else "no verdict"
        with job.log.open("rb") as file:
            file.seek(job.log_start)
            lines = file.read().decode(errors="replace").split("\n")
        if is_together:  # Its own lines say whose they are.
            lines = [line for line in lines if f": {point.name}: " in line] or lines
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        return f"{FAILED} ({cause}): {last}"


def _named(number) -> str:
    """A signal by name, and what is likely to have sent it."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name}, perhaps because the memory was full" if number == signal.SIGKILL else name


def failures(ends: Mapping[str, str]) -> dict[str, str]:
    """Those of `Runs.ends` that tell of failure."""
    return {name: end for name, end in ends.items() if end.startswith(FAILED)}


def _written(point: Point) -> int | None:
    """When the verdict of a run was written; None if there is none."""
    try:
        return Workdir(point.workdir).verdict.stat().st_mtime_ns
    except FileNotFoundError:
        return None


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
def _signals_interrupt() -> Iterator[list]:
    """Makes the signals that ask the sweep to end raise KeyboardInterrupt and do no more: runs have time to end.

    Once what is yielded holds anything, the sweep ends already, and only Ctrl-C is heard: schedulers and `timeout` may
    send a signal twice.
    """
    heard = []

    def interrupt(number, frame):
        if not heard or number == signal.SIGINT:
            heard.append(number)
            raise KeyboardInterrupt(number)

    known = [number for number in ending.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in known}
    wakeup = signal.set_wakeup_fd(-1)
    try:
        yield heard
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
