"""Ticket files in safetensors: a mask, its rewind point and what was trained from it; the run's config as metadata."""

import os
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import tensor_files
from jaxtickets import trained as trained_lib
from jaxtickets.errors import UserError
from jaxtickets.local_paths import local_path
from jaxtickets.tensor_files import expect
from jaxtickets.train import TrainState, rewind

FORMAT = "jaxtickets 2"
WITHOUT_CHECKSUM = "jaxtickets 1"  # Its names are not encoded, and its metadata has several entries.
KEY = "ticket"  # Of the metadata.
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

    Raises:
      UserError: the masks prune nothing.
      DamagedError: the file of the trained weights can't be read.
    """
    if all(np.all(mask) for mask in jax.tree.leaves(masks)):
        raise UserError(f"{path}: a network in which nothing is pruned is no ticket; allowed are masks that prune")
    point = rewind(point, masks)
    state = {field: getattr(point, field) for field in STATE_FIELDS}
    named = tensor_files.named({"masks": mask_lib.pack(masks), **state})
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in named.items()}
    # The rest is only read with the structure of another state, which has these.
    nodes = tensor_files.nodes({name: state[name] for name in ("params", "batch_stats")})
    about = {"format": FORMAT, "metadata": metadata, "nodes": nodes, TRAINED: None}
    if weights and os.path.exists(weights):
        trained_arrays, about[TRAINED] = trained_lib.read(weights)
        arrays |= {f"{TRAINED}/{name}": array for name, array in trained_arrays.items()}
    tensor_files.write(path, KEY, arrays, about)


def load_ticket(path: os.PathLike) -> Ticket:
    """Reads a ticket file.

    Raises:
      UserError: the file is missing or is no ticket.
      DamagedError: it is not what was written.
    """
    path = local_path(path, "ticket") if isinstance(path, str) else path
    with _reading(path):
        arrays, about = _read(path)
        shapes = {name.removeprefix("params/"): a.shape for name, a in arrays.items() if name.startswith("params/")}
        bits = {name.removeprefix("masks/"): a for name, a in arrays.items() if name.startswith("masks/")}
        if strange := bits.keys() - shapes.keys():
            raise ValueError(f"there is a mask of {min(strange)} and no parameter")
        leaves = {name: leaf for name, leaf in arrays.items() if name.startswith(("params/", "batch_stats/"))}
        trees = tensor_files.nested(leaves, about["nodes"])
        masks = {
            f"params/{name}": mask_lib.unpack_leaf(bits[name], shape) if name in bits else None
            for name, shape in shapes.items()
        }
        of_params = {name: kind for name, kind in about["nodes"].items() if f"{name}/".startswith("params/")}
        return Ticket(
            masks=tensor_files.nested(masks, of_params).get("params", {}),
            params=trees.get("params", {}),
            batch_stats=trees.get("batch_stats", {}),
            metadata=about["metadata"],
        )


def load_trained(path: os.PathLike) -> tuple[trained_lib.Trained, dict]:
    """Reads the trained weights of a ticket file, and its metadata (`Ticket.metadata`).

    Raises:
      UserError: the file is missing or is no ticket, or holds the rewind point alone.
      DamagedError: it is not what was written.
    """
    with _reading(path):
        arrays, about = _read(path)
        if about[TRAINED] is None:
            raise UserError(
                f"{path}: holds the rewind point of the ticket and no trained weights, because an older version "
                "has written it or the weights were not kept; allowed is a ticket file with them, or the --workdir "
                "of a run"
            )
        prefix = f"{TRAINED}/"
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        return trained_lib.unpack(own, expect(about[TRAINED], dict, "`trained`")), about["metadata"]


def load_state(path: os.PathLike, like: TrainState) -> TrainState:
    """Reads the whole rewind point of a ticket file, with the optimiser moments and the structure of `like`.

    Raises:
      UserError: the file is no ticket, or the ticket of another network or optimiser.
      DamagedError: it is not what was written.
    """
    with _reading(path):
        arrays, about = _read(path)
    fields = {field: getattr(like, field) for field in STATE_FIELDS}
    named = tensor_files.named(fields) if about["format"] == FORMAT else mask_lib.named_leaves(fields)
    kinds = {name: (np.shape(leaf), np.asarray(leaf).dtype) for name, leaf in named.items()}
    found = {name: (a.shape, a.dtype) for name, a in arrays.items() if name.partition("/")[0] in STATE_FIELDS}
    if wrong := sorted(name for name in kinds.keys() | found.keys() if kinds.get(name) != found.get(name)):
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} others" if len(wrong) > 3 else "")
        raise UserError(f"{path}: {shown} of the ticket and of this network or optimiser differ; use its run's config")
    return TrainState(**jax.tree.unflatten(jax.tree.structure(fields), [arrays[name] for name in kinds]))


def run_of(metadata: dict, path: os.PathLike) -> tuple[dict, dict]:
    """`(config, verdict)` of the run that has found a ticket; the verdict has a `winning_round`.

    Args:
      metadata: see `Ticket`.
      path: of the ticket file, for the message.

    Raises:
      UserError: the metadata does not tell.
    """
    config, verdict = metadata.get("config"), metadata.get("verdict")
    verdict = verdict if isinstance(verdict, dict) else {}
    round_, digests = verdict.get("winning_round"), verdict.get("data") or {}
    is_known = isinstance(config, dict) and type(round_) is int and round_ > 0
    if not is_known or not isinstance(digests, dict) or not all(isinstance(each, str) for each in digests.values()):
        raise UserError(f"{path}: does not tell the config and the round of its run; allowed is the ticket of a run")
    return config, verdict


def _reading(path):
    return tensor_files.reading(path, "a ticket", "allowed: a ticket.safetensors, as jaxtickets writes it")


def _read(path):
    """`(arrays, about)`: the content of a ticket file, whose checksum is right, if it has one."""
    arrays, metadata = tensor_files.read(path)
    if metadata.get("format") == WITHOUT_CHECKSUM:
        parsed = {name: tensor_files.parse(text) for name, text in metadata.items() if name != "format"}
        about = {"format": WITHOUT_CHECKSUM, "metadata": parsed.pop(KEY), "nodes": {}, TRAINED: None, **parsed}
        if TRAINED in parsed:
            about[TRAINED] = {**parsed[TRAINED], "format": trained_lib.WITHOUT_CHECKSUM}
    else:
        about = expect(tensor_files.parse(metadata.get(KEY, "{}")), dict, "its metadata")
        if about.get("format") != FORMAT:
            raise UserError(f"{path}: not a ticket; allowed: a ticket.safetensors written by jaxtickets")
        tensor_files.verify(arrays, about)
    if about.keys() != {"format", "metadata", "nodes", TRAINED}:
        raise ValueError(f"its metadata has {', '.join(sorted(about))}")
    for name in ("metadata", "nodes"):
        expect(about[name], dict, f"`{name}`")
    for name in arrays:
        if name.partition("/")[0] not in ("masks", TRAINED, *STATE_FIELDS):
            raise ValueError(f"there is an array {name} too many")
    return arrays, about
