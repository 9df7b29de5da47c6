"""The directory of a sweep: what it says of the sweep, and whether all that belongs there has come to it."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtickets import cli, files, named_configs
from jaxtickets.errors import UserError
from jaxtickets.origin import completed, differences
from jaxtickets.workdir import Workdir

SWEEP = "sweep.json"  # The config and the extra flags of all runs, and what is known of them.
PAPER = ("launch", "paper.py")  # The sweep of `launch.reproduce`.
AUTO = "auto"  # Of eval.features: a run names what it stands for.
UNPACKING = ".unpacking"  # The directory in which an archive is unpacked before its runs take their places.


def about(config: str, extra: Sequence[str], together: int = 1) -> dict:
    """What the directory keeps of a sweep, and what must be the same in each start."""
    return {"config": _stable(config), "extra": list(extra), **({"together": together} if together > 1 else {})}


def _stable(config):
    """The same text for the same config on every machine: a name in the place of the path of what comes with us."""
    file, colon, variant = config.partition(":")
    path = Path(file)
    if path.parts[-2:] == PAPER:
        return f"{'/'.join(PAPER)}{colon}{variant}"
    # What an older version or another machine has written may not be here.
    is_ours = (
        path.resolve().parent == named_configs.directory().resolve()
        if os.path.exists(file)
        else "configs" in path.parts
    )
    return f"{path.stem}{colon}{variant}" if is_ours and path.stem in named_configs.names() else config


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


def make(sweepdir: Path) -> None:
    """Makes the directory, if it is not there yet.

    Raises:
      UserError: it can't be made.
    """
    try:
        sweepdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in files.FULL:
            raise
        allowed = "allowed is a directory that can be written"
        raise UserError(f"--sweepdir={sweepdir}: can't be made ({error.strerror}); {allowed}") from None


def write(
    sweepdir: Path, asked: dict, groups: Sequence[Sequence[str]], seconds: Mapping[str, float] | None = None
) -> None:
    """Keeps what a sweep is, the names of the points of each group that trains together, and its runs' seconds."""
    content = asked | ({"groups": list(map(list, groups))} if groups else {})
    if seconds:
        content["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    files.replace(sweepdir / SWEEP, json.dumps(content).encode())


def seconds(sweepdir: Path) -> dict[str, float]:
    """The wall-clock seconds that each run has taken in the starts before, by name."""
    return (files.read_json(sweepdir / SWEEP) or {}).get("seconds", {})


def groups(sweepdir: Path) -> list[list[str]]:
    """The names of the points of each group that trains together, of the starts before."""
    return (files.read_json(sweepdir / SWEEP) or {}).get("groups", [])


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
    there, here = _stable(str(stored.get("config", ""))), _stable(asked["config"])
    told = "" if there == here else f"with --config={there}, not {here}"
    there, here = stored.get("together", 1), asked.get("together", 1)
    told = told or ("" if there == here else f"with --together={there}, not {here}")
    told = told or _differing_flags(stored.get("extra", []), asked["extra"])
    if told:
        raise UserError(f"{flag}: holds a sweep {told}; give another --sweepdir, or the same flags to resume")


def _differing_flags(there, here):
    """How the flags after -- of two calls differ, in words; "" if they are the same."""
    lacking, more = (
        shlex.join(flag for flag in one if flag not in other) for one, other in ((there, here), (here, there))
    )
    if lacking and more:
        return f"with {lacking} after --, not {more}"
    if lacking:
        return f"with {lacking} after --, which this call lacks"
    if more:
        return f"without {more} after --"
    return "" if there == here else "with the flags after -- in another order"


def going_on(finished: Mapping[Path, Sequence[str]]) -> set[Path]:
    """Of finished runs those that go on, because their config is another one now that a run may take up.

    Args:
      finished: the flags of `jaxtickets.main` by the workdir; they are valid.

    Raises:
      UserError: the flags give values that the run may not take up, or it has not kept what that needs.
    """
    from jaxtickets import config as config_lib  # Imports JAX.
    from jaxtickets.runs import saved

    found = set()
    for path, arguments in finished.items():
        place = Workdir(path)
        now, _ = cli.read_run(arguments)
        there = completed(place.read_config() or {}, config_lib.missing_values(now))
        here = config_lib.to_dict(now)
        if here["eval"]["features"] == AUTO:
            here["eval"] = here["eval"] | {"features": there["eval"]["features"]}
        told = config_lib.refused(there, here)
        if not told and (changes := differences(there, here)):
            found.add(path)
            gone = next(filter(None, map(saved.gone, (place.seed_dirs() or {0: place}).values())), None)
            told = f"{changes}, but {gone} are gone, which that needs" if gone else ""
        if told:
            raise UserError(
                f"{path}: has finished with another config than that of the sweep now: {told}; "
                "give another --sweepdir, or the config file as it was"
            )
    return found


def started_runs(sweepdir: Path) -> list[Workdir]:
    """The workdirs of the points that have been started, by name."""
    found = sweepdir.iterdir() if sweepdir.is_dir() else ()
    places = [Workdir(path) for path in sorted(found) if not path.name.startswith(".")]
    return [place for place in places if place.is_started]
