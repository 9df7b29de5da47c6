"""Methods by name, each a short recipe over the `Run` protocol."""

from jaxtickets.experiments.at_init import AT_INIT
from jaxtickets.experiments.branch import BRANCH
from jaxtickets.experiments.dense import DENSE
from jaxtickets.experiments.early_bird import EARLY_BIRD
from jaxtickets.experiments.imp import IMP
from jaxtickets.experiments.method import Method
from jaxtickets.experiments.one_shot import ONE_SHOT
from jaxtickets.experiments.protocol import Run
from jaxtickets.experiments.sparse_training import GRADUAL, RIGL, SET
from jaxtickets.experiments.ticket import TICKET
from jaxtickets.experiments.transfer import TRANSFER
from jaxtickets.fields import Registry

METHODS = Registry(
    "experiment", DENSE, IMP, ONE_SHOT, EARLY_BIRD, AT_INIT, GRADUAL, SET, RIGL, BRANCH, TRANSFER, TICKET
)

__all__ = ["METHODS", "Method", "Run"]
