"""Runs one experiment over a grid of config values, one process per grid point.

    python -m launch.sweep --config=configs/gan_digits.py:quick --grid=seed=0,1,2 --grid=prune.rate=0.2,0.5 \\
        --jobs=2 --sweepdir=sweeps/rates -- --config.train.steps=2000

Each point has a workdir in the sweep's directory (`seed=0,prune.rate=0.2`) and its output in `logs/`. Flags after `--`
go to every run. A second start skips finished runs and resumes the others; its grid may have more points. At the end
the sweep writes `summary.csv` and `comparison.png`.

JAX takes most of a GPU's memory for one process. On a machine with several GPUs, `--devices_per_job=1 --jobs=4` gives
each of four parallel runs one GPU: of `CUDA_VISIBLE_DEVICES` if that is set, else of GPUs 0, 1, 2, ...

On a GPU that one run does not fill, `--together=4` trains up to four points as one program in one process: points whose
networks and steps are the same, and that differ in seed, score, scope, rate or sparsities. The others run alone.

Exit status: 0 when every run finished, 1 when some failed, 2 for a mistake in the flags, 130 when stopped by Ctrl-C,
143 by SIGTERM, 138 by SIGUSR1. Its runs save their state and end then.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from absl import flags

if not __package__:
    # `python launch/sweep.py` puts launch/ on the path, not the directory that holds jaxtickets/.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jaxtickets import cli, ending, files
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.report import compare, summary_table
from jaxtickets.workdir import Workdir
from launch.grid import Point, grid_points

COMMAND = (sys.executable, "-m", "jaxtickets.main")
TOGETHER = (sys.executable, "-m", "jaxtickets.portfolio")
POLL_SECONDS = 0.1
GRACE_SECONDS = 60


class Job(NamedTuple):
    """A process that has been started, with the run of one point or those of several."""

    points: tuple[Point, ...]
    process: subprocess.Popen
    log: Path
    log_start: int  # bytes that earlier attempts left in the log


def sweep(
    config: str,
    grid: Sequence[str],
    sweepdir: str | os.PathLike,
    *,
    jobs: int = 1,
    extra: Sequence[str] = (),
    devices_per_job: int = 0,
    together: int = 1,
    dry_run: bool = False,
    command: Sequence[str] = COMMAND,
) -> int:
    """Runs every point of the grid that is not finished yet, and compares all runs.

    Args:
      config: `PATH[:variant]`, as `jaxtickets.main` takes it.
      grid: `field=value,value,...` for each config field that varies.
      sweepdir: the directory of the sweep, with one workdir per point.
      jobs: the number of runs at a time.
      extra: further flags for every run.
      devices_per_job: the number of GPUs that each run sees; 0 changes nothing.
      together: the most points that train as one program.
      dry_run: print the commands and start nothing.
      command: the program, which takes the flags of `jaxtickets.main`.

    Returns:
      The exit status: 0 if all runs finished, 1 if some failed, 128 + n if signal n stopped the sweep.

    Raises:
      UserError: a mistake in the arguments, or `sweepdir` holds a sweep of another config or other extra flags.
    """
    sweepdir = local_path(sweepdir, "--sweepdir")
    points = grid_points(grid)
    environments = slot_environments(jobs, devices_per_job)
    if not Path(config.partition(":")[0]).is_file():
        raise UserError(f"--config={config}: no such file; allowed are the files of configs/")
    for flag in extra:
        if not flag.startswith("-"):
            raise UserError(f"{flag}: not a flag; allowed after -- are flags, which every run is given")
    if together < 1:
        raise UserError(f"--together={together}: allowed is a whole number of at least 1")
    known = _check_same_sweep(sweepdir, config, extra, together)

    def arguments(point):
        values = [f"--config.{field}={value}" for field, value in point.values.items()]
        return [f"--config={config}", f"--workdir={sweepdir / point.name}", *values, *extra]

    groups = [(point,) for point in points]
    if together > 1:
        from launch.together import groups as groups_of  # Imports JAX, which is slow.

        groups = groups_of(points, arguments, together, known)
        if alone := [group[0].name for group in groups if len(group) == 1]:
            print(f"run alone, because no other point with the same networks and steps is left: {'; '.join(alone)}")
    waiting = []
    for group in groups:
        is_finished = [Workdir(sweepdir / point.name).is_finished for point in group]
        for point, is_done in zip(group, is_finished, strict=True):
            if is_done:
                print(f"{point.name}: finished already, skipped")
        if not all(is_finished):
            flags_of_all = arguments(group[0])
            for point in group[1:]:
                flags_of_all += ["--", *arguments(point)]
            waiting.append((group, [*(command if len(group) == 1 else TOGETHER), *flags_of_all]))
    if dry_run:
        for _, line in waiting:
            print(shlex.join(line))
        return 0

    _remember_sweep(sweepdir, config, extra, together, groups)
    failures, stopped_by = _run_all(waiting, environments, sweepdir)
    _summarise(points, failures, sweepdir)
    if stopped_by:
        print("Stopped. The same command resumes the sweep.")
        return 128 + stopped_by
    return 1 if failures else 0


def slot_environments(jobs: int, devices_per_job: int) -> list[dict[str, str]]:
    """The environment variables that each of `jobs` parallel runs gets beside the inherited ones.

    Raises:
      UserError: one of the numbers is too small, or there are too few GPUs.
    """
    if jobs < 1:
        raise UserError(f"--jobs={jobs}: allowed is a whole number of at least 1")
    if devices_per_job < 0:
        raise UserError(f"--devices_per_job={devices_per_job}: allowed is a whole number of at least 0")
    if not devices_per_job:
        return [{}] * jobs
    needed = jobs * devices_per_job
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(device) for device in range(needed)]
    if len(devices) < needed:
        raise UserError(f"--devices_per_job={devices_per_job}: {jobs} jobs need {needed} GPUs, {len(devices)} visible")
    shares = [devices[slot * devices_per_job : (slot + 1) * devices_per_job] for slot in range(jobs)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def _run_all(
    waiting: Sequence[tuple[tuple[Point, ...], list[str]]],
    environments: Sequence[dict[str, str]],
    sweepdir: Path,
) -> tuple[dict[str, str], int | None]:
    """Returns the reasons of the failed runs by name, and the signal that stopped the sweep before all had run.

    Args:
      waiting: the points that each process runs, and its command.
    """
    queue = list(waiting)
    running: dict[int, Job] = {}
    failures: dict[str, str] = {}
    with _signals_interrupt():
        try:
            while queue or running:
                for slot, environment in enumerate(environments):
                    if queue and slot not in running:
                        running[slot] = _start(*queue.pop(0), environment, sweepdir)
                for slot, job in list(running.items()):
                    if job.process.poll() is not None:
                        del running[slot]
                        for point in job.points:
                            if reason := _failure(job, point, sweepdir):
                                failures[point.name] = reason
                            print(f"{point.name}: {reason or 'finished'}", flush=True)
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt as error:
            return failures, error.args[0]
        finally:
            _end([job.process for job in running.values()])
    return failures, None


def _start(group: tuple[Point, ...], command: Sequence[str], environment: dict[str, str], sweepdir: Path) -> Job:
    log = sweepdir / "logs" / f"{group[0].name}.log"
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
            env=os.environ | environment,
            start_new_session=True,
        )
        how = "started" if len(group) == 1 else "started together"
        print(f"{'; '.join(point.name for point in group)}: {how}, output in {log}", flush=True)
        return Job(group, process, log, file.tell())


def _failure(job: Job, point: Point, sweepdir: Path) -> str | None:
    """The reason why a run that has ended failed, with its last line of output; None if it finished."""
    status = job.process.returncode
    if (status == 0 or len(job.points) > 1) and Workdir(sweepdir / point.name).is_finished:
        return None
    cause = "no verdict" if status == 0 else f"exit status {status}" if status > 0 else f"signal {-status}"
    with job.log.open("rb") as file:
        file.seek(job.log_start)
        lines = file.read().decode(errors="replace").split("\n")
    if len(job.points) > 1:  # Its own lines say whose they are.
        lines = [line for line in lines if f": {point.name}: " in line] or lines
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"failed ({cause}): {last}"


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


def _summarise(points: Sequence[Point], failures: dict[str, str], sweepdir: Path) -> None:
    places = {point.name: sweepdir / point.name for point in points}
    started = [place for name, place in places.items() if name in failures or Workdir(place).is_started]
    if started:
        rows = compare(started, sweepdir, failed=failures)
        print(f"\n{summary_table(rows)}\n{sweepdir / 'summary.csv'}, {sweepdir / 'comparison.png'}")
    for name, reason in failures.items():
        print(f"{name}: {reason}")


def _check_same_sweep(sweepdir: Path, config: str, extra: Sequence[str], together: int) -> list[list[str]]:
    """Refuses a directory of another sweep; returns the names of the points of each group that trains together."""
    try:
        stored = json.loads((sweepdir / "sweep.json").read_text())
    except FileNotFoundError:
        return []
    asked = {"config": config, "extra": list(extra), "together": together}
    for key, value in asked.items():
        if stored.get(key, 1) != value:
            raise UserError(
                f"--sweepdir={sweepdir}: holds a sweep with {key} {stored.get(key, 1)}, not {value}; "
                "give another --sweepdir, or the same flags to resume"
            )
    return stored.get("groups", [])


def _remember_sweep(sweepdir: Path, config: str, extra: Sequence[str], together: int, groups) -> None:
    content = {"config": config, "extra": list(extra)}
    if together > 1:
        content |= {"together": together, "groups": [[point.name for point in group] for group in groups]}
    files.replace(sweepdir / "sweep.json", json.dumps(content).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line (None is this process's); returns the exit status."""
    defined = flags.FlagValues()
    flags.DEFINE_string("config", None, "The config file: FILE[:VARIANT].", flag_values=defined)
    flags.DEFINE_multi_string("grid", [], "FIELD=VALUE,VALUE,... for one config field that varies", flag_values=defined)
    flags.DEFINE_integer("jobs", 1, "The number of runs at a time.", flag_values=defined)
    flags.DEFINE_string(
        "sweepdir", None, "Where the workdirs go (default: sweeps/<config>[-<variant>]).", flag_values=defined
    )
    flags.DEFINE_integer(
        "devices_per_job", 0, "The number of GPUs that each run sees; 0 changes nothing.", flag_values=defined
    )
    flags.DEFINE_integer("together", 1, "The most points that train as one program.", flag_values=defined)
    flags.DEFINE_bool("dry_run", False, "Print the commands and start nothing.", flag_values=defined)

    def run(extra):
        if defined.config is None:
            raise UserError(cli.NO_CONFIG)
        return sweep(
            defined.config,
            defined.grid,
            defined.sweepdir or cli.default_directory("sweeps", defined.config),
            jobs=defined.jobs,
            extra=extra,
            devices_per_job=defined.devices_per_job,
            together=defined.together,
            dry_run=defined.dry_run,
        )

    return cli.call(run, defined, arguments, __doc__)


if __name__ == "__main__":
    ending.run(lambda _: main(), "the same command resumes the sweep")
