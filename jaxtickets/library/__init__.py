"""The library: pruning in a training loop of one's own, with any network. No config, no flags, no global state."""

from jaxtickets.library.channel_names import axis_names
from jaxtickets.library.lottery import Round, imp
from jaxtickets.library.networks import axes
from jaxtickets.library.schedules import Schedule
from jaxtickets.library.states import rewind
from jaxtickets.library.transformations import SparseState, masked, masks_of, sparsify, straight_through

__all__ = [
    "Round",
    "Schedule",
    "SparseState",
    "axes",
    "axis_names",
    "imp",
    "masked",
    "masks_of",
    "rewind",
    "sparsify",
    "straight_through",
]
