"""Orbax snapshots: rewind points, the last train state for resume, and bit-packed masks."""

import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxtickets import masks as mask_lib

# Orbax numbers what it saves by one counter a process: threads that start at once would wait for each other's files.
_STARTING = threading.Lock()


def save(path: os.PathLike, tree) -> None:
    """Saves a pytree of arrays; it is there completely or not at all. What was there before is replaced."""
    with ocp.StandardCheckpointer() as checkpointer, _STARTING:
        checkpointer.save(Path(path).resolve(), tree, force=True)


def restore(path: os.PathLike, like):
    """The pytree saved at `path`, on the host, with the structure of `like` (arrays or shapes)."""
    with ocp.StandardCheckpointer() as checkpointer:
        return jax.device_get(checkpointer.restore(Path(path).resolve(), _shapes(like)))


def restore_raw(path: os.PathLike) -> dict:
    """The pytree saved at `path` as nested dicts and lists of NumPy arrays, where its structure is not known."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(Path(path).resolve())


def exists(path: os.PathLike) -> bool:
    """Whether a complete snapshot is at `path`: Orbax gives it its name only when it is complete."""
    return Path(path).is_dir()


def save_masks(path: os.PathLike, masks) -> None:
    """Saves masks, eight weights a byte."""
    save(path, mask_lib.named_leaves(mask_lib.pack(masks)))


def restore_masks(path: os.PathLike, like):
    """The masks saved at `path`; `like` are masks of the same network."""
    return _unpacked(restore(path, mask_lib.named_leaves(mask_lib.pack(like))), like)


def restore_masks_raw(path: os.PathLike, params):
    """The masks saved at `path` for a network with `params`, whichever of its leaves are prunable."""
    packed = restore_raw(path)
    return mask_lib.unpack(
        jax.tree_util.tree_map_with_path(lambda name, _: packed.get(mask_lib.path_name(name)), params), params
    )


class Last(NamedTuple):
    """A train state within a round, its masks, the step at which the round stops, and its seconds so far."""

    round: int
    state: Any
    masks: Any
    stop: int
    seconds: float


class LastState:
    """The newest train state with all that is needed to go on, saved while training goes on."""

    def __init__(self, directory: os.PathLike):
        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(Path(directory).resolve(), options=options)

    def save(self, round_: int, state, masks, stop: int, seconds: float) -> None:
        """Starts saving; returns when `state` may change again."""
        number = (self._manager.latest_step() or 0) + 1
        saved = _last(round_, state, masks, stop, seconds)
        with _STARTING:
            self._manager.save(number, args=ocp.args.StandardSave(saved))

    def restore(self, like, masks_like) -> Last | None:
        """What was saved last; None if nothing was."""
        number = self._manager.latest_step()
        if number is None:
            return None
        shapes = _shapes(_last(0, like, masks_like, 0, 0.0))
        saved = jax.device_get(self._manager.restore(number, args=ocp.args.StandardRestore(shapes)))
        masks = _unpacked(saved["masks"], masks_like)
        return Last(int(saved["round"]), saved["state"], masks, int(saved["stop"]), float(saved["seconds"]))

    def wait(self) -> None:
        """Returns when all that was saved is durable."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def _last(round_, state, masks, stop, seconds):
    packed = mask_lib.named_leaves(mask_lib.pack(masks))
    numbers = {"round": np.int32(round_), "stop": np.int32(stop), "seconds": np.float64(seconds)}
    return {**numbers, "state": state, "masks": packed}


def _unpacked(packed, like):
    return mask_lib.unpack(jax.tree.unflatten(jax.tree.structure(like), list(packed.values())), like)


def _shapes(tree):
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.asarray(leaf).dtype, sharding=device), tree
    )
