"""What a recipe may ask of a run: the `Run` protocol.

A recipe trains rounds. Whatever it takes to train, save, restore and record them stands behind this protocol, in
`jaxtickets.runs`; a round that is finished is never done again.
"""

from collections.abc import Callable
from typing import Any, Protocol

from jaxtickets.finite import DivergedError
from jaxtickets.train import TrainState
from jaxtickets.workdir import Workdir


class Run(Protocol):
    """The run of one seed.

    Attributes:
      config: the validated config, with this run's seed.
      seed: the seed.
      levels: the level of each round, 0.0 of round 0 included.
      timeline: the steps of training (`config.Timeline`).
      networks: the networks, their axis names and their shapes (`runs.Networks`).
      place: the workdir.
      dense_masks: the masks that keep everything.
      initial_state: the train state before the first step.
      dense: the train state at the end of round 0.
      trained: the train state at the end of the latest round, its pruned weights exactly zero; None before the first.
      rewind_point: the dense run's train state at the rewind step.
    """

    config: Any
    seed: int
    levels: list[float]
    timeline: Any
    networks: Any
    place: Workdir
    dense_masks: Any
    initial_state: TrainState
    dense: TrainState
    trained: TrainState | None
    rewind_point: TrainState

    def expect(self, rounds: int) -> None:
        """Tells how many rounds there will be, where that is not the number of levels."""

    def is_finished(self, round_: int) -> bool:
        """Whether the round is recorded."""

    def pruned(self, round_: int, masks, state: TrainState):
        """`masks` pruned to the level of the round, by `config.prune.score` of the weights of `state`."""

    def saved_masks(self, round_: int):
        """The masks of a round that has started, or None."""

    def trained_before(self, round_: int) -> TrainState:
        """The train state at the end of the round before; where nothing of it is needed any more, some train state.

        Raises:
          DamagedError: it is needed and lost.
        """

    def rewound(self, masks, trained: TrainState) -> TrainState:
        """`trained` rewound as `config.rewind` says, under `masks`."""

    def start_from(self, point: TrainState) -> None:
        """Makes `point` the rewind point: that of another run, or another initialisation."""

    def round(
        self,
        round_: int,
        masks,
        start: TrainState,
        update: Callable | None = None,
        seconds: float = 0.0,
        columns: dict | None = None,
    ) -> None:
        """Trains from `start` under `masks` to the end and records the result; nothing if it is recorded already.

        Rounds are trained in order, from round 0, the dense run, on.

        Args:
          masks: like `dense_masks`.
          update: `(step, state, masks) -> masks` changes the masks at the timeline's `update_steps`.
          seconds: of training that have led to `start` within this round.
          columns: what is added to the round's row; `Method.columns` declares the names.
        """

    def compacted_round(
        self, round_: int, masks, start: TrainState, seconds: float = 0.0, columns: dict | None = None
    ) -> None:
        """Does what `round` does with the pruned channels taken out: what is left trains as a smaller dense network."""

    def narrow_round(self, row: dict) -> None:
        """Trains a dense network with the parameters that a ticket's `row` keeps, and records it as that round."""

    def adopt(self, place: Workdir, row: dict, round_: int) -> None:
        """Records the round `row` of another workdir as a round of this run."""

    def fresh_state(self, seed: int) -> TrainState:
        """The train state before the first step with the weights of another seed."""

    def gradients(self, state: TrainState, masks, step: int):
        """The gradients of the loss of the batch after `step` steps, those of pruned weights too."""

    def search(self, round_: int, draw: Callable[[TrainState, float], bool], l1=None) -> TrainState:
        """Trains the dense network from its initialisation until `draw(state, seconds)` says that it is enough.

        `draw` is called at the timeline's `search_steps`. Returns the state at the end.

        Args:
          l1: a tree like the parameters: the weight of |parameter| in the loss, or None; None: no penalty.

        Raises:
          DivergedError: it has diverged, and the round must end with `skip`.
        """

    def skip(self, round_: int, masks, error: DivergedError, columns: dict | None = None) -> None:
        """Records the round as diverged, without metrics, under `masks`."""

    def drawn(self, round_: int) -> tuple[dict, Any] | None:
        """The masks that the search of the round has drawn so far (`Workdir.read_search`), or None.

        Raises:
          DamagedError: they are damaged or lost, and the search has ended.
        """

    def end_search(self, round_: int, masks, state: TrainState) -> None:
        """Saves what a search has ended with, so that it is not done again."""

    def search_end(self, round_: int) -> TrainState:
        """The train state saved when the search of the round ended."""
