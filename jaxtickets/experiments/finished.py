"""The tickets and the rounds of a finished run; nothing is ever written there."""

from pathlib import Path
from typing import Any, NamedTuple

from jaxtickets import snapshots, tickets
from jaxtickets.errors import UserError
from jaxtickets.workdir import Workdir


class Finished(NamedTuple):
    """The tickets of one run: masks by round, and one rewind point for all.

    config: as JSON values. params, batch_stats: of the rewind point, nested dicts of NumPy arrays. rows: `rounds.csv`.
    """

    place: Workdir
    config: dict
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    masks: dict[int, Any]
    rows: list[dict]


def read(path: Path, field: str, seed: int) -> Finished:
    """The tickets of the finished run in a workdir; of a run of several seeds, those of `seed`.

    Args:
      field: the field of the config that gives `path`, for messages.

    Raises:
      UserError: there is no finished run.
    """
    place = Workdir(path).seed(seed)
    try:
        config, rows = place.read_config(), place.read_rounds()
        if config is None or not place.is_finished or not rows:
            raise OSError("no finished run")
        point = snapshots.restore_raw(place.snapshot("rewind"))
        masks = {
            row["round"]: snapshots.restore_masks_raw(place.masks(row["round"]), point["params"])
            for row in rows
            if row["round"]
        }
        if not masks:
            raise OSError("nothing was pruned")
    except (OSError, ValueError, KeyError):
        reason = f"the workdir of a finished run that has pruned something, with seed {seed}"
        raise UserError(f"config.{field}={str(path)!r}: allowed is {reason}") from None
    return Finished(place, config, point["params"], point["batch_stats"], masks, rows)


def read_ticket(path: Path) -> Finished:
    """The one ticket of a ticket file, as its round.

    Raises:
      UserError: the file is missing or is no ticket.
    """
    ticket = tickets.load_ticket(path)
    masks = {ticket.metadata["verdict"]["winning_round"]: ticket.masks}
    return Finished(Workdir(path), ticket.metadata["config"], ticket.params, ticket.batch_stats, masks, [])
