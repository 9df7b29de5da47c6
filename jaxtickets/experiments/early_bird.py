"""Early-bird tickets: found in the first epochs, and trained on as a smaller network."""

import json
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import pruning, snapshots, workdir
from jaxtickets.errors import UserError
from jaxtickets.experiments.compacted import train_compacted
from jaxtickets.experiments.run import Run
from jaxtickets.progress import say
from jaxtickets.pruning.channels import from_weight_masks
from jaxtickets.pruning.early_bird import hamming_distances, pack
from jaxtickets.train import TrainState, rewind


def early_bird(run: Run) -> None:
    """Draws each ticket once its mask has stopped moving, and trains what is left (You et al. 2020, algorithm 1).

    The dense network trains while a mask is drawn every epoch. When the last masks are all alike the ticket has
    emerged: its channels go on as a smaller dense network; its weights, if single ones are pruned, under the mask. They
    go on from the weights that they have (`config.rewind="none"`) or from the rewind point ("state").
    """
    run.round(0, run.dense_masks, run.initial_state, columns=early_bird_columns())
    for round_ in range(1, len(run.levels)):
        train_ticket(run, round_)


def train_ticket(run: Run, round_: int) -> None:
    """The search for one ticket, and its training; nothing if it is recorded already."""
    if run.is_finished(round_):
        return
    found = search(run, round_)
    start = found.state if run.config.rewind == "none" or found.is_dense else run.rewind_point
    is_smaller = run.config.prune.structure == "channel" and not found.is_dense
    train = partial(train_compacted, run) if is_smaller else run.round
    columns = early_bird_columns(found)
    train(round_, found.masks, rewind(start, found.masks), seconds=found.seconds, columns=columns)


class Found(NamedTuple):
    """What a search ends with: masks, the dense network's state, the epoch if a ticket has emerged, the seconds."""

    masks: Any
    state: TrainState
    epoch: float | None
    seconds: float

    @property
    def is_dense(self) -> bool:
        """Whether there is no ticket, and the dense network trains on."""
        return all(np.all(mask) for mask in jax.tree.leaves(self.masks))


def search(run: Run, round_: int) -> Found:
    """Trains the dense network until its ticket of the round's level has emerged; nothing is searched a second time.

    Raises:
      UserError: none has within the budget, and `config.early_bird.on_no_early_bird` is "fail".
    """
    options, history = run.config.early_bird, _History(run, round_)
    masks, state, seconds = run.saved_masks(round_), None, 0.0
    if masks is None:
        for state, seconds in run.searched(round_, run.setup.search_steps):
            masks = run.pruned(round_, run.dense_masks, state)
            history.add(int(state.step), seconds, masks)
            if history.emerged is not None:
                break
        else:
            message = history.failure()
            if options.on_no_early_bird == "fail":
                raise UserError(message)
            if options.on_no_early_bird == "train_dense":
                masks = run.dense_masks
            say(f"round {round_}: {message}; config.early_bird.on_no_early_bird={options.on_no_early_bird!r}")
        snapshots.save(run.search_path(round_), state)
        snapshots.save_masks(run.masks_path(round_), masks)
    state = run.search_end(round_) if state is None else state
    epoch = None if history.emerged is None else history.epochs[history.emerged]
    if epoch is not None:
        say(f"round {round_}: the ticket has emerged in epoch {epoch:.3g}, after {int(state.step)} steps")
    return Found(masks, state, epoch, history.seconds[-1])


class _History:
    """The masks that a search has drawn, and how far each is from each other, in `search/NNN.json` and `.npz`.

    Distances are over channels, or over single weights if these are pruned.
    """

    def __init__(self, run: Run, round_: int):
        self._run, self._options = run, run.config.early_bird
        self._json, self._npz = (run.path / "search" / f"{round_:03d}.{kind}" for kind in ("json", "npz"))
        self.steps, self.seconds, self._masks, self.distances = [], [], [], np.zeros((0, 0))
        if self._json.exists() and self._npz.exists():
            saved, masks = json.loads(self._json.read_text()), np.load(self._npz)["masks"]
            n = min(len(saved["steps"]), len(masks))  # A kill may have come between the two files.
            self.steps, self.seconds, self._masks = saved["steps"][:n], saved["seconds"][:n], list(masks[:n])
            self.distances = np.array(saved["distances"])[:n, :n]

    @property
    def epochs(self) -> list[float]:
        """The epoch of each mask."""
        per_epoch = len(self._run.setup.images) // self._run.config.train.batch_size
        return [step / per_epoch for step in self.steps]

    @property
    def emerged(self) -> int | None:
        """The index of the ticket's mask."""
        return pruning.emergence(self.distances, self._options.queue, self._options.threshold)

    def add(self, step: int, seconds: float, masks) -> None:
        """Notes the masks drawn after a step, and forgets those of later steps, which an interrupted search drew."""
        earlier = sum(known < step for known in self.steps)
        self.steps, self.seconds = self.steps[:earlier], self.seconds[:earlier]
        self._masks, distances = self._masks[:earlier], self.distances[:earlier, :earlier]
        is_channels = self._run.config.prune.structure == "channel"
        units = from_weight_masks(masks, self._run.setup.axis_names.params) if is_channels else masks
        newest = pack(units)
        row = hamming_distances(newest, self._masks, sum(leaf.size for leaf in jax.tree.leaves(units)))
        self.distances = np.block([[distances, row[:, None]], [row[None, :], np.zeros((1, 1))]])
        self.steps.append(step)
        self.seconds.append(round(seconds, 3))
        self._masks.append(newest)
        workdir.write_arrays(self._npz, masks=np.stack(self._masks))
        workdir.write_json(
            self._json,
            {
                "unit": "channels" if is_channels else "weights",
                "steps": self.steps,
                "epochs": self.epochs,
                "seconds": self.seconds,
                "queue": self._options.queue,
                "threshold": self._options.threshold,
                "emerged": self.emerged,
                "distances": self.distances.tolist(),
            },
        )

    def failure(self) -> str:
        """Why there is no ticket: how near the masks came."""
        queue, n = self._options.queue, len(self.steps)
        widest = [self.distances[end, end - queue + 1 : end].max() for end in range(queue - 1, n)]
        nearest = int(np.argmin(widest))
        return (
            f"no early-bird ticket within {self.steps[-1]} steps: the nearest {queue} masks in a row are "
            f"{widest[nearest]:.3f} apart, at step {self.steps[nearest + queue - 1]}; "
            f"config.early_bird.threshold={self._options.threshold:g}"
        )


def early_bird_columns(found: Found | None = None) -> dict:
    """What rounds.csv has in this experiment beside the usual."""
    return {
        "emergence_epoch": found and found.epoch,
        "search_seconds": found.seconds if found else 0.0,
    }
