"""Rivals whose masks change during one training: gradual magnitude pruning, SET and RigL.

Each sparsity is a training of its own from the initialisation, with as many steps as the dense run has.
"""

from jaxtickets import pruning
from jaxtickets.experiments.run import Run
from jaxtickets.train import rewind


def gradual(run: Run) -> None:
    """From dense to sparse while training, by magnitude on a cubic schedule (Zhu, Gupta 2017, equation 1)."""
    options, steps = run.config.prune, run.setup.update_steps

    def update_to(sparsity):
        def update(step, state, masks):
            target = pruning.cubic(sparsity, (steps.index(step) + 1) / len(steps))
            scores = pruning.magnitude(state.params, masks)
            return pruning.prune(scores, masks, target, options.scope, options.min_per_layer, options.structure)

        return update

    run.round(0, run.dense_masks, run.initial_state)
    for round_, sparsity in enumerate(run.levels[1:], start=1):
        run.round(round_, run.dense_masks, run.initial_state, update_to(sparsity))


def sparse_evolutionary(run: Run) -> None:
    """SET: a random sparse network whose smallest weights make room for random ones (Mocanu et al. 2018)."""
    _sparse_from_the_start(run, lambda step, state, masks: pruning.random(state.params, masks, run.seed + (step << 32)))


def rigl(run: Run) -> None:
    """RigL: a random sparse network whose smallest weights make room where the loss's gradient is largest.

    Evci et al. 2020, algorithm 1: the gradient of the batch that comes next, with respect to the absent weights too.
    """

    def growth(step, state, masks):
        gradients = pruning.gradients(
            state.params, masks, run.setup.losses, [run.setup.scoring_batch(state, masks, step)]
        )
        return pruning.magnitude(gradients, masks)

    _sparse_from_the_start(run, growth)


def _sparse_from_the_start(run, growth):
    """Trains with a random mask, of which a share that falls with a cosine is exchanged in every update."""
    options, last = run.config.prune, run.setup.update_steps[-1]

    def update(step, state, masks):
        fraction = pruning.cosine(options.drop_fraction, step / last)
        return pruning.drop_and_grow(state.params, masks, growth(step, state, masks), fraction)

    run.round(0, run.dense_masks, run.initial_state)
    for round_, sparsity in enumerate(run.levels[1:], start=1):
        scores = pruning.random(run.initial_state.params, run.dense_masks, run.seed)
        masks = pruning.prune(scores, run.dense_masks, sparsity, options.scope, options.min_per_layer)
        run.round(round_, masks, rewind(run.initial_state, masks), update)
