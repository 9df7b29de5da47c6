"""The directory of a sweep: what it says of the sweep, and whether all that belongs there has come to it."""

import json
from collections.abc import Sequence
from pathlib import Path

from jaxtickets import files
from jaxtickets.errors import UserError
from jaxtickets.workdir import Workdir

SWEEP = "sweep.json"  # The config and the extra flags of all runs.
UNPACKING = ".unpacking"  # The directory in which an archive is unpacked before its runs take their places.


def about(config: str, extra: Sequence[str]) -> dict:
    """What the directory keeps of a sweep, and what must be the same in each start."""
    return {"config": config, "extra": list(extra)}


def read(sweepdir: Path) -> dict:
    """What a directory keeps of its sweep.

    Raises:
      UserError: it is no sweep's directory, or an archive was not unpacked to the end.
    """
    check_whole(sweepdir)
    if (found := files.read_json(sweepdir / SWEEP)) is None:
        raise UserError(f"--sweepdir={sweepdir}: has no readable {SWEEP}; allowed is the directory of a sweep")
    return found


def write(sweepdir: Path, asked: dict) -> None:
    """Keeps what a sweep is."""
    files.replace(sweepdir / SWEEP, json.dumps(asked).encode())


def check_whole(sweepdir: Path) -> None:
    """Refuses a directory whose runs have not all come out of an archive.

    Raises:
      UserError: unpacking was interrupted.
    """
    if (sweepdir / UNPACKING).exists():
        left = sweepdir / UNPACKING
        raise UserError(f"{left}: unpacking was interrupted; give the same --unpack again, or remove this directory")


def check_same(sweepdir: Path, asked: dict) -> None:
    """Refuses the directory of another sweep.

    Raises:
      UserError: it holds a sweep of another config or with other extra flags.
    """
    if not (sweepdir / SWEEP).exists():
        return
    stored = files.read_json(sweepdir / SWEEP) or {}
    for key, value in asked.items():
        if stored.get(key) != value:
            raise UserError(
                f"--sweepdir={sweepdir}: holds a sweep with {key} {stored.get(key)}, not {value}; "
                "give another --sweepdir, or the same flags to resume"
            )


def started_runs(sweepdir: Path) -> list[Workdir]:
    """The workdirs of the points that have been started, by name."""
    found = sweepdir.iterdir() if sweepdir.is_dir() else ()
    places = [Workdir(path) for path in sorted(found) if "=" in path.name and not path.name.startswith(".")]
    return [place for place in places if place.is_started]
