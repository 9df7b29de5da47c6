"""What an experiment's method is, as a plug-in, and the fields that several methods share."""

import dataclasses
from collections.abc import Callable, Mapping

from jaxtickets.fields import Field, choice, no_check, refuse
from jaxtickets.pruning import levels
from jaxtickets.workdir import ROUND_COLUMNS

REWINDS = ("state", "weights", "learning_rate", "none")
REWIND = Field(
    "rewind",
    "state",
    choice(*REWINDS),
    "What goes back before a round: the whole train state, the weights only, the learning_rate only, or none "
    "(fine-tuning).",
)


def check_rewind(config) -> None:
    """Refuses fine-tuning that has no learning rate left. The check of methods that read `REWIND`."""
    if config.rewind == "none" and config.optimizer.final_rate == 0:
        refuse("rewind", "none", "that with config.optimizer.final_rate above 0: fine-tuning goes on at the final rate")


def title_with_score(config) -> str:
    """The experiment and its score: the title of methods that prune by any score."""
    return f"{config.experiment}, {config.prune.score}"


def any_score(score) -> bool:
    """Every score of weights."""
    return score.weights is not None


def only_magnitude(score) -> bool:
    """The magnitude of weights alone: that of methods whose rule is fixed, or that prune nothing."""
    return score.name == "magnitude"


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to find tickets, or a control of them; `config.experiment` chooses it.

    Attributes:
      name, fields, check: see `jaxtickets.fields`.
      recipe: `(run: experiments.protocol.Run) -> None` trains all rounds.
      scores: whether the method can prune weights by a `pruning.Score`.
      channel_scores: whether it can prune channels by a `Score`; None if it never prunes channels.
      provides: the capabilities that fields may need (`Field.needs`). "dense": rounds start after a trained dense run
        and go back from it.
      levels: `(config.prune) -> the level of each round`.
      prunes: whether the method prunes to the config's levels, of which there must then be at least one.
      rewinds_late: whether the rewind point may lie behind the initialisation (`config.rewind_step`).
      is_chained: `(config) -> whether a round goes on from weights that only the round before had`.
      update_steps: `(config, steps) -> range` of the steps before which the masks of a round may change.
      search_steps: `(config, steps, steps per epoch) -> range` of the steps after which a search draws a mask.
      subject: `(config) -> what the verdict calls a round`.
      title: `(config) -> what reports call the experiment`.
      columns: the columns of rounds.csv that only this method has, each with its header in reports.
      apart: `(config) -> why seeds can't train as one program`, as a chosen value; "": they can, because all of them
        train the same network in the same steps.
      source: `(networks, seed) -> what the method needs of another run`. Raises UserError if that can't be had; called
        before anything is written. It reads the data by `networks.data` alone.
      rounds: `(what source has given) -> the number of rounds`; None: that of `levels`.
    """

    name: str
    recipe: Callable
    fields: tuple[Field, ...] = ()
    check: Callable = no_check
    scores: Callable = only_magnitude
    channel_scores: Callable | None = None
    provides: tuple[str, ...] = ()
    levels: Callable = levels
    prunes: bool = True
    rewinds_late: bool = False
    is_chained: Callable = lambda config: False
    update_steps: Callable | None = None
    search_steps: Callable | None = None
    subject: Callable = lambda config: "ticket"
    title: Callable = lambda config: config.experiment
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    apart: Callable = lambda config: ""

    def __post_init__(self):
        if taken := [name for name in self.columns if name in ROUND_COLUMNS]:
            raise ValueError(f"method {self.name!r}: every run has the columns {', '.join(taken)} already")

    source: Callable | None = None
    rounds: Callable | None = None
