"""Orbax snapshots: rewind points, the last train state of a run, and bit-packed masks."""

import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import masks as mask_lib

# Orbax numbers saves by one counter per process: threads that start to save at once would wait for each other's files.
_STARTING = threading.Lock()


def _orbax():
    import orbax.checkpoint  # Slow to import, and a mistake in the config is told before.

    return orbax.checkpoint


def save(path: os.PathLike, tree) -> None:
    """Saves a pytree of arrays and replaces an earlier one; after a kill it is complete or not there."""
    with _orbax().StandardCheckpointer() as checkpointer, _STARTING:
        checkpointer.save(Path(path).resolve(), tree, force=True)


def restore(path: os.PathLike, like):
    """Restores the pytree saved at `path` on the host, with the structure of `like` (arrays or shapes)."""
    with _orbax().StandardCheckpointer() as checkpointer:
        return jax.device_get(checkpointer.restore(Path(path).resolve(), _shapes(like)))


def restore_raw(path: os.PathLike) -> dict:
    """Restores a pytree of unknown structure as nested dicts and lists of NumPy arrays."""
    with _orbax().StandardCheckpointer() as checkpointer:
        return checkpointer.restore(Path(path).resolve())


def exists(path: os.PathLike) -> bool:
    """Whether there is a complete snapshot at `path`: Orbax renames a snapshot to its name once it is complete."""
    return Path(path).is_dir()


def save_masks(path: os.PathLike, masks) -> None:
    """Saves masks, eight weights per byte."""
    save(path, mask_lib.named_leaves(mask_lib.pack(masks)))


def restore_masks(path: os.PathLike, like):
    """Restores the masks saved at `path`; `like` are masks of the same network."""
    return _unpacked(restore(path, mask_lib.named_leaves(mask_lib.pack(like))), like)


def restore_masks_raw(path: os.PathLike, params):
    """Restores the masks saved at `path` for a network with `params`; a leaf without a saved mask has None."""
    packed = restore_raw(path)
    return mask_lib.unpack(
        jax.tree_util.tree_map_with_path(lambda name, _: packed.get(mask_lib.path_name(name)), params), params
    )


class Last(NamedTuple):
    """A train state within a round, with all that training needs to go on from it.

    Attributes:
      round: the number of the round.
      state: the train state.
      masks: the masks of the round.
      stop: the step at which the round ends.
      seconds: of training in the round so far.
    """

    round: int
    state: Any
    masks: Any
    stop: int
    seconds: float


class LastState:
    """Keeps the newest train state in a directory; saving goes on in the background."""

    def __init__(self, directory: os.PathLike):
        """Opens the directory, and creates it if there is none."""
        orbax = _orbax()
        options = orbax.CheckpointManagerOptions(max_to_keep=1, create=True, cleanup_tmp_directories=True)
        self._manager = orbax.CheckpointManager(Path(directory).resolve(), options=options)

    def save(self, round_: int, state, masks, stop: int, seconds: float) -> None:
        """Starts saving a `Last`; returns once `state` may change again."""
        number = (self._manager.latest_step() or 0) + 1
        saved = _last(round_, state, masks, stop, seconds)
        with _STARTING:
            self._manager.save(number, args=_orbax().args.StandardSave(saved))

    def restore(self, like, masks_like) -> Last | None:
        """Restores the newest saved state; None if there is none.

        Args:
          like: a train state of the same network.
          masks_like: masks of the same network.
        """
        number = self._manager.latest_step()
        if number is None:
            return None
        shapes = _shapes(_last(0, like, masks_like, 0, 0.0))
        saved = jax.device_get(self._manager.restore(number, args=_orbax().args.StandardRestore(shapes)))
        masks = _unpacked(saved["masks"], masks_like)
        return Last(int(saved["round"]), saved["state"], masks, int(saved["stop"]), float(saved["seconds"]))

    def wait(self) -> None:
        """Returns once every save is durable."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for every save and gives the threads back."""
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
