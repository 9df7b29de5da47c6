"""Runs one experiment over a grid of config values, a process a grid point.

    python -m launch.sweep --config=configs/gan_digits.py:quick --grid=seed=0,1,2 --grid=prune.rate=0.2,0.5 \\
        --jobs=2 --sweepdir=sweeps/rates -- --config.train.steps=2000

Each point has its workdir in the sweep's directory (`seed=0,prune.rate=0.2`) and its output in `logs/`. What follows
`--` goes to every run. A second start skips what is finished and resumes the rest, so that a grid can also be
extended. At the end there are `summary.csv` and `comparison.png`.

JAX takes most of a GPU's memory for one process. On a machine with several GPUs, `--devices_per_job=1 --jobs=4`
shows each of four parallel runs a GPU of its own; it shares out `CUDA_VISIBLE_DEVICES` where that is set, and
GPUs 0, 1, 2, ... otherwise.

Exit status: 0 when every run finished, 1 when some failed, 2 for a mistake in the flags, 130 when stopped by Ctrl-C
or SIGTERM.
"""

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

if not __package__:
    # `python launch/sweep.py` puts launch/ on the path, not the directory that holds jaxtickets/.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jaxtickets import files
from jaxtickets.errors import UserError
from jaxtickets.report import compare, summary_table

COMMAND = (sys.executable, "-m", "jaxtickets.main")
POLL_SECONDS = 0.1
GRACE_SECONDS = 60
MAX_NAME = 200
CLOSING = {"(": ")", "[": "]", "{": "}"}


class Point(NamedTuple):
    """One point of the grid: the name of its directory, and its config values as text."""

    name: str
    values: dict[str, str]


class Job(NamedTuple):
    """A run that is going on."""

    point: Point
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
    dry_run: bool = False,
    command: Sequence[str] = COMMAND,
) -> int:
    """Runs every point of the grid that is not finished yet.

    Args:
      config: `PATH[:variant]`, as `jaxtickets.main` takes it.
      grid: `field=value,value,...` for each config field that varies.
      sweepdir: holds a workdir for each point.
      jobs: how many runs go on at a time.
      extra: further flags for every run.
      devices_per_job: how many GPUs each run sees; 0 leaves that alone.
      dry_run: print the commands only.
      command: the program that takes the flags of `jaxtickets.main`.

    Returns:
      The exit status: 0 if all runs finished, 1 if some failed, 130 if the sweep was stopped.

    Raises:
      UserError: a mistake in the arguments, or `sweepdir` holds a sweep of another config or other extra flags.
    """
    sweepdir = Path(sweepdir)
    points = grid_points(grid)
    environments = slot_environments(jobs, devices_per_job)
    if not Path(config.partition(":")[0]).is_file():
        raise UserError(f"--config={config}: there is no such file")
    for flag in extra:
        if not flag.startswith("-"):
            raise UserError(f"{flag}: not a flag; what follows -- is passed to every run")
    _check_same_sweep(sweepdir, config, extra)
    commands = {
        point.name: [
            *command,
            f"--config={config}",
            f"--workdir={sweepdir / point.name}",
            *(f"--config.{field}={value}" for field, value in point.values.items()),
            *extra,
        ]
        for point in points
    }
    waiting = [point for point in points if not _is_finished(sweepdir / point.name)]
    for point in points:
        if point not in waiting:
            print(f"{point.name}: finished already, skipped")
    if dry_run:
        for point in waiting:
            print(shlex.join(commands[point.name]))
        return 0

    _remember_sweep(sweepdir, config, extra)
    failures, is_stopped = _run_all(waiting, commands, environments, sweepdir)
    _summarise(points, failures, sweepdir)
    if is_stopped:
        print("Stopped. The same command resumes the sweep.")
        return 130
    return 1 if failures else 0


def grid_points(grid: Sequence[str]) -> list[Point]:
    """Every combination of the values in `field=value,value,...`; the last field varies fastest.

    Raises:
      UserError: an entry cannot be read, a field is given twice, or two points would share a directory.
    """
    axes: dict[str, list[str]] = {}
    for entry in grid:
        field, equals, values = entry.partition("=")
        field = field.strip().removeprefix("config.")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", field):
            raise UserError(f"--grid={entry}: write FIELD=VALUE,VALUE,... such as prune.rate=0.2,0.5")
        if field in axes:
            raise UserError(f"--grid={entry}: the field {field} is given twice")
        axes[field] = split_values(values)
    if not axes:
        raise UserError("--grid is missing: write --grid=FIELD=VALUE,VALUE,... once for each field that varies")
    points: dict[str, Point] = {}
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        name = directory_name(values)
        if name in points:
            raise UserError(f"--grid: {values} and {points[name].values} would both be stored in {name}")
        if len(name) > MAX_NAME:
            raise UserError(f"--grid: the directory name {name} is longer than {MAX_NAME} characters")
        points[name] = Point(name, values)
    return list(points.values())


def split_values(text: str) -> list[str]:
    """Splits at the commas that are outside brackets and quotes.

    Raises:
      UserError: a value is empty, or a bracket or quote is not closed.
    """
    values, start, closing, quote = [], 0, [], ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in CLOSING:
            closing.append(CLOSING[character])
        elif character in CLOSING.values():
            if not closing or closing.pop() != character:
                raise UserError(f"--grid: unmatched {character} in {text}")
        elif character == "," and not closing:
            values.append(text[start:position].strip())
            start = position + 1
    values.append(text[start:].strip())
    if quote or closing:
        raise UserError(f"--grid: unmatched {quote or 'bracket'} in {text}")
    if not all(values):
        raise UserError(f"--grid: an empty value in {text!r}")
    return values


def directory_name(values: dict[str, str]) -> str:
    """`seed=0,prune.rate=0.2`, with what file systems may not take replaced.

    Fields that have a single value are named too, so that names stay the same when a grid is extended.
    """
    return ",".join(f"{field}={re.sub(r'[^A-Za-z0-9.+-]+', '_', value).strip('_')}" for field, value in values.items())


def slot_environments(jobs: int, devices_per_job: int) -> list[dict[str, str]]:
    """The environment variables that each of `jobs` parallel runs gets beside the inherited ones."""
    if jobs < 1:
        raise UserError(f"--jobs={jobs}: at least 1 is needed")
    if devices_per_job < 0:
        raise UserError(f"--devices_per_job={devices_per_job}: 0 or more is needed")
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
    waiting: Sequence[Point],
    commands: dict[str, list[str]],
    environments: Sequence[dict[str, str]],
    sweepdir: Path,
) -> tuple[dict[str, str], bool]:
    """Returns why runs failed, by name, and whether the sweep was stopped before all had run."""
    queue = list(waiting)
    running: dict[int, Job] = {}
    failures: dict[str, str] = {}
    with _signals_interrupt():
        try:
            while queue or running:
                for slot, environment in enumerate(environments):
                    if queue and slot not in running:
                        point = queue.pop(0)
                        running[slot] = _start(point, commands[point.name], environment, sweepdir)
                for slot, job in list(running.items()):
                    if job.process.poll() is not None:
                        del running[slot]
                        if reason := _failure(job, sweepdir):
                            failures[job.point.name] = reason
                        print(f"{job.point.name}: {reason or 'finished'}", flush=True)
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            return failures, True
        finally:
            _end([job.process for job in running.values()])
    return failures, False


def _start(point: Point, command: Sequence[str], environment: dict[str, str], sweepdir: Path) -> Job:
    log = sweepdir / "logs" / f"{point.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        # A session of its own keeps the terminal's Ctrl-C from the run; the sweep passes it on once.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
        print(f"{point.name}: started, output in {log}", flush=True)
        return Job(point, process, log, file.tell())


def _failure(job: Job, sweepdir: Path) -> str | None:
    """Why a run that has ended failed, with the last line that it printed; None if it finished."""
    status = job.process.returncode
    if status == 0 and _is_finished(sweepdir / job.point.name):
        return None
    cause = "no verdict" if status == 0 else f"exit status {status}" if status > 0 else f"signal {-status}"
    with job.log.open("rb") as file:
        file.seek(job.log_start)
        lines = file.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"failed ({cause}): {last}"


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Asks the runs to end, and ends those that have not within a minute or at a second Ctrl-C."""
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
    """Makes SIGTERM raise KeyboardInterrupt, as Ctrl-C does."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _summarise(points: Sequence[Point], failures: dict[str, str], sweepdir: Path) -> None:
    started = [sweepdir / p.name for p in points if p.name in failures or (sweepdir / p.name / "config.json").exists()]
    if started:
        rows = compare(started, sweepdir, failed=failures)
        print(f"\n{summary_table(rows)}\n{sweepdir / 'summary.csv'}, {sweepdir / 'comparison.png'}")
    for name, reason in failures.items():
        print(f"{name}: {reason}")


def _is_finished(workdir: Path) -> bool:
    return (workdir / "verdict.json").exists()


def _check_same_sweep(sweepdir: Path, config: str, extra: Sequence[str]) -> None:
    try:
        stored = json.loads((sweepdir / "sweep.json").read_text())
    except FileNotFoundError:
        return
    asked = {"config": config, "extra": list(extra)}
    for key, value in asked.items():
        if stored.get(key) != value:
            raise UserError(f"--sweepdir={sweepdir}: holds a sweep with {key} {stored.get(key)}, not {value}")


def _remember_sweep(sweepdir: Path, config: str, extra: Sequence[str]) -> None:
    files.replace(sweepdir / "sweep.json", json.dumps({"config": config, "extra": list(extra)}).encode())


def _default_sweepdir(config: str) -> str:
    path, _, variant = config.partition(":")
    return str(Path("sweeps") / "-".join(filter(None, [Path(path).stem, variant])))


def _define_flags() -> None:
    flags.DEFINE_string("config", None, "The config file: PATH[:variant].", required=True)
    flags.DEFINE_multi_string("grid", [], "FIELD=VALUE,VALUE,...; once for each config field that varies.")
    flags.DEFINE_integer("jobs", 1, "How many runs go on at a time.")
    flags.DEFINE_string("sweepdir", None, "Where the workdirs go; by default sweeps/<config>[-<variant>].")
    flags.DEFINE_integer("devices_per_job", 0, "How many GPUs each run sees; 0 leaves CUDA_VISIBLE_DEVICES alone.")
    flags.DEFINE_bool("dry_run", False, "Print the commands and start nothing.")


def _parse(arguments: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        # absl itself would exit with status 1, which here means that a run failed.
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _main(arguments: Sequence[str]) -> int:
    values = flags.FLAGS
    try:
        return sweep(
            values.config,
            values.grid,
            values.sweepdir or _default_sweepdir(values.config),
            jobs=values.jobs,
            extra=arguments[1:],
            devices_per_job=values.devices_per_job,
            dry_run=values.dry_run,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def main() -> None:
    """The command line."""
    # Defined here, not on import, because jaxtickets.main has a flag --config too.
    _define_flags()
    app.run(_main, flags_parser=_parse)


if __name__ == "__main__":
    main()
