"""Iterative magnitude pruning with late rewinding."""

from jaxtickets.experiments.run import Run
from jaxtickets.pruning import magnitude, prune, sparsities
from jaxtickets.train import rewind


def imp(run: Run) -> None:
    """Finds tickets of growing sparsity (Frankle et al. 2020, algorithm 2; for generative models Kalibhat et al. 2021).

    Train the dense network; then, round after round, prune the smallest of the remaining weights, take
    the kept ones back to the rewind point, and train again.
    """
    options = run.config.prune
    masks, start = run.dense_masks, run.initial_state
    for round_, sparsity in enumerate(sparsities(options.rate, options.rounds)):
        if round_ > 0:
            masks = run.saved_masks(round_) or prune(
                magnitude(run.trained.params, masks), masks, sparsity, options.scope, options.min_per_layer
            )
            start = rewind(run.rewind_point, masks)
        run.round(round_, masks, start)
