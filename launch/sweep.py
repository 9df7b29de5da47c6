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

With `--slurm` the runs are jobs of SLURM, which `--partition`, `--account`, `--time`, `--gpus`, `--setup=LINE` (or
`@FILE`) and `--sbatch=NAME=VALUE` describe; `--jobs` is then the most of them at a time (default: no limit). The sweep
ends once they are submitted; the same command says how far they are, and submits again those that have ended before
their runs were finished (docs/clusters.md).

With `--minutes=8` no run is started that would not come to its first step, as far as the runs before it tell, and after
8 minutes all runs save their state and end, which takes some seconds more. The same command goes on.

`--pack=FILE.tar.gz` writes what another machine needs to go on, or to report, into one file; `--unpack=FILE.tar.gz`
takes it from there. Without --grid they do no more; with it the sweep is unpacked, runs, and is packed. Packed are the
runs that no process is writing: of finished ones what reports read, then feature networks, unfinished runs, then of
finished ones trained weights and tickets, and snapshots and masks. With `--limit=MB` whatever of this order still fits
is taken, and each thing left out is told; a run that is not finished is taken whole or not at all. `--tables` packs
only what reports read of finished runs.

Exit status: 0 when every run finished, 1 when some failed, 2 for a mistake in the flags, 75 when --minutes were over
before all runs had ended, or jobs of SLURM have not ended yet, 130 when stopped by Ctrl-C, 143 by SIGTERM, 138 by
SIGUSR1. In the last three, and when --minutes are over, its runs save their state and end.
"""

import math
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

if not __package__:
    # `python launch/sweep.py` puts launch/ on the path, not the directory that holds jaxtickets/.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jaxtickets import cli, ending
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.report import compare, summary_table
from jaxtickets.workdir import Workdir
from launch import directory, packing, slurm, unpacking
from launch.grid import Point, grid_points
from launch.running import FAILED, FINISHED, NOT_STARTED, STOPPED, Runs, failures

COMMAND = (sys.executable, "-m", "jaxtickets.main")
TOGETHER = (sys.executable, "-m", "jaxtickets.portfolio")
TIME_OVER = 75  # An exit status: sysexits.h calls it EX_TEMPFAIL, what fails now and may be tried again.
SLURM_FLAGS = ("partition", "account", "time", "gpus", "setup", "sbatch")
KINDS = (FINISHED, STOPPED, NOT_STARTED, FAILED)


def sweep(
    config: str,
    grid: Sequence[str],
    sweepdir: str | os.PathLike,
    *,
    jobs: int = 1,
    extra: Sequence[str] = (),
    devices_per_job: int = 0,
    together: int = 1,
    minutes: float | None = None,
    dry_run: bool = False,
    on_slurm: slurm.Request | None = None,
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
      minutes: after this time all trainings save their state and end; None is no limit.
      dry_run: print the commands and start nothing.
      on_slurm: submit jobs of SLURM with this request, `jobs` at a time (0: no limit), in the place of processes here.
      command: the program, which takes the flags of `jaxtickets.main`.

    Returns:
      The exit status: 0 if all runs finished, 1 if some failed, `TIME_OVER` if `minutes` were over before all had
      ended or jobs have not ended yet, 128 + n if signal n stopped the sweep.

    Raises:
      UserError: a mistake in the arguments, or `sweepdir` holds a sweep of another config or other extra flags.
    """
    sweepdir = local_path(sweepdir, "--sweepdir")
    points = grid_points(grid)
    environments = slot_environments(jobs, devices_per_job) if on_slurm is None else []
    until = _end_of_time(minutes)
    if not Path(config.partition(":")[0]).is_file():
        raise UserError(f"--config={config}: no such file; allowed are the files of configs/")
    for flag in extra:
        if not flag.startswith("-"):
            raise UserError(f"{flag}: not a flag; allowed after -- are flags, which every run is given")
    directory.check_whole(sweepdir)
    if together < 1:
        raise UserError(f"--together={together}: allowed is a whole number of at least 1")
    directory.check_same(sweepdir, directory.about(config, extra, together))

    def arguments(point):
        values = [f"--config.{field}={value}" for field, value in point.values.items()]
        return [f"--config={config}", f"--workdir={sweepdir / point.name}", *values, *extra]

    finished = [point for point in points if Workdir(sweepdir / point.name).is_finished]
    if finished:
        directory.check_unchanged({sweepdir / point.name: arguments(point) for point in finished})
    groups = [(point,) for point in points]
    if together > 1:
        from launch.together import groups as groups_of  # Imports JAX, which is slow.

        groups = groups_of(points, arguments, together, directory.groups(sweepdir))
        if alone := [group[0].name for group in groups if len(group) == 1]:
            print(f"run alone, because no other point with the same networks and steps is left: {'; '.join(alone)}")
    for point in finished:
        print(f"{point.name}: finished already, skipped")
    waiting = [group for group in groups if not all(point in finished for point in group)]
    commands = {}
    for group in waiting:
        first, *others = map(arguments, group)
        commands[group[0].name] = [*(TOGETHER if others else command), *first]
        for other in others:
            commands[group[0].name] += ["--", *other]
    if dry_run:
        for line in commands.values():
            print(shlex.join(line))
        return 0

    if on_slurm is not None and commands:
        slurm.check(on_slurm)
    names = [[point.name for point in group] for group in groups]
    directory.write(sweepdir, directory.about(config, extra, together), names if together > 1 else [])
    if on_slurm is not None:
        for name, what in (slurm.submit(sweepdir, commands, on_slurm, jobs) if commands else {}).items():
            print(f"{name}: {what}, output in {sweepdir / 'logs' / f'{name}.log'}")
        _summarise(points, {}, sweepdir)
        return TIME_OVER if commands else 0
    runs = Runs(sweepdir, commands, environments, until)
    stopped_by = runs.run(waiting)
    _summarise(points, failures(runs.ends), sweepdir)
    if stopped_by:
        print("Stopped. The same command resumes the sweep.")
        return 128 + stopped_by
    if any(end.startswith((STOPPED, NOT_STARTED)) for end in runs.ends.values()):
        print(f"The time is over (--minutes={minutes:g}): {_counts(points, runs.ends)}. The same command goes on.")
        return TIME_OVER
    return 1 if failures(runs.ends) else 0


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


def _summarise(points: Sequence[Point], failures: dict[str, str], sweepdir: Path) -> None:
    places = {point.name: sweepdir / point.name for point in points}
    started = [place for name, place in places.items() if name in failures or Workdir(place).is_started]
    if started:
        rows = compare(started, sweepdir, failed=failures)
        print(f"\n{summary_table(rows)}\n{sweepdir / 'summary.csv'}, {sweepdir / 'comparison.png'}")
    for name, reason in failures.items():
        print(f"{name}: {reason}")


def _counts(points: Sequence[Point], ends: Mapping[str, str]) -> str:
    """How many runs have finished, were stopped, were not started, or have failed."""
    kinds = [next(kind for kind in KINDS if ends.get(point.name, FINISHED).startswith(kind)) for point in points]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS if kinds.count(kind))


def _end_of_time(minutes: float | None) -> float:
    """When the time is over, of `time.monotonic`."""
    if minutes is None:
        return math.inf
    if not 0 < minutes < math.inf:
        raise UserError(f"--minutes={minutes:g}: allowed is a number above 0")
    return time.monotonic() + 60 * minutes


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
    flags.DEFINE_float("minutes", None, "After this time all runs save their state and end.", flag_values=defined)
    flags.DEFINE_bool("slurm", False, "Submit the runs as jobs of SLURM.", flag_values=defined)
    flags.DEFINE_string("partition", None, "With --slurm: the partition.", flag_values=defined)
    flags.DEFINE_string("account", None, "With --slurm: the account.", flag_values=defined)
    flags.DEFINE_string("time", None, "With --slurm: the time of a job, as sbatch takes it.", flag_values=defined)
    flags.DEFINE_integer("gpus", 0, "With --slurm: the number of GPUs of a job.", flag_values=defined)
    flags.DEFINE_multi_string(
        "setup", [], "With --slurm: a line of shell that comes before a run, or @FILE.", flag_values=defined
    )
    flags.DEFINE_multi_string("sbatch", [], "With --slurm: NAME=VALUE of another flag of sbatch.", flag_values=defined)
    flags.DEFINE_string("pack", None, "Write the sweep into this .tar.gz file at the end.", flag_values=defined)
    flags.DEFINE_bool("tables", False, "Pack only what reports read of finished runs.", flag_values=defined)
    flags.DEFINE_float("limit", None, "The largest size of the packed file, in MB (10^6 bytes).", flag_values=defined)
    flags.DEFINE_string("unpack", None, "Take the sweep in this .tar.gz file first.", flag_values=defined)

    def run(extra):
        if defined.config is None and (defined.grid or not defined.sweepdir):
            raise UserError(cli.NO_CONFIG)
        sweepdir = defined.sweepdir or cli.default_directory("sweeps", defined.config)
        moves = defined.pack is not None or defined.unpack is not None
        packed = packing.checked(defined.pack, defined.tables, defined.limit)
        if defined.unpack is not None and not defined.dry_run:
            unpacking.unpack(defined.unpack, sweepdir)
        of_slurm = [defined[name].value for name in SLURM_FLAGS]
        apart = ("minutes", "devices_per_job") if defined.slurm else SLURM_FLAGS
        if given := [name for name in apart if defined[name].present]:
            raise UserError(f"--{given[0]}: {'not allowed' if defined.slurm else 'allowed only'} with --slurm")
        status = 0
        if defined.grid or not moves:
            status = sweep(
                defined.config,
                defined.grid,
                sweepdir,
                jobs=defined.jobs if defined["jobs"].present or not defined.slurm else 0,
                extra=extra,
                devices_per_job=defined.devices_per_job,
                together=defined.together,
                minutes=defined.minutes,
                dry_run=defined.dry_run,
                on_slurm=slurm.request(*of_slurm) if defined.slurm else None,
            )
        if packed is not None and status in (0, ending.FAILURE, TIME_OVER) and not defined.dry_run:
            packing.pack(sweepdir, packed, tables=defined.tables, limit=defined.limit)
        return status

    return cli.call(run, defined, arguments, __doc__)


if __name__ == "__main__":
    ending.run(lambda _: main(), "the same command resumes the sweep")
