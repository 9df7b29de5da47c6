"""Reading the tickets and the rounds of a finished run; nothing is ever written there."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxtickets import snapshots, tickets, workdir
from jaxtickets.errors import UserError


class Finished(NamedTuple):
    """The tickets of one run: masks by round, and one rewind point for all.

    config: as JSON values. params, batch_stats: of the rewind point, nested dicts of NumPy arrays. rows: `rounds.csv`.
    """

    path: Path
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
    place = path / f"seed_{seed}" if (path / f"seed_{seed}").is_dir() else path
    try:
        config = json.loads((place / "config.json").read_text())["config"]
        if not (place / "verdict.json").is_file():
            raise OSError("no verdict")
        point = snapshots.restore_raw(place / "snapshots" / "rewind")
        if not (rows := workdir.read_csv(place / "rounds.csv")):
            raise OSError("no rounds")
        masks = {
            row["round"]: snapshots.restore_masks_raw(place / "masks" / f"{row['round']:03d}", point["params"])
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
    return Finished(path, ticket.metadata["config"], ticket.params, ticket.batch_stats, masks, [])


def adopt(run, path: Path, row: dict, level: int, layers: list[dict] | None = None, **changes) -> None:
    """Records the round `row` of the workdir `path`, with changed columns, as the round `level` of `run`.

    What it has logged is logged here too. Its rows of `layers.csv` are `layers`, if given.
    """
    if run.is_finished(level):
        return
    if layers is None:
        layers = [
            {name: value for name, value in layer.items() if name != "round"}
            for layer in workdir.read_csv(path / "layers.csv")
            if layer["round"] == row["round"]
        ]
    grid = np.asarray(Image.open(path / "samples" / f"round_{row['round']:03d}.png"))
    for logged in workdir.read_scalars(path, row["round"]):
        scalars = {name: value for name, value in logged.items() if name not in ("round", "step", "split", "seconds")}
        run.log(level, logged["step"], logged["split"], logged["seconds"], scalars)
    run.adopt({**row, "round": level, **changes}, layers, grid)
