"""The points of a sweep: each one a run of `jaxtickets.main`, whatever starts it.

`points` makes them from flags or from the `get_sweep()` of a config file; `checking.check` validates them.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtickets import named_configs
from jaxtickets.errors import UserError
from launch import described, grid
from launch.described import Experiment

MAX_NAME = 200
REFERENCE = re.compile(r"\{([\w.+-]+)\}(/.*)?")  # `{name}`: the workdir of a run of another experiment.


class Point(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: the name of its directory in the sweep's, which is readable and its own.
      arguments: the flags of `jaxtickets.main`, --config and --workdir among them.
      workdir: where it writes.
      after: the names of the points that must have finished before it starts.
    """

    name: str
    arguments: tuple[str, ...]
    workdir: Path
    after: tuple[str, ...] = ()


def points(
    config: str,
    sweepdir: Path,
    *,
    grid: Sequence[str] = (),
    zipped: Sequence[str] = (),
    sample: int | None = None,
    sample_seed: int = 0,
    extra: Sequence[str] = (),
) -> list[Point]:
    """The points of a sweep, each one before those that wait for it; nothing is started, read from runs or written.

    With `grid`, `zipped` or `sample` these make the points; without them the function `get_sweep` of the config file.

    Args:
      config: `FILE[:VARIANT]` or `NAME[:VARIANT]`.
      sweepdir: the directory of the sweep.
      grid, zipped, sample, sample_seed: see `grid.combinations`.
      extra: further flags of every run.

    Raises:
      UserError: the values can't be read, two points would share a directory, or there are no points.
    """
    file = named_configs.find(config)
    for flag in extra:
        if not flag.startswith("-"):
            raise UserError(f"{flag}: not a flag; allowed after -- are flags, which every run is given")
        if not re.match(r"--?config\.", flag):
            raise UserError(
                f"{flag}: not allowed after --, where flags of the runs' fields stand: --config.FIELD=VALUE"
            )
    if grid or zipped or sample is not None:
        experiments = [Experiment(config=config, grid=grid, zip=zipped, sample=sample, sample_seed=sample_seed)]
    else:
        experiments = described.read(file)
    found: dict[str, Point] = {}
    places: dict[str, str] = {}  # The names of its points by their workdirs.
    varying: dict[str, list[tuple[str, Mapping[str, str]]]] = {}  # By experiment, its points' names and values.
    for experiment in experiments:
        varying[experiment.name] = own = []
        for values in _combinations(experiment):
            name = ",".join(filter(None, [experiment.name, directory_name(values)]))
            if name in found:
                raise UserError(
                    f"--grid: two points have the directory {name}; leave one out, or give it another --sweepdir"
                )
            if len(name) > MAX_NAME:
                raise UserError(f"--grid: the directory name {name} is longer than {MAX_NAME} characters")
            after: list[str] = []
            resolved = {
                field: _resolved(value, values, varying, sweepdir, experiment, after)
                for field, value in {**experiment.values, **values}.items()
            }
            _refuse_given_twice(values, extra)
            flags = (f"--config.{field}={value}" for field, value in resolved.items())
            after += _within(resolved.values(), places)
            workdir = sweepdir / name
            arguments = (f"--config={experiment.config}", f"--workdir={workdir}", *flags, *extra)
            found[name] = Point(name, arguments, workdir, tuple(dict.fromkeys(after)))
            places[os.path.abspath(workdir)] = name
            own.append((name, values))
    return list(found.values())


def directory_name(values: Mapping[str, str]) -> str:
    """`seed=0,prune.rate=0.2`, with an underscore for characters that a file system may refuse.

    Fields with a single value are named too, so that names stay the same when a grid is extended.
    """
    return ",".join(f"{field}={re.sub(r'[^A-Za-z0-9.+-]+', '_', value).strip('_')}" for field, value in values.items())


def _combinations(experiment: Experiment) -> Iterator[dict[str, str]]:
    try:
        yield from grid.combinations(experiment.grid, experiment.zip, experiment.sample, experiment.sample_seed)
    except UserError as error:
        raise UserError(f"{experiment.name}: {error}" if experiment.name else str(error)) from None


def _resolved(value, values, varying, sweepdir, experiment, after):
    """A value with the workdir in the place of `{name}`, whose point is then one to wait for."""
    if not (match := REFERENCE.fullmatch(value)):
        return value
    name, rest = match[1], match[2] or ""
    where = f"{experiment.name}: {value}" if experiment.name else value
    if name not in varying or name == experiment.name:
        known = ", ".join(other for other in varying if other != experiment.name)
        raise UserError(
            f"{where} names no experiment before it; {f'allowed are {known}' if known else 'it is the first'}"
        )
    common = {field for _, theirs in varying[name] for field in theirs.keys() & values.keys()}
    same = [
        other
        for other, theirs in varying[name]
        if all(theirs[field] == values[field] for field in theirs if field in common)
    ]
    if not same:
        own = directory_name({field: values[field] for field in values if field in common})
        raise UserError(f"{where}: no run of {name} has {own}; give {name} this value too, or leave it out here")
    if len(same) > 1:
        more = ", ".join(sorted({field for _, theirs in varying[name] for field in theirs} - common))
        found = f"{same[0]} or {same[1]}{', ...' if len(same) > 2 else ''}"
        raise UserError(f"{where} must be one run and may be {found}; vary {more} here too, with the same values")
    after += same
    return f"{sweepdir / same[0]}{rest}"


def _within(values, places):
    """The names of the points in whose workdirs those values lie that are paths."""
    paths = [Path(os.path.abspath(value)) for value in values if os.sep in value]
    return [places[str(path)] for one in paths for path in (one, *one.parents) if str(path) in places]


def _refuse_given_twice(values, extra):
    for flag in extra:
        if (match := re.match(r"--?config\.([^=]+)=", flag)) and match[1] in values:
            raise UserError(f"{flag}: the points of the sweep give {match[1]} too; give it once")
