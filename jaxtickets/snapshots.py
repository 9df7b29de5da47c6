"""Orbax snapshots: rewind points, the last train states of a run, and bit-packed masks.

A snapshot is a directory, with the checksum of its arrays in one file. It is saved under a hidden name and then takes
its own, so that what was there before is there until the new one is complete; `recover` completes what a kill has
interrupted. Old snapshots without a checksum are read as they are.
"""

import contextlib
import errno
import glob
import logging
import os
import re
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import checksums, files
from jaxtickets import masks as mask_lib
from jaxtickets.errors import DamagedError, printable
from jaxtickets.progress import say

CHECKSUM = "checksum.json"
# What may go by: it says nothing of the files.
PASSING = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.ETIMEDOUT)
# Orbax numbers saves by one counter per process: threads that save at once could wait for each other's files.
_SAVING = threading.Lock()


@cache
def _orbax():
    import orbax.checkpoint  # Slow to import, and a mistake in the config is told before.

    # A failure is an exception here. Orbax's threads log it too, with a traceback, and what its other reads and writes
    # come to, when the one that has failed has ended their event loop, is told as an exception that nobody catches.
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    sys.unraisablehook = partial(_unraisable, sys.unraisablehook)
    return orbax.checkpoint


def _checkpointer(handler):
    """An Orbax checkpointer of this process alone: of several hosts the one that leads has the whole state."""
    orbax, own = _orbax(), jax.process_index()
    only = {"primary_host": own, "active_processes": {own}, "barrier_sync_key_prefix": f"host{own}"}
    alone = orbax.options.MultiprocessingOptions(**only)
    return orbax.Checkpointer(handler(multiprocessing_options=alone), multiprocessing_options=alone)


def _unraisable(hook, unraisable):
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


def save(path: os.PathLike, tree) -> None:
    """Saves a pytree of arrays and replaces an earlier one, which is there until the new one is complete.

    Raises:
      OSError: it can't be saved.
    """
    path, arrays = Path(path).resolve(), jax.tree.map(np.asarray, jax.device_get(tree))
    with _SAVING, _failures(path):
        path.parent.mkdir(exist_ok=True)  # If the directory above is gone, somebody has removed the run.
        _settle(path)
        try:
            _save(path, _beside(path, "new"), arrays)
        except BaseException:
            # Threads of TensorStore may still write, and make the directory again; the next start removes it then.
            with contextlib.suppress(OSError):
                _settle(path)
            raise
        _settle(path)
        files.sync(path.parent)


def _save(path, new, arrays):
    # The asynchronous one has threads that wait for each other for minutes once one of them has failed.
    orbax = _orbax()
    with _checkpointer(orbax.StandardCheckpointHandler) as checkpointer:
        checkpointer.save(new, args=orbax.args.StandardSave(arrays))
    digest = _digest(arrays)
    (new / CHECKSUM).write_bytes(files.json_bytes({"sha256": digest, "crc32": zlib.crc32(digest.encode())}))
    files.sync(*new.rglob("*"), new)
    if exists(path):
        path.rename(_beside(path, "old"))
    new.rename(path)


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    """Makes whatever the operating system has refused an `OSError` with the path."""
    try:
        yield
    except (OSError, ValueError) as error:  # TensorStore raises ValueError, with the reason in its text.
        if (code := _errno(error)) is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _errno(error):
    """The number of what the operating system has refused, from an exception or its text; None if it is another."""
    known = (code for code in errno.errorcode if os.strerror(code) in str(error))
    return getattr(error, "errno", None) or next(known, None)


def _beside(path, what):
    return path.with_name(f".{path.name}.{what}")


def _settle(path):
    """Completes the replacement of a snapshot, if a kill has interrupted it, and removes what is left of it."""
    new, old = _beside(path, "new"), _beside(path, "old")
    if not exists(path) and _stored(new) is not None:
        new.rename(path)
    elif not exists(path) and exists(old):
        old.rename(path)
    for leftover in (*path.parent.glob(f"{glob.escape(new.name)}*"), old, _beside(path, "gone")):
        files.remove(leftover)


def recover(directory: Path) -> None:
    """Completes the replacements of snapshots in a directory that kills have interrupted, and removes leftovers."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    for name in {match[1] for name in names if (match := re.match(r"\.(.+?)\.(?:new|old|gone)(?:\.orbax.*)?$", name))}:
        _settle(directory / name)
    for name in names:
        if re.match(r"[^.]+\.orbax-checkpoint-tmp", name):  # Of an older version.
            files.remove(directory / name)


def restore(path: os.PathLike, like):
    """Restores the pytree saved at `path` on the host, with the structure of `like` (arrays or shapes).

    Raises:
      DamagedError: it is missing, can't be read, or is not what was saved.
      OSError: the machine fails to read it now.
    """
    return _restored(Path(path).resolve(), like)


def restore_raw(path: os.PathLike) -> dict:
    """Restores a pytree of unknown structure as nested dicts and lists of NumPy arrays.

    Raises:
      DamagedError: it can't be read, or is not what was saved.
    """
    return _restored(Path(path).resolve())


def _restored(path, like=None):
    if not exists(path):
        raise DamagedError(f"{path}: is missing")
    orbax = _orbax()
    try:
        # Unlike StandardRestore, it asks for no metadata: TensorStore keeps some of those objects for ever.
        with _checkpointer(orbax.PyTreeCheckpointHandler) as checkpointer:
            to_host = None if like is None else jax.tree.map(lambda _: orbax.RestoreArgs(restore_type=np.ndarray), like)
            tree = jax.device_get(checkpointer.restore(path, args=orbax.args.PyTreeRestore(like, restore_args=to_host)))
    except Exception as error:  # Orbax, TensorStore and the readers of JSON raise nearly any.
        if isinstance(error, MemoryError):
            raise
        if (code := _errno(error)) in PASSING:
            raise OSError(code, os.strerror(code), str(path)) from None
        reason = printable(str(error).partition("[")[0].strip() or type(error).__name__)
        raise DamagedError(f"{path}: is damaged ({reason[:200]})") from None
    stored = _stored(path)
    if stored is None and (path / CHECKSUM).exists():
        say(f"{path / CHECKSUM}: is damaged; the snapshot is not verified")
    if stored is not None and stored != _digest(tree):
        raise DamagedError(f"{path}: is damaged (it is not what was saved)")
    if like is not None and jax.tree.map(np.shape, tree) != jax.tree.map(np.shape, like):
        raise DamagedError(f"{path}: has arrays of other shapes")
    return tree


def exists(path: os.PathLike) -> bool:
    """Whether there is a snapshot at `path`; it has its name only once it is complete."""
    return Path(path).is_dir()


def is_same(path: os.PathLike, tree) -> bool:
    """Whether a pytree is, by its checksum, what was saved at `path`, however damaged the rest is."""
    return _stored(Path(path)) == _digest(jax.device_get(tree))


def _stored(path):
    """The checksum in a snapshot; None if it has none that can be read."""
    content = files.read_json(path / CHECKSUM) or {}
    digest = content.get("sha256")
    return digest if isinstance(digest, str) and content.get("crc32") == zlib.crc32(digest.encode()) else None


def _digest(tree):
    return checksums.of_arrays(mask_lib.named_leaves(tree))


def packed(masks) -> dict[str, np.ndarray]:
    """Masks as they are saved, by name, eight weights per byte."""
    return mask_lib.named_leaves(mask_lib.pack(masks))


def save_masks(path: os.PathLike, masks) -> None:
    """Saves masks, eight weights per byte."""
    save(path, packed(masks))


def restore_masks(path: os.PathLike, like):
    """Restores the masks saved at `path`; `like` are masks of the same network.

    Raises:
      DamagedError: see `restore`.
    """
    return _unpacked(restore(path, packed(like)), like)


def restore_masks_raw(path: os.PathLike, params):
    """Restores the masks saved at `path` for a network with `params`; a leaf without a saved mask has None.

    Raises:
      DamagedError: see `restore`.
    """
    found = restore_raw(path)
    return mask_lib.unpack(
        jax.tree_util.tree_map_with_path(lambda name, _: found.get(mask_lib.path_name(name)), params), params
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
    """Keeps the two newest train states in a directory; saving goes on in the background."""

    def __init__(self, directory: os.PathLike, saves=contextlib.nullcontext):
        """Opens the directory, and creates it if there is none; `saves()` is a context in which the thread saves."""
        self._directory, self._saves = Path(directory).resolve(), saves
        self._directory.mkdir(parents=True, exist_ok=True)
        recover(self._directory)
        self._thread, self._error, self._damaged = None, None, set()

    def _numbers(self) -> list[int]:
        """The numbers of the saves that are there; each is one more than the one before."""
        return sorted(int(path.name) for path in self._directory.iterdir() if path.name.isdecimal())

    def save(self, round_: int, state, masks, stop: int, seconds: float) -> None:
        """Starts saving a `Last`, whose arrays must not change any more.

        Raises:
          OSError: the save before has failed.
        """
        self.wait()
        arguments = max(self._numbers(), default=0) + 1, _last(round_, state, masks, stop, seconds)
        # A daemon: Python does not wait for it at the end of a process that has not closed this.
        self._thread = threading.Thread(target=self._save, args=arguments, name="last state", daemon=True)
        self._thread.start()

    def _save(self, number, saved):
        try:
            with self._saves():
                save(self._directory / str(number), saved)
            intact = [number for number in self._numbers() if number not in self._damaged]
            for older in set(self._numbers()) - set(intact[-2:]):
                files.remove(self._directory / str(older))
        except BaseException as error:  # noqa: BLE001  (raised in the thread that waits)
            self._error = error

    def restore(self, like, masks_like, serves: Callable[[Last], bool] = lambda last: True) -> Last | None:
        """Restores the newest saved state that is intact; None if there is none.

        Damaged ones are told.

        Args:
          like: a train state of the same network.
          masks_like: masks of the same network.
          serves: whether a state may be used in the place of a damaged newer one.
        """
        is_newest = True
        for number in reversed(self._numbers()):
            try:
                last = self._restore(number, like, masks_like)
            except DamagedError as error:
                say(f"{error}; the train state that was saved before is used, if there is one")
                self._damaged.add(number)
            else:
                if is_newest or serves(last):
                    return last
            is_newest = False
        return None

    def _restore(self, number, like, masks_like):
        path = self._directory / str(number)
        if (path / "default").is_dir():  # Older versions have saved it one level below.
            path = path / "default"
        saved = restore(path, _last(0, like, masks_like, 0, 0.0))
        masks = _unpacked(saved["masks"], masks_like)
        return Last(int(saved["round"]), saved["state"], masks, int(saved["stop"]), float(saved["seconds"]))

    def wait(self) -> None:
        """Returns once every save is durable.

        Raises:
          OSError: a save has failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Waits for every save, like `wait`."""
        self.wait()


def _last(round_, state, masks, stop, seconds):
    numbers = {"round": np.int32(round_), "stop": np.int32(stop), "seconds": np.float64(seconds)}
    return {**numbers, "state": state, "masks": packed(masks)}


def _unpacked(saved, like):
    # By name: Orbax returns names in their own order, which is not the tree's where a key has a dot or a hyphen.
    leaves = [saved[name] for name in mask_lib.named_leaves(like)]
    return mask_lib.unpack(jax.tree.unflatten(jax.tree.structure(like), leaves), like)
