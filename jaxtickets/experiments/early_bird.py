"""Early-bird tickets: found in the first epochs, and trained on as a smaller network."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import pruning
from jaxtickets.clock import Clock
from jaxtickets.errors import UserError
from jaxtickets.experiments.method import REWIND, Method, check_rewind, only_magnitude
from jaxtickets.experiments.protocol import Run
from jaxtickets.fields import Field, at_least, choice, fraction_or_steps, number, refuse, share, whole
from jaxtickets.finite import DivergedError
from jaxtickets.progress import say
from jaxtickets.pruning import channels
from jaxtickets.pruning.early_bird import (
    distance_by_chance,
    entries,
    gamma_l1,
    hamming_distances,
    is_by_position,
    pack,
    share_moved,
    unpack,
)
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
        "early_bird.moved",
        0.7,
        number(lambda value: 0 <= value <= 1, "a number from 0 to 1"),
        "How far the ticket's mask must be from the mask of step 0, as a share of a random mask's distance.",
        before=0.0,
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

    The dense network trains while a mask is drawn every epoch. When the last masks are all alike, and have left the
    mask of step 0, the ticket has emerged: its channels go on as a smaller dense network; its weights, if single ones
    are pruned, under the mask. They go on from the weights that they have (`config.rewind="none"`) or from the rewind
    point ("state").
    """
    if not run.is_finished(len(run.levels) - 1):
        _warn_of_random_scales(run.config)
    run.round(0, run.dense_masks, run.initial_state, columns=early_bird_columns())
    for round_ in range(1, len(run.levels)):
        train_ticket(run, round_)


def _warn_of_random_scales(config) -> None:
    if _reads_random_scales(config):
        least = config.early_bird.moved
        outcome = "a ticket emerges late or not at all" if least else "a ticket may be nothing but these numbers"
        say(
            "config.model.scale_init='normal' with config.prune.score='gamma': the scales start as random numbers, and "
            f"the first masks follow these numbers, not the training; {outcome} (config.early_bird.moved={least:g}); "
            "config.model.scale_init='ones' starts all scales alike"
        )


def _reads_random_scales(config):
    """Whether the score is the scale itself, which starts as a random number. Not every network has the field."""
    return config.prune.score == "gamma" and config.model.get("scale_init") == "normal"


def train_ticket(run: Run, round_: int) -> None:
    """The search for one ticket, and its training; nothing if it is recorded already."""
    if run.is_finished(round_):
        return
    try:
        found = search(run, round_)
    except DivergedError as error:
        run.skip(round_, run.dense_masks, error, columns=early_bird_columns())
        return
    start = found.state if run.config.rewind == "none" or found.is_dense else run.rewind_point
    is_smaller = run.config.prune.structure == "channel" and not found.is_dense
    train = run.compacted_round if is_smaller else run.round
    columns = early_bird_columns(found)
    train(round_, found.masks, rewind(start, found.masks), seconds=found.seconds, columns=columns)


# What happens after a search that found no ticket.
NEXT = {"train_dense": "the dense network trains on", "take_last": "the last mask is taken"}


class Found(NamedTuple):
    """The end of a search.

    masks: of the ticket. state: of the dense network when the search ended. epoch: when the ticket emerged, None if it
    has not. seconds: that the search took. moved: the ticket's distance from the mask of step 0, as a share of a random
    mask's; None if no ticket emerged, and where an older search has not noted it.
    """

    masks: Any
    state: TrainState
    epoch: float | None
    seconds: float
    moved: float | None

    @property
    def is_dense(self) -> bool:
        """Whether there is no ticket, and the dense network trains on."""
        return all(np.all(mask) for mask in jax.tree.leaves(self.masks))


def search(run: Run, round_: int) -> Found:
    """Trains the dense network until its ticket of the round's level has emerged; nothing is searched a second time.

    Raises:
      DivergedError: the search has diverged, and the round is to be skipped.
      UserError: none has within the budget, and `config.early_bird.on_no_early_bird` is "fail".
    """
    options, history = run.config.early_bird, _History(run, round_)
    masks, state = run.saved_masks(round_), None
    if masks is None:
        clock = Clock()
        history.start_from(run.pruned(round_, run.dense_masks, run.initial_state))

        def draw(state, seconds):
            nonlocal masks
            masks = run.pruned(round_, run.dense_masks, state)
            history.add(int(state.step), seconds(), masks)
            return history.emerged is not None

        state = run.search(round_, draw, gamma_l1(run.networks, options.gamma_penalty), clock.seconds())
        if history.emerged is None:
            reason, advice = history.failure()
            if options.on_no_early_bird == "fail":
                raise UserError(f"{reason}; {advice}")
            if options.on_no_early_bird == "train_dense":
                masks = run.dense_masks
            say(f"round {round_}: {reason}; so {NEXT[options.on_no_early_bird]}; {advice}")
        run.end_search(round_, masks, state)
    state = run.search_end(round_) if state is None else state
    ticket = history.emerged
    if ticket is None:
        return Found(masks, state, None, history.seconds[-1], None)
    epoch, moved, known = history.epochs[ticket], history.moved, ""
    if moved is not None:
        known = (
            f"; {history.from_start[ticket]:.2f} of its {history.unit} differ from the mask of step 0 (a random mask: "
            f"{history.chance[ticket]:.2f}{history.remark})"
        )
    say(f"round {round_}: the ticket has emerged in epoch {epoch:.3g}, after {int(state.step)} steps{known}")
    return Found(masks, state, epoch, history.seconds[-1], None if moved is None else moved[ticket])


class _History:
    """The masks that a search has drawn, and how far each is from each other, as the workdir keeps them.

    Distances are over channels, or over single weights if these are pruned. `from_start` has each mask's distance from
    the mask of step 0, `chance` the distance that a random mask would have, and `shares` the ratio of the two in the
    component that has moved least. All three are empty in the finished searches of old workdirs. `remark` is what the
    message adds where the mask of step 0 says nothing.
    """

    def __init__(self, run: Run, round_: int):
        self._run, self._round, self._options = run, round_, run.config.early_bird
        self.unit = "channels" if run.config.prune.structure == "channel" else "weights"
        self.steps, self.seconds, self._masks, self.distances = [], [], [], np.zeros((0, 0))
        self.from_start, self.chance, self.shares, self.remark = [], [], [], ""
        if found := run.drawn(round_):
            saved, masks = found
            n = min(len(saved["steps"]), len(masks))  # A kill may have come between the two files.
            self.steps, self.seconds, self._masks = saved["steps"][:n], saved["seconds"][:n], list(masks[:n])
            self.distances = np.array(saved["distances"])[:n, :n]
            names = ("from_start", "chance", "moved")
            self.from_start, self.chance, self.shares = (saved.get(name, [])[:n] for name in names)

    @property
    def epochs(self) -> list[float]:
        """The epoch of each mask."""
        return [step / self._run.timeline.per_epoch for step in self.steps]

    @property
    def moved(self) -> list[float] | None:
        """How far each mask is from the mask of step 0, as a share of a random mask's distance; None if not known."""
        return self.shares if len(self.shares) == len(self.steps) else None

    @property
    def emerged(self) -> int | None:
        """The index of the ticket's mask."""
        options = self._options
        return pruning.emergence(self.distances, options.queue, options.threshold, self.moved, options.moved)

    def start_from(self, masks) -> None:
        """Takes the masks of step 0, and compares those with them that an interrupted search has drawn."""
        self._start, self.from_start, self.chance, self.shares = self._units(masks), [], [], []
        if is_by_position(self._start):
            self.remark = "; before training all scores are equal, so this says nothing"
        for packed in self._masks:
            self._compare(unpack(packed, self._start))

    def add(self, step: int, seconds: float, masks) -> None:
        """Notes the masks drawn after a step, and forgets those of later steps, which an interrupted search drew."""
        earlier = sum(known < step for known in self.steps)
        for noted in (self.steps, self.seconds, self._masks, self.from_start, self.chance, self.shares):
            del noted[earlier:]
        units, distances = self._units(masks), self.distances[:earlier, :earlier]
        newest = pack(units)
        row = hamming_distances(newest, self._masks, entries(units))
        self.distances = np.block([[distances, row[:, None]], [row[None, :], np.zeros((1, 1))]])
        self.steps.append(step)
        self.seconds.append(round(seconds, 3))
        self._masks.append(newest)
        self._compare(units)
        content = {
            "unit": self.unit,
            "steps": self.steps,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "queue": self._options.queue,
            "threshold": self._options.threshold,
            "least_moved": self._options.moved,
            "emerged": self.emerged,
            "from_start": self.from_start,
            "chance": self.chance,
            "moved": self.moved,
            "distances": self.distances.tolist(),
        }
        self._run.place.write_search(self._round, content, np.stack(self._masks))

    def _units(self, masks):
        is_channels = self.unit == "channels"
        return channels.from_weight_masks(masks, self._run.networks.axis_names.params) if is_channels else masks

    def _compare(self, units):
        """Notes how far masks are from those of step 0."""
        (distance,) = hamming_distances(pack(units), [pack(self._start)], entries(units))
        self.from_start.append(float(distance))
        self.chance.append(distance_by_chance(units, self._start))
        self.shares.append(share_moved(units, self._start))

    def failure(self) -> tuple[str, str]:
        """Why no ticket has emerged, with the masks that came nearest, and what to do about it."""
        options = self._options
        within = f"no early-bird ticket within {self.steps[-1]} steps"
        ends = range(options.queue - 1, len(self.steps))
        widest = {end: self.distances[end, end - options.queue + 1 : end].max() for end in ends}
        alike = [end for end in ends if widest[end] < options.threshold]
        if not alike:
            nearest = min(ends, key=widest.get)
            reason = (
                f"{within}: the masks still move: the nearest {options.queue} in a row are {widest[nearest]:.3f} "
                f"apart, at step {self.steps[nearest]} (config.early_bird.threshold={options.threshold:g})"
            )
            return reason, "a higher config.early_bird.until searches longer"
        most = max(alike, key=lambda end: self.moved[end])
        reason = (
            f"{within}: the masks are alike, but too near the initialisation: at step {self.steps[most]} "
            f"{self.from_start[most]:.2f} of their {self.unit} differ from the mask of step 0, {self.moved[most]:.2f} "
            f"of a random mask's distance where they differ least (config.early_bird.moved={options.moved:g})"
        )
        ways = [*_other_scores(self._run.config), "a longer search (config.early_bird.until)"]
        return reason, f"{' or '.join(ways)} may find one; config.early_bird.moved=0 takes them all the same"


def _other_scores(config):
    """What may find channels that say more of the training than of the initialisation."""
    if config.prune.structure != "channel":
        return
    if _reads_random_scales(config):
        yield "scales that start alike (config.model.scale_init='ones')"
    if config.prune.score == "gamma":
        yield "config.prune.score='filter_change' or 'gamma_taylor'"
    elif config.prune.score != "filter_change":
        yield "config.prune.score='filter_change'"


def early_bird_columns(found: Found | None = None) -> dict:
    """The columns of rounds.csv that only this experiment has."""
    return {
        "emergence_epoch": found and found.epoch,
        "moved": found and found.moved,
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
    columns={"emergence_epoch": "found at epoch", "moved": "moved from step 0", "search_seconds": "search [s]"},
)
