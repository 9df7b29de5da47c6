"""Ticket files in safetensors: a mask, its rewind point and what was trained from it; the run's config as metadata."""

import json
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxtickets import files
from jaxtickets import masks as mask_lib
from jaxtickets import trained as trained_lib
from jaxtickets.errors import UserError
from jaxtickets.train import TrainState, rewind

FORMAT = "jaxtickets 1"
TRAINED = "trained"
STATE_FIELDS = ("average", "batch_stats", "movement", "opt_state", "params", "seed", "step")


class Ticket(NamedTuple):
    """The content of a ticket file.

    Attributes:
      masks: the masks of the ticket.
      params, batch_stats: at the rewind point; pruned weights are zero.
      metadata: `config` and `verdict` of the run that has found the ticket, as JSON values.
    """

    masks: Any
    params: Any
    batch_stats: Any
    metadata: dict


def save_ticket(path: os.PathLike, masks, point: TrainState, metadata: dict, weights: os.PathLike = "") -> None:
    """Writes the ticket (masks, rewind point); every pruned weight and moment in the file is exactly zero.

    The masks are stored under `masks/`, eight weights per byte; the state under `params/`, `batch_stats/`,
    `opt_state/`, `average/`, `movement/`, `step` and `seed`; the trained weights as in their own file, but under
    `trained/`.

    Args:
      masks: the masks of the ticket.
      point: the rewind point.
      metadata: JSON values.
      weights: the file of the trained weights (`trained.save`); if there is none, the ticket is without them.
    """
    point = rewind(point, masks)
    trees = {"masks": mask_lib.pack(masks), **{field: getattr(point, field) for field in STATE_FIELDS}}
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in mask_lib.named_leaves(trees).items()}
    header = {"format": FORMAT, "ticket": json.dumps(metadata)}
    if weights and os.path.exists(weights):
        trained_arrays, about = trained_lib.read(weights)
        arrays |= {f"{TRAINED}/{name}": array for name, array in trained_arrays.items()}
        header[TRAINED] = json.dumps(about)
    files.replace(path, save(arrays, metadata=header))


def load_ticket(path: os.PathLike) -> Ticket:
    """Reads a ticket file.

    Raises:
      UserError: the file is missing or is no ticket.
    """
    arrays, header = _read(path)
    params = _subtree(arrays, "params")
    packed = {name.removeprefix("masks/"): bits for name, bits in arrays.items() if name.startswith("masks/")}
    masks = {name: packed.get(name) for name in traverse_util.flatten_dict(params, sep="/")}
    return Ticket(
        masks=mask_lib.unpack(traverse_util.unflatten_dict(masks, sep="/"), params),
        params=params,
        batch_stats=_subtree(arrays, "batch_stats"),
        metadata=json.loads(header["ticket"]),
    )


def load_trained(path: os.PathLike) -> tuple[trained_lib.Trained, dict]:
    """Reads the trained weights of a ticket file, and its metadata (`Ticket.metadata`).

    Raises:
      UserError: the file is missing or is no ticket, or holds the rewind point alone.
    """
    arrays, header = _read(path)
    if TRAINED not in header:
        raise UserError(
            f"{path}: holds the rewind point of the ticket and no trained weights, because an older version "
            "has written it or the weights were not kept; allowed is a ticket file with them, or the --workdir of a run"
        )
    prefix = f"{TRAINED}/"
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    try:
        return trained_lib.unpack(own, json.loads(header[TRAINED])), json.loads(header["ticket"])
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path}: its trained weights can't be read ({error}); allowed is a whole ticket file"
        ) from None


def load_state(path: os.PathLike, like: TrainState) -> TrainState:
    """Reads the whole rewind point of a ticket file, with the optimiser moments and the structure of `like`.

    Raises:
      UserError: the file is no ticket, or the ticket of another network or optimiser.
    """
    arrays, _ = _read(path)
    fields = {field: getattr(like, field) for field in STATE_FIELDS}
    shapes = {name: np.shape(leaf) for name, leaf in mask_lib.named_leaves(fields).items()}
    if missing := sorted(name for name, shape in shapes.items() if name not in arrays or arrays[name].shape != shape):
        raise UserError(f"{path}: the ticket has no {', '.join(missing)} of the right shape; use the run's own config")
    leaves = [arrays[name] for name in shapes]
    return TrainState(**jax.tree.unflatten(jax.tree.structure(fields), leaves))


def _read(path):
    try:
        with safe_open(path, "numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: can't be read as a ticket ({error}); allowed: a ticket.safetensors") from None
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: not a ticket; allowed: a ticket.safetensors written by jaxtickets")
    return arrays, header


def _subtree(arrays, root):
    prefix = f"{root}/"
    flat = {name.removeprefix(prefix): leaf for name, leaf in arrays.items() if name.startswith(prefix)}
    return traverse_util.unflatten_dict(flat, sep="/")
