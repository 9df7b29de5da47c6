"""The dense run alone."""

from jaxtickets.experiments.run import Run


def dense(run: Run) -> None:
    """Trains the whole network once: round 0 of every other experiment."""
    run.round(0, run.dense_masks, run.initial_state)
