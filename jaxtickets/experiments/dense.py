"""The dense run alone."""

from jaxtickets.experiments.method import Method
from jaxtickets.experiments.protocol import Run


def dense(run: Run) -> None:
    """Trains the whole network once: round 0 of every other experiment."""
    run.round(0, run.dense_masks, run.initial_state)


DENSE = Method("dense", dense, levels=lambda options: [0.0], prunes=False, rewinds_late=True)
