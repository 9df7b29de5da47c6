"""What a pruning score is, as a plug-in."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from jaxtickets.fields import Field, no_check


@dataclass(frozen=True)
class Score:
    """How much each weight, or each channel, matters; `config.prune.score` chooses it.

    A score has `weights`, `channels` or both. What such a function needs beside its first two arguments it names as
    further arguments; `jaxtickets.pruning.scores` lists what there is.

    Attributes:
      name, fields, check: see `jaxtickets.fields`.
      weights: `(params, masks, ...) -> scores of the prunable weights`, or None.
      channels: `(params, axis_names, ...) -> {component: {channel name: [n] scores}}`, or None. Names that it leaves
        out are ranked by themselves, by the L1 norm of their filters.
      mean_of_weights: whether a channel can also be scored by the mean of `weights` over its filter.
      at_init: whether the score says something of an untrained network.
      steps: the number of steps of exponentially falling density that it is meant to prune in.
      wants: the words after "which has no" in the error for a network without a channel to score.
    """

    name: str
    weights: Callable | None = None
    channels: Callable | None = None
    mean_of_weights: bool = False
    at_init: bool = False
    steps: int = 1
    wants: str = "channels"
    fields: tuple[Field, ...] = ()
    check: Callable = no_check

    def __post_init__(self):
        if not (self.weights or self.channels):
            raise ValueError(f"score {self.name!r}: either `weights` or `channels` must be given")

    @property
    def scores_channels(self) -> bool:
        """Whether channels can be pruned by this score."""
        return self.channels is not None or self.mean_of_weights

    @property
    def reads_weights_only(self) -> bool:
        """Whether the score can be taken of any weights, without data and without a training that led to them."""
        return not set(needs(self.weights) + needs(self.channels)) - {"seed", "batch_stats", "axes"}


def needs(function: Callable | None) -> list[str]:
    """The arguments of a score's function after the first two."""
    return list(inspect.signature(function).parameters)[2:] if function else []
