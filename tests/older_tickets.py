"""Ticket files of older formats, as older versions wrote them."""

import json

import jax
import numpy as np
from safetensors.numpy import save

from jaxtickets import checksums, tensor_files

FIELDS = ("average", "batch_stats", "movement", "opt_state", "params", "seed", "step")


def write_2(path, masks, point, metadata, weights=None):
    """A ticket of the second format: dense arrays, and a mask of eight weights per byte for each prunable one.

    Args:
      point: the train state, whose pruned weights are zero.
      weights: the bytes of the file of the trained weights, or None.
    """
    state = {field: getattr(point, field) for field in FIELDS}
    packed = jax.tree.map(lambda mask: np.packbits(np.asarray(mask)), masks)
    arrays = {name: np.asarray(leaf) for name, leaf in tensor_files.named({"masks": packed, **state}).items()}
    nodes = tensor_files.nodes({name: state[name] for name in ("params", "batch_stats")})
    about = {"format": "jaxtickets 2", "metadata": metadata, "nodes": nodes, "trained": None}
    if weights is not None:
        header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
        about["trained"] = json.loads(header["__metadata__"]["trained"])
        del about["trained"]["checksum"]
        from safetensors.numpy import load

        arrays |= {f"trained/{name}": array for name, array in load(weights).items()}
    about["checksum"] = checksums.of_arrays(arrays, json.dumps(about, sort_keys=True))
    path.write_bytes(save(arrays, metadata={"ticket": json.dumps(about)}))
