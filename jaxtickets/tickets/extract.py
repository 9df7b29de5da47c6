"""The parts of a ticket as files of their own, and a directory as Hugging Face's hub wants it."""

import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from jaxtickets import files, image_writing, tensor_files
from jaxtickets.errors import UserError
from jaxtickets.metrics.grid import image_grid
from jaxtickets.tickets import card, retraining
from jaxtickets.tickets import content as content_lib
from jaxtickets.tickets.ticket import Ticket, load_ticket

MASKS, REWIND, MODEL = "masks.safetensors", "rewind.safetensors", "model.safetensors"
CONFIG, RETRAIN, README, SAMPLE = "config.json", "retrain.py", "README.md", "sample.png"


def check_place(path: Path, overwrite: bool) -> None:
    """Refuses a file that is there already, or whose directory is missing.

    Raises:
      UserError: it is refused.
    """
    if not path.parent.is_dir():
        raise UserError(f"--out: there is no directory {path.parent}")
    if path.is_dir():
        raise UserError(f"--out: {path} is a directory; allowed is a file")
    if path.exists() and not overwrite:
        raise UserError(f"--out: {path} is there already; give another place, or --overwrite to replace it")


def extract(path: str | os.PathLike, out: Path, overwrite: bool = False, license_: str | None = None) -> list[Path]:
    """Writes the parts of a ticket into a directory; returns the files.

    `masks.safetensors` has the masks as booleans, `rewind.safetensors` the dense effective weights of the rewind point,
    `model.safetensors` those that were trained from it, each under its path; `config.json` has the metadata, and
    `retrain.py` is a config that trains the ticket again.

    Args:
      license_: makes the directory one for Hugging Face's hub: with a README.md, a sample picture and the ticket file,
        so that `load_ticket` opens the directory.

    Raises:
      UserError: the file is no ticket, a file is there already, or the directory above is missing.
    """
    if not out.parent.is_dir():
        raise UserError(f"--out={out}: there is no directory {out.parent}")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out}: is a file; allowed is a directory")
    with content_lib.reading(path):  # A stranger's metadata may be of any type.
        made = _made(load_ticket(path), out, license_)
    for name in made if out.exists() else ():
        check_place(out / name, overwrite)
    for name, content in made.items():
        files.replace(out / name, content)
    return [out / name for name in made]


def _made(ticket, out, license_):
    """`{name: content}` of the files of `extract`."""
    made = {CONFIG: files.json_bytes(_config(ticket))}
    if ticket.trained is not None:
        made[MODEL] = _tensors({"params": ticket.trained.params, "batch_stats": ticket.trained.batch_stats})
    if license_ is None:
        made[MASKS] = _tensors({"masks": ticket.masks}, "masks")
        made[REWIND] = _tensors({"params": ticket.params, "batch_stats": ticket.batch_stats})
    else:
        made[content_lib.NAME] = Path(ticket.path).read_bytes()
        if picture := _picture(ticket):
            made[SAMPLE] = picture
        made[README] = card.text(ticket, license_, out.resolve().name, SAMPLE in made).encode()
    if isinstance(ticket.metadata.get("config"), dict):
        made[RETRAIN] = retraining.script(None if license_ is not None else ticket.path).encode()
    return made


def _tensors(trees, prefix=""):
    """A safetensors file of trees: each leaf under its path, for the parameters without `params/` before it."""
    named = tensor_files.named(trees)
    arrays = {
        name.removeprefix("params/").removeprefix(f"{prefix}/"): np.ascontiguousarray(leaf)
        for name, leaf in named.items()
    }
    return save(arrays, metadata={"format": "np"})


def _config(ticket: Ticket):
    about = {"library_name": "jaxtickets", "model_type": None, "network": None, **ticket.metadata}
    network = (ticket.trained.network if ticket.trained else None) or ticket.network
    if network:
        about |= {"model_type": network["model"]["name"], "network": network}
    return about


def _picture(ticket: Ticket):
    """64 samples as a PNG file; None where the network can't be sampled or is not known."""
    if not isinstance(ticket.metadata.get("config"), dict) or not ticket.opened.objective.sample:
        return None
    return image_writing.png(image_grid(ticket.sample(64)))
