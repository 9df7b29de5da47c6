"""Winning lottery tickets in deep generative models, in functional JAX.

`import jaxtickets as jt` loads nothing else; each name is loaded when it is first used.

Masks and pruning, pure functions over the parameters of any network:
  masks: the algebra of masks: `jt.masks.ones(params)`, `jt.masks.apply(params, masks)`, `jt.masks.sparsity(masks)`, ...
  prune: scores and a sparsity -> masks.
  magnitude, snip, grasp, synflow: scores of weights.
  channels: scores of channels -> channel masks -> masks of weights.
  axes: the input and output axes of a module's weights, for structures other than single weights.
  axis_names: the channels of any network, found in what it computes.
  compact: takes pruned channels out of parameters and train states.
  pruning: all scores, and the sparsities of rounds: `jt.pruning.movement`, `jt.pruning.sparsities`, ...

In a training loop of one's own:
  imp: the lottery loop around a training function.
  rewind: a train state whose pruned weights and their moments are zero.
  masked, sparsify: Optax transformations with fixed masks, and with masks that change by one of `schedules`.
  schedules: gradual, one_shot, static, rigl, sparse_evolutionary.
  masks_of: the masks in an Optax state.
  straight_through: effective weights whose gradients pass as if nothing were pruned.

Training and experiments:
  models: networks by name, and what can be asked of them.
  train: the train state, rewinding, the compiled step, and the training loop with its hooks.
  get_config: the config with every field at its default.
  run: runs or resumes an experiment in a workdir.
  Workdir: the files of a run.
  load_ticket: a ticket file, opened like a model: `jt.load_ticket(path).sample(64)`.
  save_ticket: masks and parameters of any network in a ticket file.
  UserError: the exception for a mistake that the user can mend.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtickets import compact, masks, models, pruning, train
    from jaxtickets.config import get_config
    from jaxtickets.errors import UserError
    from jaxtickets.library import (
        axes,
        axis_names,
        imp,
        masked,
        masks_of,
        rewind,
        schedules,
        sparsify,
        straight_through,
    )
    from jaxtickets.main import run
    from jaxtickets.pruning import channels, grasp, magnitude, prune, snip, synflow
    from jaxtickets.tickets import load_ticket, save_ticket
    from jaxtickets.workdir import Workdir

__version__ = "0.1.0"

_PLACES = {
    **dict.fromkeys(("compact", "masks", "models", "pruning", "train"), "jaxtickets"),
    **dict.fromkeys(
        ("axes", "axis_names", "imp", "masked", "masks_of", "rewind", "schedules", "sparsify", "straight_through"),
        "jaxtickets.library",
    ),
    **dict.fromkeys(("channels", "grasp", "magnitude", "prune", "snip", "synflow"), "jaxtickets.pruning"),
    "UserError": "jaxtickets.errors",
    "Workdir": "jaxtickets.workdir",
    "get_config": "jaxtickets.config",
    "load_ticket": "jaxtickets.tickets",
    "run": "jaxtickets.main",
    "save_ticket": "jaxtickets.tickets",
}

__all__ = [
    "UserError",
    "Workdir",
    "axes",
    "axis_names",
    "channels",
    "compact",
    "get_config",
    "grasp",
    "imp",
    "load_ticket",
    "magnitude",
    "masked",
    "masks",
    "masks_of",
    "models",
    "prune",
    "pruning",
    "rewind",
    "run",
    "save_ticket",
    "schedules",
    "snip",
    "sparsify",
    "straight_through",
    "synflow",
    "train",
]


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PLACES[name]
    is_module = place == __name__ or name in ("channels", "schedules")
    return importlib.import_module(f"{place}.{name}") if is_module else getattr(importlib.import_module(place), name)


def __dir__() -> list[str]:
    return __all__
