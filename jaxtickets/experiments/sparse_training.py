"""Rivals whose masks change during one training: gradual magnitude pruning, SET and RigL.

Each sparsity is a training of its own from the initialisation, with as many steps as the dense run has.
"""

from jaxtickets import pruning
from jaxtickets.experiments.method import Method
from jaxtickets.experiments.protocol import Run
from jaxtickets.fields import Field, fraction_or_steps, refuse, share
from jaxtickets.train import rewind

UPDATE_EVERY = Field(
    "prune.update_every",
    0.02,
    fraction_or_steps(),
    "How often masks change in training: below 1 a fraction of training, else a number of steps.",
)
UPDATE_UNTIL = Field(
    "prune.update_until", 0.75, share(), "The fraction of training after which masks stay as they are."
)
DROP_FRACTION = Field(
    "prune.drop_fraction", 0.3, share(), "The fraction of a layer's weights that the first update exchanges."
)


def gradual(run: Run) -> None:
    """From dense to sparse while training, by magnitude on a cubic schedule (Zhu, Gupta 2017, equation 1)."""
    options, steps = run.config.prune, run.timeline.update_steps

    def update_to(sparsity):
        def update(step, state, masks):
            target = pruning.cubic(sparsity, (steps.index(step) + 1) / len(steps))
            scores = pruning.magnitude(state.params, masks)
            how = options.scope, options.min_per_layer, options.structure, run.networks.axes
            return pruning.prune(scores, masks, target, *how, prefix="prune.")

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
    _sparse_from_the_start(run, lambda step, state, masks: pruning.magnitude(run.gradients(state, masks, step), masks))


def _sparse_from_the_start(run, growth):
    """Trains with a random mask, of which a share that falls with a cosine is exchanged in every update."""
    options, last = run.config.prune, run.timeline.update_steps[-1]

    def update(step, state, masks):
        fraction = pruning.cosine(options.drop_fraction, step / last)
        return pruning.drop_and_grow(state.params, masks, growth(step, state, masks), fraction)

    run.round(0, run.dense_masks, run.initial_state)
    for round_, sparsity in enumerate(run.levels[1:], start=1):
        scores = pruning.random(run.initial_state.params, run.dense_masks, run.seed)
        how = options.scope, options.min_per_layer
        masks = pruning.prune(scores, run.dense_masks, sparsity, *how, prefix="prune.")
        run.round(round_, masks, rewind(run.initial_state, masks), update)


def update_steps(config, steps: int) -> range:
    """The steps of a training of `steps` steps before which masks may change."""
    options = config.prune
    every = max(1, round(options.update_every * steps) if options.update_every < 1 else int(options.update_every))
    last = min(round(options.update_until * steps), steps - 1)
    if every > last:
        refuse("prune.update_every", options.update_every, f"at most the {last} steps of config.prune.update_until")
    return range(every, last + 1, every)


def _check_gradual(config):
    structure, given = config.prune.structure, f"config.experiment={config.experiment!r}"
    if pruning.parse_structure(structure).kind == "n:m":
        refuse("prune.structure", structure, f"one of which any share can be pruned with {given}")


def _check_regrowth(config):
    structure, given = config.prune.structure, f"config.experiment={config.experiment!r}"
    if structure != "weight":
        refuse("prune.structure", structure, f"'weight' with {given}, which exchanges single weights")


_REGROWN = {
    "fields": (UPDATE_EVERY, UPDATE_UNTIL, DROP_FRACTION),
    "check": _check_regrowth,
    "update_steps": update_steps,
}
GRADUAL = Method(
    "gradual", gradual, fields=(UPDATE_EVERY, UPDATE_UNTIL), check=_check_gradual, update_steps=update_steps
)
SET = Method("set", sparse_evolutionary, **_REGROWN)
RIGL = Method("rigl", rigl, **_REGROWN)
