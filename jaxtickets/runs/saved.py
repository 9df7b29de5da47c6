"""What a run has saved, restored; what is damaged is made again where its bits are known, else a line says how."""

import errno
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxtickets import config as config_lib
from jaxtickets import files, snapshots, tensor_files, trained
from jaxtickets import masks as mask_lib
from jaxtickets.errors import DamagedError, UserError
from jaxtickets.progress import say
from jaxtickets.snapshots import Last, LastState
from jaxtickets.train import TrainState
from jaxtickets.workdir import Workdir


def recover(place: Workdir) -> None:
    """Completes what kills have interrupted among the snapshots of a workdir."""
    for directory in (place.snapshot("init").parent, place.masks(0).parent):
        snapshots.recover(directory)


def remedy(config, place: Workdir, round_: int, is_inner: bool = False) -> str:
    """The command that makes again what the training of a round has made."""
    if is_inner or config.seeds > 1:
        return f"remove {place.path}, and the same command runs all that is in it again"
    if config_lib.method(config).is_chained(config):
        round_ = min(round_, 1)
    return f"the same command with --from_round={max(round_, 0)} makes it again"


def _remedy(run, round_):
    return remedy(run.setup.config, run.place, round_, run.is_inner)


def gone(place: Workdir) -> str:
    """The directories that somebody has removed from a workdir, to save space; "" if they are there."""
    directories = {"snapshots": place.snapshot("init").parent, "masks": place.masks(0).parent}
    if place.list_inner()[0]:  # Narrow networks have no masks.
        del directories["masks"]
    return " and ".join(name for name, path in directories.items() if not path.is_dir())


def check_way_back(config, place: Workdir, round_: int) -> None:
    """Refuses to go back to a round whose start can't be restored; nothing is needed of a round 0.

    Raises:
      DamagedError: what the round starts from is damaged or lost.
    """
    method = config_lib.method(config)
    if round_ == 0 or method.source:  # Controls and transfers take all but their own dense run from elsewhere.
        return
    needed = {place.snapshot(name): 0 for name in ("init", "rewind", "dense")}
    has_diverged = place.read_rounds()[round_].get("diverged_step") is not None
    if not has_diverged or snapshots.exists(place.masks(round_)):  # A search that diverges leaves none.
        needed[place.masks(round_)] = round_ - 1
        if place.search(round_).exists() and config.rewind == "none":
            needed[place.search_end(round_)] = round_ - 1
    for path, made_by in needed.items():
        try:
            snapshots.restore_raw(path)
        except DamagedError as error:
            raise DamagedError(f"{error}; {remedy(config, place, made_by)}; nothing has been discarded") from None


def initial_state(run, made: TrainState) -> TrainState:
    """The saved train state before the first step; `made`, which is then saved, if there is none.

    Raises:
      DamagedError: it is damaged and was another one than `made`; an older version may have initialised otherwise.
    """
    path = run.place.snapshot("init")
    if snapshots.exists(path):
        return _restored(run, path, lambda: snapshots.restore(path, made), [made], 0)
    snapshots.save(path, made)
    return made


def state(run, name: str) -> TrainState:
    """The saved train state `rewind` or `dense`.

    Raises:
      DamagedError: it is damaged, and no other file has the same.
    """
    path, resumed = run.place.snapshot(name), run.resumed
    stand_ins = [run.initial_state, *([resumed.state] if resumed else [])]
    return _restored(run, path, lambda: snapshots.restore(path, run.initial_state), stand_ins, 0)


def start(run, round_: int) -> TrainState:
    """The saved train state at the start of a round that goes on.

    Raises:
      DamagedError: it is damaged, and the round has left its start.
    """
    path = run.place.snapshot("start")
    return _restored(run, path, lambda: snapshots.restore(path, run.initial_state), [run.resumed.state], round_ - 1)


def _restored(run, path, restore: Callable[[], Any], stand_ins: Iterable[Any], round_: int):
    """What `restore` gives; where it is damaged, the one of `stand_ins` that equals what was saved."""
    try:
        return restore()
    except DamagedError as error:
        _check_there(run.place)
        for tree in stand_ins:
            if snapshots.is_same(path, tree):
                say(f"{error}; the same is there elsewhere, and it is saved again")
                snapshots.save(path, tree)
                return tree
        raise DamagedError(f"{error}; {_remedy(run, round_)}") from None


def _check_there(place):
    """Raises the operating system's error where the whole workdir is gone: nothing in it is damaged then."""
    if not place.path.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place.path))


def last(run, name: str) -> tuple[LastState, Last | None]:
    """The saved states `last` or `search`, and the one from which the run goes on.

    Where the newest one is damaged, an earlier one serves if it is of the unfinished round or the end of the last one.
    """
    states, unfinished = LastState(run.place.snapshot(name), run.setup.stopped.waits), len(run.rows)

    def serves(last):
        return last.round == unfinished or (last.round == unfinished - 1 and int(last.state.step) == last.stop)

    return states, states.restore(run.initial_state, run.dense_masks, serves)


def close(opened: Iterable[Any], has_failed: bool) -> None:
    """Closes what a run has opened; a run that `has_failed` ends with its own error, whatever can't be closed."""
    for one in opened:
        try:
            one.close()
        except OSError:
            if not has_failed:
                raise


def trained_before(run, round_: int) -> TrainState:
    """The train state at the end of the round before; where nothing of it is needed any more, some train state.

    Raises:
      DamagedError: it is needed and lost.
    """
    if run.trained is not None:
        return run.trained
    is_needed = config_lib.method(run.config).is_chained(run.config) or not snapshots.exists(run.place.masks(round_))
    if round_ > 1 and is_needed and not run.is_finished(round_):
        lost = f"{run.place.snapshot('last')}: the train state at the end of round {round_ - 1} is lost"
        raise DamagedError(f"{lost}; {_remedy(run, round_ - 1)}")
    # Nothing is scored or trained any more where the dense state of a finished run is gone.
    return run.dense if snapshots.exists(run.place.snapshot("dense")) else run.initial_state


def masks(run, round_: int):
    """The masks of a round; None if it has not started, or they are to be drawn again.

    Raises:
      DamagedError: they are damaged, no other file has them, and what they were drawn from is gone.
    """
    path, resumed = run.place.masks(round_), run.resumed
    if not snapshots.exists(path):
        return None
    try:
        return snapshots.restore_masks(path, run.dense_masks)
    except DamagedError as error:
        _check_there(run.place)
        known = [run.dense_masks, *([resumed.masks] if resumed else []), *_of_weights(run, round_)]
        for found in known:
            if snapshots.is_same(path, snapshots.packed(found)):
                say(f"{error}; the same masks are there elsewhere, and they are saved again")
                snapshots.save_masks(path, found)
                return found
        if run.is_finished(round_) or (round_ > 1 and run.trained is None):
            raise DamagedError(f"{error}; {_remedy(run, round_ - 1)}") from None
        if resumed and resumed.round == round_:
            say(f"{error}; the masks in the last train state are used")
            return resumed.masks
        say(f"{error}; the masks are drawn again")
        files.remove(path)
        return None


def _of_weights(run, round_):
    """The masks in the file of a round's trained weights, if there is one of the same network."""
    try:
        arrays, _ = trained.read(run.place.weights(round_))

        def mask(path, dense):
            bits = arrays.get(f"masks/{tensor_files.name_of(path)}")
            return np.ones_like(dense) if bits is None else mask_lib.unpack_leaf(bits, dense.shape)

        yield jax.tree_util.tree_map_with_path(mask, run.dense_masks)
    except (UserError, ValueError):
        return


def search(run, round_: int) -> tuple[dict, np.ndarray] | None:
    """The masks that a search has drawn (`Workdir.read_search`); None if there are none, or it starts again.

    Raises:
      DamagedError: they are damaged or lost, and the search has ended.
    """
    try:
        found = run.place.read_search(round_)
        if found is None and run.has_searched(round_):
            raise DamagedError(f"{run.place.search(round_)}: is missing")
        return found
    except DamagedError as error:
        if run.has_searched(round_):
            raise DamagedError(f"{error}; {_remedy(run, round_ - 1)}") from None
        say(f"{error}; the search of round {round_} starts again")
        run.place.remove_search(round_)
        return None


def is_whole_search(run, last: Last) -> bool:
    """Whether all masks are there that a search must have drawn before a saved state of it."""
    content, masks = search(run, last.round) or ({"steps": []}, [])
    drawn = content["steps"][: len(masks)]
    return {step for step in run.timeline.search_steps if step < int(last.state.step)} <= set(drawn)
