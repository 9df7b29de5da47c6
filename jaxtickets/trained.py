"""Trained weights of a round in a safetensors file: what is evaluated, weights only, without the pruned ones.

A file has `batch_stats/...`, the parameters that are whole as `params/...`, and for each parameter with pruned weights
the kept ones in their order as `kept/...` and its mask, eight weights per byte, as `masks/...`. Its metadata has the
shapes, and what the network is built from, so that a compacted one needs nothing else.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from jaxtickets import files
from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.workdir import Workdir

FORMAT = "jaxtickets weights 1"
KEY = "trained"  # Of the metadata.


class Trained(NamedTuple):
    """A trained network.

    Attributes:
      params, batch_stats: nested dicts of NumPy arrays; pruned weights are zero.
      network: how it is built, as JSON values: the part `model` of its config, and the numbers of `channels` of its
        images and of `classes`.
    """

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    network: dict[str, Any]


def save(path: os.PathLike, params, batch_stats, masks, network: dict) -> None:
    """Writes a file of trained weights.

    Args:
      params, batch_stats: nested dicts of arrays, running averages in their places where there are any.
      masks: like `params`; only what they keep is written.
      network: see `Trained`.
    """
    arrays, about = pack(params, batch_stats, masks, network)
    # In one entry: safetensors writes several in any order, and equal weights must have equal bytes.
    files.replace(Path(path), to_bytes(arrays, metadata={KEY: json.dumps({"format": FORMAT, **about})}))


def load(place: Workdir, round_: int) -> Trained:
    """Reads the trained weights of a round.

    Raises:
      UserError: the workdir has none, or the file can't be read.
    """
    path = place.weights(round_)
    if not path.exists():
        having = ", ".join(map(str, place.list_weights())) or "none"
        raise UserError(f"{place.path}: has no trained weights of round {round_}; there are those of rounds: {having}")
    try:
        return unpack(*read(path))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: can't be read as trained weights ({error}); run the round again") from None


def read(path: os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a file of trained weights as `unpack` takes it.

    Raises:
      OSError, SafetensorError, ValueError: it can't be read, or is of another format.
    """
    with safe_open(path, "numpy") as file:
        about = json.loads((file.metadata() or {}).get(KEY, "{}"))
        if about.pop("format", None) != FORMAT:
            raise ValueError("it is of another format")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    return arrays, about


def pack(params, batch_stats, masks, network: dict) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`(arrays by name, what must be known beside them as JSON values)`; see `save`."""
    params, batch_stats = jax.device_get((params, batch_stats))
    keeps, arrays, shapes, empty = mask_lib.named_leaves(masks), {}, {}, []
    for name, leaf in _flat({"params": params, "batch_stats": batch_stats}).items():
        keep = keeps.get(name.removeprefix("params/"))
        if leaf is traverse_util.empty_node:
            empty.append(name)
        elif keep is None or np.all(keep):
            arrays[name] = np.asarray(leaf, order="C")
        else:
            path = name.removeprefix("params/")
            arrays[f"kept/{path}"], arrays[f"masks/{path}"] = np.asarray(leaf)[np.asarray(keep)], np.packbits(keep)
            shapes[path] = np.shape(leaf)
    return arrays, {"shapes": shapes, "empty": empty, "network": network}


def unpack(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Trained:
    """The inverse of `pack`.

    Raises:
      KeyError, ValueError: an array is missing or has another size than it should have.
    """
    flat = {name: leaf for name, leaf in arrays.items() if name.startswith(("params/", "batch_stats/"))}
    for path, shape in about["shapes"].items():
        keep = np.unpackbits(arrays[f"masks/{path}"], count=math.prod(shape)).astype(bool).reshape(shape)
        values = arrays[f"kept/{path}"]
        if len(values) != np.count_nonzero(keep):
            raise ValueError(f"{path} has {len(values)} weights and {np.count_nonzero(keep)} are kept")
        leaf = np.zeros(shape, values.dtype)
        leaf[keep] = values
        flat[f"params/{path}"] = leaf
    flat |= dict.fromkeys(about["empty"], traverse_util.empty_node)
    trees = traverse_util.unflatten_dict(flat, sep="/")
    return Trained(trees.get("params", {}), trees.get("batch_stats", {}), about["network"])


def _flat(tree):
    return traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep="/")
