"""Winning lottery tickets in deep generative models, in functional JAX.

`import jaxtickets as jt` loads nothing else; each name is loaded when it is first used.

Masks and pruning, pure functions over any Flax parameters:
  masks: the algebra of masks: `jt.masks.ones(params)`, `jt.masks.apply(params, masks)`, `jt.masks.sparsity(masks)`, ...
  prune: scores and a sparsity -> masks.
  magnitude, snip, grasp, synflow: scores of weights.
  channels: scores of channels -> channel masks -> masks of weights.
  flax_axes: the input and output axes of a Flax module's kernels, for structures other than single weights.
  compact: takes pruned channels out of parameters and train states.

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
    from jaxtickets import compact, masks, models, train
    from jaxtickets.config import get_config
    from jaxtickets.errors import UserError
    from jaxtickets.main import run
    from jaxtickets.pruning import channels, flax_axes, grasp, magnitude, prune, snip, synflow
    from jaxtickets.tickets import load_ticket, save_ticket
    from jaxtickets.workdir import Workdir

__version__ = "0.1.0"

_PLACES = {
    **dict.fromkeys(("compact", "masks", "models", "train"), "jaxtickets"),
    **dict.fromkeys(("channels", "flax_axes", "grasp", "magnitude", "prune", "snip", "synflow"), "jaxtickets.pruning"),
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
    "channels",
    "compact",
    "flax_axes",
    "get_config",
    "grasp",
    "load_ticket",
    "magnitude",
    "masks",
    "models",
    "prune",
    "run",
    "save_ticket",
    "snip",
    "synflow",
    "train",
]


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PLACES[name]
    is_module = place == __name__ or name == "channels"
    return importlib.import_module(f"{place}.{name}") if is_module else getattr(importlib.import_module(place), name)


def __dir__() -> list[str]:
    return __all__
