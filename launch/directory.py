"""The directory of a sweep: what it says of the sweep, and whether all that belongs there has come to it."""

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtickets import files
from jaxtickets.errors import UserError
from jaxtickets.origin import completed, differences, flat
from jaxtickets.workdir import Workdir

SWEEP = "sweep.json"  # The config and the extra flags of all runs.
AUTO = "auto"  # Of eval.features: a run names what it stands for.
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
    found = files.read_json(sweepdir / SWEEP)
    if not isinstance(found, dict):
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
    """Refuses the directory of another sweep, one with somebody's files, and what is no directory.

    Raises:
      UserError: it holds something else than a sweep of the same config with the same extra flags.
    """
    flag = f"--sweepdir={sweepdir}"
    if sweepdir.exists() and not sweepdir.is_dir():
        raise UserError(f"{flag}: is a file; allowed is a directory")
    if not (sweepdir / SWEEP).exists():
        names = sorted(path.name for path in sweepdir.iterdir()) if sweepdir.is_dir() else ()
        if others := [name for name in names if not name.startswith(".") and "=" not in name]:
            raise UserError(
                f"{flag}: has no {SWEEP}, but {others[0]}; allowed is a new or empty one, or that of a sweep"
            )
        return
    stored = files.read_json(sweepdir / SWEEP)
    if not isinstance(stored, dict):
        raise UserError(f"{flag}: its {SWEEP} is damaged; remove that file if the flags are those of this sweep")
    for key, value in asked.items():
        if stored.get(key) != value:
            raise UserError(
                f"{flag}: holds a sweep with {key} {stored.get(key)}, not {value}; "
                "give another --sweepdir, or the same flags to resume"
            )


def check_unchanged(finished: Mapping[Path, Mapping[str, str]], config: str, extra: Sequence[str]) -> None:
    """Refuses to compare finished runs with new ones of another config.

    Args:
      finished: the values of the sweep's fields by the workdir.
      config: `PATH[:variant]`; a file that fails to load is left to the runs, which say why.

    Raises:
      UserError: the file gives other values than those that a run was started with.
    """
    from jaxtickets import config as config_lib  # Imports JAX.

    file, colon, variant = config.partition(":")
    try:
        spec = importlib.util.spec_from_file_location("_config_of_a_sweep", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        now = module.get_config(*([variant] if colon else []))
        values, defaults = config_lib.to_dict(now), config_lib.missing_values(now)
    except Exception:
        return
    given = {match[1] for one in extra if (match := re.match(r"--?config\.([^=]+)", one))}
    for path, own in finished.items():
        there, here = completed(Workdir(path).read_config() or {}, defaults), dict(values)
        if here["eval"]["features"] == AUTO:
            here["eval"] = here["eval"] | {"features": there["eval"]["features"]}
        free = given | own.keys()
        there, here = ({name: value for name, value in flat(one).items() if name not in free} for one in (there, here))
        if differing := differences(there, here):
            raise UserError(
                f"--config={config}: has changed since {path} was run: {differing}; "
                "give another --sweepdir, or the file as it was"
            )


def started_runs(sweepdir: Path) -> list[Workdir]:
    """The workdirs of the points that have been started, by name."""
    found = sweepdir.iterdir() if sweepdir.is_dir() else ()
    places = [Workdir(path) for path in sorted(found) if "=" in path.name and not path.name.startswith(".")]
    return [place for place in places if place.is_started]
