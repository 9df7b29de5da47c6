"""Trained weights of a round in a safetensors file: what is evaluated, weights only, without the pruned ones.

A file has `batch_stats/...`, the parameters that are whole as `params/...`, and for each parameter with pruned weights
the kept ones in their order as `kept/...` and its mask, eight weights per byte, as `masks/...`. Its metadata has the
shapes, and what the network is built from, so that a compacted one needs nothing else.
"""

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import files, tensor_files
from jaxtickets import masks as mask_lib
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.progress import say
from jaxtickets.tensor_files import expect
from jaxtickets.workdir import Workdir

FORMAT = "jaxtickets weights 2"
WITHOUT_CHECKSUM = "jaxtickets weights 1"  # Its names are not encoded.
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
      params, batch_stats: nested dicts, lists and tuples of arrays, running averages in their places where there are
        any.
      masks: like `params`; only what they keep is written.
      network: see `Trained`.
    """
    arrays, about = pack(params, batch_stats, masks, network)
    tensor_files.write(path, KEY, arrays, about)


def load(place: Workdir, round_: int) -> Trained:
    """Reads the trained weights of a round.

    Raises:
      UserError: the workdir has none.
      DamagedError: the file can't be read, or is not what was written.
    """
    path = place.weights(round_)
    if not path.exists():
        having = ", ".join(map(str, place.list_weights())) or "none"
        raise UserError(f"{place.path}: has no trained weights of round {round_}; there are those of rounds: {having}")
    with _reading(path):
        return unpack(*read(path))


def read(path: os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a file of trained weights as `unpack` takes it.

    Raises:
      UserError: there is no such file.
      DamagedError: it can't be read, or is not what was written.
    """
    with _reading(path):
        arrays, metadata = tensor_files.read(path)
        about = expect(tensor_files.parse(metadata.get(KEY, "{}")), dict, "its metadata")
        if about.get("format") not in (FORMAT, WITHOUT_CHECKSUM):
            raise ValueError("it is of another format")
        if about["format"] == FORMAT:
            tensor_files.verify(arrays, about)
        return arrays, about


def take_over(place: Workdir, round_: int, other: Workdir, theirs: int) -> None:
    """Copies the weights that another run has of its round `theirs`, if any, as those of `round_`.

    Damaged ones are left out, which is said.
    """
    path = other.weights(theirs)
    if not path.exists():
        return
    try:
        read(path)
    except DamagedError as error:
        say(f"{error}; they are left out here")
    else:
        files.replace(place.weights(round_), path.read_bytes())


def _reading(path):
    return tensor_files.reading(path, "trained weights", "--from_round of its run makes them again")


def pack(params, batch_stats, masks, network: dict) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`(arrays by name, what must be known beside them as JSON values)`; see `save`."""
    trees = {"params": jax.device_get(params), "batch_stats": jax.device_get(batch_stats)}
    keeps, arrays, shapes = tensor_files.named({"params": masks}), {}, {}
    for name, leaf in tensor_files.named(trees).items():
        keep, path = keeps.get(name), name.removeprefix("params/")
        if keep is None or np.all(keep):
            arrays[name] = np.asarray(leaf, order="C")
        else:
            arrays[f"kept/{path}"], arrays[f"masks/{path}"] = np.asarray(leaf)[np.asarray(keep)], np.packbits(keep)
            shapes[path] = np.shape(leaf)
    return arrays, {"format": FORMAT, "shapes": shapes, "nodes": tensor_files.nodes(trees), "network": network}


def unpack(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> Trained:
    """The inverse of `pack`.

    Raises:
      KeyError, ValueError: an array is missing, is one too many, or has another size than it should have; or `about`
        is not what `pack` makes.
    """
    about = dict(about)
    if about["format"] == WITHOUT_CHECKSUM:
        about["nodes"] = {name: "dict" for name in expect(about.pop("empty"), list, "`empty`")}
    if about.keys() != {"format", "shapes", "nodes", "network"}:
        raise ValueError(f"its metadata has {', '.join(sorted(about))}")
    network, left = expect(about["network"], dict, "`network`"), dict(arrays)
    expect(network["model"], dict, "`model`")
    for name in ("channels", "classes"):
        expect(network[name], int, f"`{name}`")
    leaves = {}
    for path, shape in expect(about["shapes"], dict, "`shapes`").items():
        leaves[f"params/{path}"] = _whole(path, shape, left.pop(f"kept/{path}"), left.pop(f"masks/{path}"))
    for name, leaf in left.items():
        if not name.startswith(("params/", "batch_stats/")) or name in leaves:
            raise ValueError(f"there is an array {name} too many")
        leaves[name] = leaf
    trees = tensor_files.nested(leaves, expect(about["nodes"], dict, "`nodes`"))
    return Trained(trees.get("params", {}), trees.get("batch_stats", {}), network)


def _whole(path, shape, values, bits):
    """The parameter whose kept weights are `values`."""
    for size in expect(shape, list, f"the shape of {path}"):
        if expect(size, int, f"a size of {path}") < 0:
            raise ValueError(f"a size of {path} is {size}")
    if bits.size != -(-math.prod(shape) // 8):
        raise ValueError(f"the mask of {path} has {bits.size} bytes for the shape {tuple(shape)}")
    keep = mask_lib.unpack_leaf(bits, shape)
    if values.shape != (np.count_nonzero(keep),):
        raise ValueError(f"{path} has weights of shape {values.shape} and {np.count_nonzero(keep)} are kept")
    leaf = np.zeros(shape, values.dtype)
    leaf[keep] = values
    return leaf
