"""Experiments by name, each a short recipe over a `Run`."""

from jaxtickets.experiments.dense import dense
from jaxtickets.experiments.imp import imp
from jaxtickets.experiments.run import Run, discard_from
from jaxtickets.experiments.verdict import judge

EXPERIMENTS = {"dense": dense, "imp": imp}

__all__ = ["EXPERIMENTS", "Run", "dense", "discard_from", "imp", "judge"]
