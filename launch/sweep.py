"""Runs one experiment for many values of its fields, or all experiments of a file, one process per run.

    python -m launch.sweep --config=configs/gan_digits.py:quick --grid=seed=0..2 --grid=prune.rate=0.2,0.5 \\
        --jobs=2 --sweepdir=sweeps/rates -- --config.train.steps=2000

Each point has a workdir in the sweep's directory (`seed=0,prune.rate=0.2`) and its output in `logs/`. Flags after `--`
go to every run. All points are validated before the first one starts. A second start skips finished runs and resumes
the others; its grid may have other points. At the end the sweep writes `summary.csv`, `levels.csv` and
`comparison.png`, of all runs in its directory.

A value `0..4` is all whole numbers from 0 to 4. Fields in `--zip` advance together, and every point of the grid is run
with each of their values: `--zip=seed=0,1,2 --zip=model.width=16,32,48`. With `--sample=20` the values of --grid are
not combined but drawn, 20 times, from lists, from `uniform(0.1,0.5)` and `log(1e-4,1e-2)`, and whole ones from
`int(8,64)` and `logint(8,64)`; the same flags draw the same points, a larger number draws more of them, and
`--sample_seed` others. Without any of these flags the function `get_sweep` of the config file describes the sweep
(docs/sweeps.md).

With `--retry=2` a run that has failed is started again, up to twice; it goes on from its last saved state.

JAX takes most of a GPU's memory for one process. On a machine with several GPUs, `--devices_per_job=1 --jobs=4` gives
each of four parallel runs one GPU: of `CUDA_VISIBLE_DEVICES` if that is set, else of GPUs 0, 1, 2, ... With
`--jobs_per_device=3` three runs share each GPU and its memory, beside each other where CUDA's MPS runs, else in turns.

On a GPU that one run does not fill, `--together=4` trains up to four points as one program in one process: points whose
networks and steps are the same, and that differ in seed, score, scope, rate or sparsities. The others run alone.

With `--slurm` the runs are jobs of SLURM, described by `--partition`, `--account`, `--time`, `--gpus`,
`--setup=LINE` (or `@FILE`) and `--sbatch=NAME=VALUE`; `--jobs` is then the most of them at a time (default: no limit).
The sweep ends once they are submitted; the same command says how far they are, and submits again those that have ended
before their runs were finished (docs/clusters.md).

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
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

if not __package__:
    # `python launch/sweep.py` puts launch/ on the path, not the directory that holds jaxtickets/.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jaxtickets import cli, ending
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.report import compare, levels, summary_table
from jaxtickets.report.reading import read
from jaxtickets.workdir import Workdir
from launch import devices, directory, packing, point_flags, slurm, unpacking
from launch.checking import check
from launch.plan import plan
from launch.points import Point, points
from launch.running import FAILED, FINISHED, NOT_STARTED, STOPPED, Runs, failures
from launch.watching import Watch

COMMAND = (sys.executable, "-m", "jaxtickets.main")
TOGETHER = (sys.executable, "-m", "jaxtickets.portfolio")
TIME_OVER = 75  # An exit status: sysexits.h calls it EX_TEMPFAIL, what fails now and may be tried again.
RUNNING_OPTIONS = ("jobs", "devices_per_job", "jobs_per_device", "together", "retry", "minutes", "dry_run")
KINDS = (FINISHED, STOPPED, NOT_STARTED, FAILED)


def sweep(
    config: str,
    grid: Sequence[str] = (),
    sweepdir: str | os.PathLike = "",
    *,
    zipped: Sequence[str] = (),
    sample: int | None = None,
    sample_seed: int = 0,
    jobs: int | None = None,
    extra: Sequence[str] = (),
    devices_per_job: int = 0,
    jobs_per_device: int = 0,
    together: int = 1,
    retry: int = 0,
    minutes: float | None = None,
    dry_run: bool = False,
    on_slurm: slurm.Request | None = None,
    command: Sequence[str] = COMMAND,
) -> int:
    """Runs every point that is not finished yet, and compares all runs.

    Args:
      config: `FILE[:VARIANT]` or `NAME[:VARIANT]`, as `jaxtickets.main` takes it.
      grid: `field=value,value,...` for each config field that varies.
      sweepdir: the directory of the sweep, with one workdir per point; "" is that of the command line.
      zipped, sample, sample_seed: see `points.points`. Without these and a grid, `get_sweep` of the config's file.
      jobs: the number of runs at a time; None is 1, or what `jobs_per_device` allows.
      extra: further flags for every run.
      devices_per_job: the number of GPUs that each run sees; 0 changes nothing.
      jobs_per_device: the number of runs that share each GPU; 0 changes nothing.
      together: the most points that train as one program.
      retry: how many times a run that has failed is started again.
      minutes: after this time all trainings save their state and end; None is no limit.
      dry_run: print the commands and start nothing.
      on_slurm: what jobs of SLURM ask for, which are submitted in the place of processes here.
      command: the program, which takes the flags of `jaxtickets.main`.

    Returns:
      The exit status: 0 if all runs finished, 1 if some failed, `TIME_OVER` if `minutes` were over before all had
      ended or jobs have not ended yet, 128 + n if signal n stopped the sweep.

    Raises:
      UserError: a mistake in the arguments or in the config of a point, or `sweepdir` holds a sweep of another config
        or other extra flags. Nothing has been started then.
    """
    sweepdir = local_path(sweepdir or cli.default_directory("sweeps", config), "--sweepdir")
    environments = devices.environments(jobs, devices_per_job, jobs_per_device)
    until = _end_of_time(minutes)
    for flag, value, least in (("together", together, 1), ("retry", retry, 0)):
        if value < least:
            raise UserError(f"--{flag}={value}: allowed is a whole number of at least {least}")
    all_points = points(config, sweepdir, grid=grid, zipped=zipped, sample=sample, sample_seed=sample_seed, extra=extra)
    about = directory.about(config, extra, together)
    directory.check_whole(sweepdir)
    directory.check_same(sweepdir, about)
    checked = check(all_points)
    finished = [point for point in all_points if Workdir(point.workdir).is_finished]
    if finished:
        going_on = directory.going_on({point.workdir: point.arguments for point in finished})
        ended = {point.name: point for point in finished if point.workdir not in going_on}
        for point in finished:  # A control takes up the rounds of its run, also where only that one had come to them.
            most = checked[point.name].levels or 0
            if any(name not in ended or min(most, _rounds(ended[name])) > _rounds(point) for name in point.after):
                ended.pop(point.name, None)
        finished = list(ended.values())
    groups = [(point,) for point in all_points]
    if together > 1:
        from launch.together import groups as groups_of  # Imports JAX, which is slow.

        groups = groups_of(all_points, together, directory.groups(sweepdir))
        if alone := [group[0].name for group in groups if len(group) == 1]:
            print(f"run alone, because no other point with the same networks and steps is left: {'; '.join(alone)}")
    for point in finished:
        print(f"{point.name}: finished already, skipped")
    waiting = [group for group in groups if not all(point in finished for point in group)]
    command_of = partial(_command, alone=command)
    commands = {group[0].name: command_of(group) for group in waiting}
    watch = Watch(all_points, checked, directory.seconds(sweepdir))
    at_once = len(environments) if on_slurm is None else jobs or max(1, len(waiting))
    if on_slurm is not None and commands:
        slurm.check(on_slurm)
    # Jobs of SLURM share no device, whatever their number.
    sharing = (devices_per_job, jobs_per_device) if on_slurm is None else (max(1, on_slurm.gpus), 0)
    for line in plan(all_points, finished, watch, at_once, *sharing, together):
        print(line, flush=True)
    if shared := devices.described(environments, jobs_per_device):
        print(shared, flush=True)
    if dry_run:
        for line in commands.values():
            print(shlex.join(line))
        return 0

    names = [[point.name for point in group] for group in groups] if together > 1 else []
    directory.make(sweepdir)
    directory.write(sweepdir, about, names, watch.seconds)
    if on_slurm is not None:
        _submit(sweepdir, waiting, commands, watch, on_slurm, jobs or 0)
        _summarise(all_points, {}, sweepdir)
        return TIME_OVER if waiting else 0
    runs = Runs(sweepdir, command_of, environments, watch, until, retry)
    try:
        stopped_by = runs.run(waiting, [point.name for point in finished])
    finally:
        directory.write(sweepdir, about, names, watch.seconds)
    _summarise(all_points, failures(runs.ends), sweepdir)
    if stopped_by:
        print("Stopped. The same command resumes the sweep.")
        return 128 + stopped_by
    if any(end.startswith((STOPPED, NOT_STARTED)) for end in runs.ends.values()):
        print(f"The time is over (--minutes={minutes:g}): {_counts(all_points, runs.ends)}. The same command goes on.")
        return TIME_OVER
    return 1 if failures(runs.ends) else 0


def _command(group, alone):
    """The command of a process that runs a group of points; `alone` is the program that runs one."""
    first, *others = (point.arguments for point in group)
    return [*(TOGETHER if others else alone), *first, *(part for other in others for part in ("--", *other))]


def _submit(sweepdir, waiting, commands, watch, on_slurm, at_once):
    """Submits the runs whose `Point.after` have finished, and prints what each run's job does."""
    names = {point.name for group in waiting for point in group}
    after = {group[0].name: sorted({name for point in group for name in point.after} & names) for group in waiting}
    ready = {name: command for name, command in commands.items() if not after[name]}
    told = slurm.submit(sweepdir, ready, on_slurm, at_once) if ready else {}
    for group in waiting:
        name = group[0].name
        what = told.get(name) or f"is submitted by the same command once {', '.join(after[name])} has finished"
        for point in group:
            print(f"{point.name}: {what}, {watch.look(point.name).share:.0%} done, output in logs/{name}.log")


def _rounds(point: Point) -> int:
    """The number of rounds that every seed of a run has finished."""
    place = Workdir(point.workdir)
    return min(len(one.read_rounds()) for one in (place.seed_dirs() or {0: place}).values())


def _summarise(all_points: Sequence[Point], failures: Mapping[str, str], sweepdir: Path) -> None:
    """Writes and prints the comparison of all runs of the directory, those of other calls too, if a round has finished.

    Runs that have not been started are left out.
    """
    told = [point.workdir for point in all_points if point.name in failures or Workdir(point.workdir).is_started]
    names = {point.name for point in all_points}
    others = [place.path for place in directory.started_runs(sweepdir) if place.path.name not in names]
    told += (others := list(filter(_is_readable, others)))
    if told and not failures and not any(any(path.rglob(Workdir(path).rounds.name)) for path in told):
        print("\nNo round has finished yet: there is nothing to compare.")
    elif told:
        rows = compare(told, sweepdir, failed=failures)
        print(f"\n{summary_table(rows)}")
        readable = [path for path in told if path.name not in failures]
        if len(readable) > 1:
            print(f"\n{levels(readable, sweepdir)}")
        more = f", of {len(told)} runs, {len(others)} of them from other calls" if others else ""
        print(f"\n{sweepdir / 'summary.csv'}, {sweepdir / 'comparison.png'}{more}")
    for name, reason in failures.items():
        print(f"{name}: {reason}")


def _is_readable(workdir: Path) -> bool:
    """Whether the tables of a run of another call can be read; says so where they can't."""
    try:
        read(workdir)
    except UserError as error:
        print(f"{workdir.name}: not compared: {error}")
        return False
    return True


def _counts(all_points: Sequence[Point], ends: Mapping[str, str]) -> str:
    """How many runs have finished, were stopped, were not started, or have failed."""
    kinds = [next(kind for kind in KINDS if ends.get(point.name, FINISHED).startswith(kind)) for point in all_points]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS if kinds.count(kind))


def _end_of_time(minutes: float | None) -> float:
    """When the time is over, of `time.monotonic`."""
    if minutes is None:
        return math.inf
    if not 0 < minutes < math.inf:
        raise UserError(f"--minutes={minutes:g}: allowed is a number above 0")
    return time.monotonic() + 60 * minutes


def define_running(defined: flags.FlagValues) -> None:
    """Defines the flags that say how runs are started; `running_options` reads them."""
    flags.DEFINE_integer("jobs", None, "The number of runs at a time (default: 1).", flag_values=defined)
    flags.DEFINE_integer(
        "devices_per_job", 0, "The number of GPUs that each run sees; 0 changes nothing.", flag_values=defined
    )
    flags.DEFINE_integer(
        "jobs_per_device", 0, "The number of runs that share each GPU and its memory.", flag_values=defined
    )
    flags.DEFINE_integer("retry", 0, "How many times a failed run is started again.", flag_values=defined)
    flags.DEFINE_integer("together", 1, "The most points that train as one program.", flag_values=defined)
    flags.DEFINE_bool("dry_run", False, "Print the commands and start nothing.", flag_values=defined)
    flags.DEFINE_float("minutes", None, "After this time all runs save their state and end.", flag_values=defined)
    slurm.define(defined)


def running_options(defined: flags.FlagValues) -> dict[str, Any]:
    """The arguments of `sweep` that the flags of `define_running` give.

    Raises:
      UserError: those of SLURM can't be read, or do not go with the others.
    """
    chosen = {name: defined[name].value for name in RUNNING_OPTIONS}
    return chosen | {"on_slurm": slurm.chosen(defined)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line (None is this process's); returns the exit status."""
    defined = flags.FlagValues()
    point_flags.define(defined)
    define_running(defined)
    flags.DEFINE_string("pack", None, "Write the sweep into this .tar.gz file at the end.", flag_values=defined)
    flags.DEFINE_bool("tables", False, "Pack only what reports read of finished runs.", flag_values=defined)
    flags.DEFINE_float("limit", None, "The largest size of the packed file, in MB (10^6 bytes).", flag_values=defined)
    flags.DEFINE_string("unpack", None, "Take the sweep in this .tar.gz file first.", flag_values=defined)

    def run(extra):
        moves = defined.pack is not None or defined.unpack is not None
        runs = point_flags.has_points(defined) or not moves
        if defined.config is None and (runs or not defined.sweepdir):
            raise UserError(cli.NO_CONFIG)
        sweepdir = defined.sweepdir or cli.default_directory("sweeps", defined.config)
        packed = packing.checked(defined.pack, defined.tables, defined.limit)
        if defined.unpack is not None and not defined.dry_run:
            unpacking.unpack(defined.unpack, sweepdir)
        status = 0
        if runs:
            devices.leave_to_runs()
            status = sweep(
                **point_flags.chosen(defined),
                sweepdir=sweepdir,
                extra=extra,
                **running_options(defined),
            )
        if packed is not None and status in (0, ending.FAILURE, TIME_OVER) and not defined.dry_run:
            packing.pack(sweepdir, packed, tables=defined.tables, limit=defined.limit)
        return status

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if line := point_flags.misplaced(arguments):
        return cli.fail(UserError(line))
    return cli.call(run, defined, arguments, __doc__)


if __name__ == "__main__":
    ending.run(lambda _: main(), lambda: "the same command resumes the sweep")
