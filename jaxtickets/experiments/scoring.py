"""What a run's scores are made from: `jaxtickets.pruning` names it, this finds it."""

import inspect

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import pruning
from jaxtickets.errors import UserError
from jaxtickets.pruning import channels

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


def pruned(run, state, masks, level: float):
    """`masks` pruned to a level (`config.prune.target`) by `config.prune.score` of the weights of `state`.

    In one step; or, with a score that is meant for it, in many steps of exponentially falling density. Of channels all
    weights are pruned that make or read them.
    """
    options = run.config.prune
    steps = pruning.STEPS.get(options.score, 1)
    before = 1 - mask_lib.sparsity(masks)
    for step in range(1, steps + 1):
        target = level if step == steps else 1 - before * ((1 - level) / before) ** (step / steps)
        if options.structure == "channel":
            masks = _without_channels(run.setup, *_channel_scores(run, state, masks), target)
        else:
            scores = _weight_scores(run, state, masks)
            masks = pruning.prune(scores, masks, target, options.scope, options.min_per_layer, options.structure)
    return masks


def _weight_scores(run, state, masks):
    score = pruning.SCORES[run.config.prune.score]
    wanted = list(inspect.signature(score).parameters)[2:]
    return score(state.params, masks, **{name: EVIDENCE[name](run, state, masks) for name in wanted})


def _channel_scores(run, state, masks):
    """`(scores of the channels, what does not compare with others)`, as `channels.select` takes them.

    Channels without a batch norm, which gamma says nothing about, go by the L1 norm of their filters, name by name.
    """
    score, names = run.config.prune.score, run.setup.axis_names.params
    if score == "gamma":
        return _with_filters(state.params, names, channels.gamma(state.params, names, state.batch_stats))
    if score in pruning.CHANNEL_SCORES:
        return pruning.CHANNEL_SCORES[score](state.params, names), ()
    if score == "random":
        kept = jax.tree.map(lambda size: np.ones(size, bool), channels.groups(state.params, names))
        return pruning.random(kept, kept, run.seed), ()
    return channels.filter_mean(_weight_scores(run, state, masks), names), ()


def _with_filters(params, axis_names, gamma):
    filters = channels.filter_l1(params, axis_names)
    scores = {component: {**own, **gamma[component]} for component, own in filters.items()}
    return scores, mask_lib.named_leaves(filters).keys() - mask_lib.named_leaves(gamma).keys()


def _without_channels(setup, scores, alone, level):
    """The masks without as many channels as the level says."""
    options, names = setup.config.prune, setup.axis_names.params
    scores = channels.prunable(scores, setup.dense_masks, names)
    how = {"scope": options.scope, "min_channels": max(1, options.min_per_layer), "alone": alone}
    how["multiple"] = options.channel_multiple
    if options.target == "flops":
        cost = lambda kept: setup.flops_with(kept) / setup.flops()  # noqa: E731
        kept = channels.select_by_cost(scores, cost, 1 - level, **how)
    else:
        kept = channels.select(scores, level, **how)
    return jax.tree.map(
        lambda ones, mask: mask if ones is not None and mask is not None else ones,
        setup.dense_masks,
        channels.to_weight_masks(kept, setup.params, names),
        is_leaf=lambda leaf: leaf is None,
    )


def check(setup) -> None:
    """Refuses, before anything is trained, channels that can't be pruned to the config's levels.

    Raises:
      UserError: a level leaves too few of some name; or gamma is asked for and there is no batch norm.
    """
    options, names = setup.config.prune, setup.axis_names
    if options.structure != "channel":
        return
    ones = lambda tree: jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), tree)  # noqa: E731
    params = ones(setup.params)
    scores, alone = channels.filter_l1(params, names.params), ()
    if options.score == "gamma":
        gamma = channels.gamma(params, names.params, ones(setup.batch_stats))
        if not any(gamma.values()):
            raise UserError(
                "config.prune.score='gamma': allowed are filter_l1 and filter_l2 with config.model.name="
                f"{setup.config.model.name!r}, which has no batch norm"
            )
        scores, alone = _with_filters(params, names.params, gamma)
    for level in setup.levels[1:]:
        try:
            _without_channels(setup, scores, alone, level)
        except UserError as error:
            raise UserError(f"config.prune: {level:g} can't be had with structure 'channel': {error}") from None
