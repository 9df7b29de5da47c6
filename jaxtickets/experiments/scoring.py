"""What a run's scores are made from: `jaxtickets.pruning.scores` names it, this finds it."""

import inspect

from jaxtickets import masks as mask_lib
from jaxtickets import pruning

# For each argument that a score can have beside parameters and masks: where a run has it.
EVIDENCE = {
    "start": lambda run, state, masks: run.rewind_point.params,
    "movement": lambda run, state, masks: state.movement,
    "seed": lambda run, state, masks: run.seed,
    "losses": lambda run, state, masks: run.setup.losses,
    "tempered_losses": lambda run, state, masks: run.setup.tempered_losses,
    "batches": lambda run, state, masks: [
        run.setup.scoring_batch(state, masks, step) for step in range(run.config.prune.score_batches)
    ],
    "flows": lambda run, state, masks: run.setup.flows,
}


def pruned(run, state, masks, sparsity: float):
    """`masks` pruned to `sparsity` by `config.prune.score` of the weights of `state`.

    In one step; or, with a score that is meant for it, in many steps of exponentially falling density.
    """
    options = run.config.prune
    score, steps = pruning.SCORES[options.score], pruning.STEPS.get(options.score, 1)
    wanted = list(inspect.signature(score).parameters)[2:]
    before = 1 - mask_lib.sparsity(masks)
    for step in range(1, steps + 1):
        scores = score(state.params, masks, **{name: EVIDENCE[name](run, state, masks) for name in wanted})
        target = sparsity if step == steps else 1 - before * ((1 - sparsity) / before) ** (step / steps)
        masks = pruning.prune(scores, masks, target, options.scope, options.min_per_layer, options.structure)
    return masks
