"""The tickets and the rounds of a finished run; nothing is ever written there."""

from pathlib import Path
from typing import Any, NamedTuple

from jaxtickets import snapshots, tickets
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.workdir import Workdir


class Finished(NamedTuple):
    """The tickets of one run: masks by round, and one rewind point for all.

    config: as JSON values. data: the digests of its data by split; None if an older version has kept none. params,
    batch_stats: of the rewind point, nested dicts of NumPy arrays. rows: `rounds.csv`.
    """

    place: Workdir
    config: dict
    data: dict[str, str] | None
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
      DamagedError: something of it is missing or damaged.
    """
    place = Workdir(path).seed(seed)
    where = f"config.{field}={str(path)!r}"
    try:
        config, rows = place.read_config(), place.read_rounds()
        if config is None or not place.is_finished or not rows:
            raise OSError("no finished run")
        saved = {row["round"]: _masks(place, row) for row in rows if row["round"]}
        if not saved:
            raise OSError("nothing was pruned")
        for needed in (place.snapshot("rewind"), *saved.values()):
            if not snapshots.exists(needed):
                raise DamagedError(f"{needed} is missing")
        point = snapshots.restore_raw(place.snapshot("rewind"))
        masks = {round_: snapshots.restore_masks_raw(own, point["params"]) for round_, own in saved.items()}
    except DamagedError as error:
        raise DamagedError(f"{where}: {error}") from None
    except (OSError, ValueError, KeyError):
        reason = f"the workdir of a finished run that has pruned something, with seed {seed}"
        raise UserError(f"{where}: allowed is {reason}") from None
    return Finished(place, config, place.read_data(), point["params"], point["batch_stats"], masks, rows)


def _masks(place, row):
    """Where the masks of a round are. One whose search has diverged has no ticket, and counts as dense."""
    is_dense = row.get("diverged_step") is not None and not row["sparsity"]
    own = place.masks(row["round"])
    return place.masks(0) if is_dense and not snapshots.exists(own) else own


def read_ticket(path: Path) -> Finished:
    """The one ticket of a ticket file, as its round.

    Raises:
      UserError: the file is missing or is no ticket.
    """
    ticket = tickets.load_ticket(path)
    config, verdict = tickets.run_of(ticket.metadata, path)
    masks = {verdict["winning_round"]: ticket.masks}
    return Finished(Workdir(path), config, verdict.get("data"), ticket.params, ticket.batch_stats, masks, [])
