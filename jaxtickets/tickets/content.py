"""The content of ticket files of every format, read and written."""

import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtickets import files, tensor_files
from jaxtickets.errors import UserError
from jaxtickets.tensor_files import expect
from jaxtickets.tickets import layout, older
from jaxtickets.workdir import Workdir

VERSION = 3
FORMAT = f"jaxtickets {VERSION}"
KEY = "ticket"  # Of the metadata.
ABOUT = "about"  # The array with all that is no number, as compressed JSON.
TREES = ("params", "batch_stats", "trained")  # Those whose nodes are listed, so that they can be read on their own.
MOMENTS = ("opt_state", "average", "movement")  # The rest of a train state ...
STATE = (*MOMENTS, "step", "seed")  # ... and where it is in training.
NAME = "ticket.safetensors"  # In a directory.


class Content(NamedTuple):
    """What a ticket file of any format holds.

    Attributes:
      format: its name.
      leaves: arrays by name, such as `params/generator/up_16/conv/kernel`; pruned weights are zero.
      masks: by the name of the parameter.
      nodes: the kinds of nodes in the trees `TREES` (`tensor_files.nodes`).
      axes: the names of the axes, by the name of the parameter.
      metadata: JSON values.
      network: how the network is built (`trained.Trained.network`), or None.
      trained: the same of the network that was trained from the ticket, `{}` for one without a config, or None if the
        file has no trained weights.
      sizes: the number of bytes that the file holds of each leaf; {} of an older format.
    """

    format: str
    leaves: dict[str, Any]
    masks: dict[str, np.ndarray]
    nodes: dict[str, str]
    axes: dict[str, list]
    metadata: dict
    network: dict | None
    trained: dict | None
    sizes: dict[str, int]

    def has(self, name: str) -> bool:
        """Whether there are arrays of one of `TREES` or `STATE`."""
        return any(f"{path}/".startswith(f"{name}/") for path in self.leaves)

    @property
    def has_moments(self) -> bool:
        """Whether it has the optimiser's moments, or the running averages, at the rewind point."""
        return self.has("opt_state") or self.has("average")

    def tree(self, name: str, default=None):
        """One of `TREES` as nested dicts, lists and tuples; `default` if there is nothing of it."""
        leaves = {path: leaf for path, leaf in self.leaves.items() if f"{path}/".startswith(f"{name}/")}
        return tensor_files.nested(leaves, self._nodes(name)).get(name, default)

    def mask_tree(self):
        """The masks as a tree like `params`, with None for each leaf that has no mask."""
        names = [name for name in self.leaves if f"{name}/".startswith("params/")]
        leaves = {name: self.masks.get(name) for name in names}
        return tensor_files.nested(leaves, self._nodes("params")).get("params", {})

    def _nodes(self, name):
        return {path: kind for path, kind in self.nodes.items() if f"{path}/".startswith(f"{name}/")}


def write(
    path: os.PathLike,
    trees: Mapping[str, Any],
    masks,
    metadata: Mapping[str, Any],
    network: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] | None = None,
    axis_names=None,
) -> None:
    """Writes a ticket file of the present format.

    Args:
      trees: `params`, `batch_stats` and whatever else is stored, by name.
      masks, axis_names: see `layout.pack`.
      metadata, network, trained: see `Content`.

    Raises:
      UserError: see `layout.pack`.
    """
    arrays, listed = layout.pack(trees, masks, axis_names)
    nodes = tensor_files.nodes({name: tree for name, tree in trees.items() if name in TREES})
    about = {**listed, "nodes": nodes, "metadata": metadata, "network": network, "trained": trained}
    text = json.dumps(json.loads(files.json_bytes(about)), separators=(",", ":"))
    arrays[ABOUT] = np.frombuffer(zlib.compress(text.encode(), 9), np.uint8)
    tensor_files.write(path, KEY, arrays, {"format": FORMAT})


def place_of(path: os.PathLike) -> Path:
    """The ticket file that a path names: itself, or `ticket.safetensors` in a directory, such as that of a card.

    Raises:
      UserError: the directory has none; where its run has some, or why it has none, is said.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if (path / NAME).is_file():
        return path / NAME
    run = Workdir(path)
    if of_seeds := sorted(path.glob(f"seed_*/{NAME}")):
        several = len(of_seeds) > 1
        how = f"those of its seeds are {path}/seed_*/{NAME}" if several else f"that of one seed is {of_seeds[0]}"
    elif not run.is_started:
        how = "allowed is a ticket file, the directory of a card, or that of a run with a ticket"
    elif verdict := run.read_verdict():
        named = verdict.get("winning_round")
        how = "its verdict names no round" if named is None else f"the file of round {named} is gone"
    else:
        how = "its run has no verdict yet"
    raise UserError(f"{path}: is a directory without {NAME}; {how}")


def reading(path: os.PathLike):
    """Turns whatever a damaged ticket file makes the block raise into a `DamagedError`."""
    return tensor_files.reading(path, "a ticket", "allowed: a ticket.safetensors, as jaxtickets writes it")


def read(path: os.PathLike) -> Content:
    """The content of a ticket file, whose checksum is right, if its format has one; call it in `reading`.

    Raises:
      UserError: it is missing or is no ticket.
      Exception: any, if it is damaged.
    """
    arrays, metadata = tensor_files.read(path)
    if metadata.get("format") == older.WITHOUT_CHECKSUM:
        return Content(**older.content_1(arrays, metadata))
    head = expect(tensor_files.parse(metadata.get(KEY, "{}")), dict, "its metadata")
    if (format_ := head.get("format")) not in (FORMAT, older.FORMAT):
        newer = re.fullmatch(r"jaxtickets ([0-9]{1,9})", format_) if isinstance(format_, str) else None
        if newer and int(newer[1]) > VERSION:
            raise UserError(
                f"{path}: written by a newer version, as {format_!r}; this one reads up to {FORMAT!r}: update it"
            )
        raise UserError(f"{path}: not a ticket; allowed: a ticket.safetensors written by jaxtickets")
    tensor_files.verify(arrays, head)
    if format_ == older.FORMAT:
        return Content(**older.content_2(arrays, head))
    if head.keys() != {"format"}:
        raise ValueError(f"its metadata has {', '.join(sorted(head))}")
    about = expect(tensor_files.parse(_inflated(arrays.pop(ABOUT))), dict, "what it says of its arrays")
    if about.keys() != {"leaves", "masks", "nodes", "metadata", "network", "trained"}:
        raise ValueError(f"what it says of its arrays has {', '.join(sorted(about))}")
    for name in ("nodes", "metadata"):
        expect(about[name], dict, f"`{name}`")
    for name in ("network", "trained"):
        if network := expect(about[name], (dict, type(None)), f"`{name}`"):
            expect(network["model"], dict, "`model`")
            for size in ("channels", "classes"):
                expect(network[size], int, f"`{size}`")
    leaves, masks = layout.unpack(arrays, about)
    for name in leaves:
        if name.partition("/")[0] not in (*TREES, *STATE):
            raise ValueError(f"there is an array {name} too many")
    axes = {name: expect(entry[3], list, f"the axes of {name}") for name, entry in about["leaves"].items() if entry[3:]}
    told = [about[name] for name in ("metadata", "network", "trained")]
    return Content(FORMAT, leaves, masks, about["nodes"], axes, *told, layout.sizes(about, masks))


def _inflated(array):
    """Decompressed bytes, of a bounded number."""
    decompress = zlib.decompressobj()
    content = decompress.decompress(array.tobytes(), tensor_files.MAX_HEADER)
    if not decompress.eof or decompress.unused_data:
        raise ValueError("what it says of its arrays is cut off or too long")
    return content
