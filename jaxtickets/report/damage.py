"""What has been damaged or lost in a workdir and a report can do without."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxtickets.errors import DamagedError
from jaxtickets.progress import say
from jaxtickets.workdir import Workdir


def intact(read: Callable[[], Any]) -> Any:
    """What `read` returns; None, after one line, if the file is damaged or lost."""
    try:
        return read()
    except DamagedError as error:
        say(f"{error}; it is left out")
        return None


def intact_samples(workdir: Workdir) -> dict[int, Path]:
    """The sample grids that can be read, by round; one line for each other one."""
    found = workdir.list_samples().items()
    return {round_: path for round_, path in found if intact(partial(workdir.read_samples, round_)) is not None}


def intact_pictures(workdir: Workdir) -> dict[str, dict[int, Path]]:
    """The pictures of the latent space that can be read, by kind and round; one line for each other one."""
    return {
        kind: {
            round_: path
            for round_, path in found.items()
            if intact(partial(workdir.read_picture, kind, round_)) is not None
        }
        for kind, found in workdir.list_pictures().items()
    }


def tell(workdir: Workdir, rounds: Sequence[Mapping[str, Any]], scalars: Sequence[Mapping[str, Any]]) -> None:
    """Says which pictures and searches are gone, and of which finished rounds the last row of the scalars is.

    Args:
      rounds: the rows of `rounds.csv`; [] over several seeds, which have their scalars in workdirs of their own.
      scalars: the rows of `metrics.jsonl`.
    """
    parts = (workdir.samples(0).parent, workdir.picture("", 0).parent, workdir.search(0).parent)
    if gone := [path.name for path in workdir.lost() if path.parent in parts]:
        say(f"{workdir.path}: {', '.join(gone)} were written and are gone")
    tested = {row["round"] for row in scalars if row["split"] == "test"}
    lacking = [row["round"] for row in rounds if row["round"] not in tested and row.get("diverged_step") is None]
    if lacking and workdir.checksums.exists():
        numbers = ", ".join(map(str, lacking))
        say(f"{workdir.scalars}: rows of the finished rounds {numbers} are gone; their curves are left out, or cut")
