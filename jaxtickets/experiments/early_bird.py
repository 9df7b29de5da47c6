"""Early-bird tickets: found in the first epochs, and trained on as a smaller network."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import pruning
from jaxtickets.errors import UserError
from jaxtickets.experiments.method import REWIND, Method, check_rewind, only_magnitude
from jaxtickets.experiments.protocol import Run
from jaxtickets.fields import Field, at_least, choice, fraction_or_steps, refuse, share, whole
from jaxtickets.progress import say
from jaxtickets.pruning import channels
from jaxtickets.pruning.early_bird import hamming_distances, pack
from jaxtickets.train import TrainState, rewind

FIELDS = (
    Field("early_bird.every", 0, whole(0), "The number of steps between two masks of the search; 0 is an epoch."),
    Field("early_bird.queue", 5, whole(2), "The number of masks in a row that must be alike."),
    Field(
        "early_bird.threshold",
        0.1,
        share(),
        "Masks are alike if their normalised Hamming distances to the newest are all below this.",
    ),
    Field(
        "early_bird.until",
        0.25,
        fraction_or_steps(),
        "The search's budget: below 1 a fraction of training, else a number of steps.",
    ),
    Field(
        "early_bird.on_no_early_bird",
        "train_dense",
        choice("train_dense", "take_last", "fail"),
        "What happens if no ticket has emerged within the budget.",
    ),
    Field(
        "early_bird.gamma_penalty",
        0.0,
        at_least(0),
        "The weight of the sum of all |gamma| of the channels to prune in the loss, while the search goes on.",
    ),
)


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
    train = run.compacted_round if is_smaller else run.round
    columns = early_bird_columns(found)
    train(round_, found.masks, rewind(start, found.masks), seconds=found.seconds, columns=columns)


# What follows a search without a ticket.
NEXT = {
    "train_dense": "so the dense network trains on; a higher config.early_bird.until searches longer",
    "take_last": "so the last mask is taken; a higher config.early_bird.until searches longer",
}


class Found(NamedTuple):
    """The end of a search.

    masks: of the ticket. state: of the dense network when the search ended. epoch: when the ticket emerged, None if it
    has not. seconds: that the search took.
    """

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
    masks, state = run.saved_masks(round_), None
    if masks is None:

        def draw(state, seconds):
            nonlocal masks
            masks = run.pruned(round_, run.dense_masks, state)
            history.add(int(state.step), seconds, masks)
            return history.emerged is not None

        state = run.search(round_, draw, gamma_l1(run.networks, options.gamma_penalty))
        if history.emerged is None:
            message = history.failure()
            if options.on_no_early_bird == "fail":
                raise UserError(message)
            if options.on_no_early_bird == "train_dense":
                masks = run.dense_masks
            say(f"round {round_}: {message}; {NEXT[options.on_no_early_bird]}")
        run.end_search(round_, masks, state)
    state = run.search_end(round_) if state is None else state
    epoch = None if history.emerged is None else history.epochs[history.emerged]
    if epoch is not None:
        say(f"round {round_}: the ticket has emerged in epoch {epoch:.3g}, after {int(state.step)} steps")
    return Found(masks, state, epoch, history.seconds[-1])


def gamma_l1(networks, weight: float):
    """The weight of |gamma| of the components that are pruned, as a tree like the parameters; None if it is 0."""
    if not weight:
        return None
    is_gamma = channels.is_gamma(networks.params, networks.axis_names.params, networks.batch_stats)
    weights = {name: weight if jax.tree.leaves(own) else None for name, own in networks.dense_masks.items()}
    return {
        component: jax.tree.map(lambda gamma, weight=weights[component]: weight if gamma else None, layers)
        for component, layers in is_gamma.items()
    }


class _History:
    """The masks that a search has drawn, and how far each is from each other, as the workdir keeps them.

    Distances are over channels, or over single weights if these are pruned.
    """

    def __init__(self, run: Run, round_: int):
        self._run, self._round, self._options = run, round_, run.config.early_bird
        self.steps, self.seconds, self._masks, self.distances = [], [], [], np.zeros((0, 0))
        if found := run.place.read_search(round_):
            saved, masks = found
            n = min(len(saved["steps"]), len(masks))  # A kill may have come between the two files.
            self.steps, self.seconds, self._masks = saved["steps"][:n], saved["seconds"][:n], list(masks[:n])
            self.distances = np.array(saved["distances"])[:n, :n]

    @property
    def epochs(self) -> list[float]:
        """The epoch of each mask."""
        return [step / self._run.timeline.per_epoch for step in self.steps]

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
        units = channels.from_weight_masks(masks, self._run.networks.axis_names.params) if is_channels else masks
        newest = pack(units)
        row = hamming_distances(newest, self._masks, sum(leaf.size for leaf in jax.tree.leaves(units)))
        self.distances = np.block([[distances, row[:, None]], [row[None, :], np.zeros((1, 1))]])
        self.steps.append(step)
        self.seconds.append(round(seconds, 3))
        self._masks.append(newest)
        content = {
            "unit": "channels" if is_channels else "weights",
            "steps": self.steps,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "queue": self._options.queue,
            "threshold": self._options.threshold,
            "emerged": self.emerged,
            "distances": self.distances.tolist(),
        }
        self._run.place.write_search(self._round, content, np.stack(self._masks))

    def failure(self) -> str:
        """The message that no ticket has emerged, with the masks that came nearest."""
        queue, n = self._options.queue, len(self.steps)
        widest = [self.distances[end, end - queue + 1 : end].max() for end in range(queue - 1, n)]
        nearest = int(np.argmin(widest))
        return (
            f"no early-bird ticket within {self.steps[-1]} steps: the nearest {queue} masks in a row are "
            f"{widest[nearest]:.3f} apart, at step {self.steps[nearest + queue - 1]}; "
            f"config.early_bird.threshold={self._options.threshold:g}"
        )


def early_bird_columns(found: Found | None = None) -> dict:
    """The columns of rounds.csv that only this experiment has."""
    return {
        "emergence_epoch": found and found.epoch,
        "search_seconds": found.seconds if found else 0.0,
    }


def search_steps(config, steps: int, per_epoch: int) -> range:
    """The steps of a training of `steps` steps after which the search draws a mask."""
    options = config.early_bird
    every = options.every or per_epoch
    last = round(options.until * steps) if options.until < 1 else int(options.until)
    if last >= steps:
        refuse("early_bird.until", options.until, f"a step before the end of training, which is step {steps}")
    if last < every * options.queue:
        refuse(
            "early_bird.until",
            options.until,
            f"at least {every * options.queue} steps, for config.early_bird.queue={options.queue} masks that are "
            f"{every} steps apart; it is {last} of {steps} steps",
        )
    return range(every, last + 1, every)


def _check(config):
    if config.rewind not in ("state", "none"):
        given = f"config.experiment={config.experiment!r}"
        refuse("rewind", config.rewind, f"state or none with {given}: there is no trained network at the search's end")
    if (penalty := config.early_bird.gamma_penalty) and config.prune.score != "gamma":
        refuse("early_bird.gamma_penalty", penalty, "0.0 with a config.prune.score other than 'gamma'")
    check_rewind(config)


EARLY_BIRD = Method(
    "early_bird",
    early_bird,
    fields=(REWIND, *FIELDS),
    check=_check,
    scores=only_magnitude,
    channel_scores=lambda score: score.channels is not None and score.weights is None,
    rewinds_late=True,
    search_steps=search_steps,
    columns={"emergence_epoch": "found at epoch", "search_seconds": "search [s]"},
)
