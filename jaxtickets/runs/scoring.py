"""Inputs of the pruning scores: collects from a run whatever each score's signature asks for, and prunes by it."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import config as config_lib
from jaxtickets import masks as mask_lib
from jaxtickets import models, pruning, pytrees
from jaxtickets.errors import UserError
from jaxtickets.pruning import SCORES, channels
from jaxtickets.pruning.score import needs

# For each argument that a score may have after its first two: where a run has it.
INPUTS = {
    "start": lambda run, state, masks: run.rewind_point.params,
    "movement": lambda run, state, masks: state.movement,
    "seed": lambda run, state, masks: run.seed,
    "initial": lambda run, state, masks: run.initial_state.params,
    "batch_stats": lambda run, state, masks: state.batch_stats,
    "axes": lambda run, state, masks: run.networks.axes,
    "losses": lambda run, state, masks: run.setup.losses,
    "tempered_losses": lambda run, state, masks: run.setup.tempered_losses,
    "batches": lambda run, state, masks: [
        run.setup.scoring_batch(state, masks, step) for step in range(run.config.prune.score_batches)
    ],
    "flows": lambda run, state, masks: run.setup.flows,
}


def pruned(run, state, masks, level: float):
    """`masks` pruned to a level (`config.prune.target`) by `config.prune.score` of the weights of `state`.

    In one step; or, with a score that is meant for it, in many steps of exponentially falling density. A pruned channel
    takes all weights with it that make or read it.

    Args:
      run: a run, or an object with the attributes that `INPUTS` and this module read.
    """
    score, options = SCORES[run.config.prune.score], run.config.prune
    before = 1 - mask_lib.sparsity(masks)
    for step in range(1, score.steps + 1):
        target = level if step == score.steps else 1 - before * ((1 - level) / before) ** (step / score.steps)
        if options.structure == "channel":
            scores = _channel_scores(run, score, state, masks)
            masks = _without_channels(run.networks, *_with_filters(run.networks, state.params, scores), target)
        else:
            scores = _weight_scores(run, score, state, masks)
            how = options.scope, options.min_per_layer, options.structure, run.networks.axes
            masks = pruning.prune(scores, masks, target, *how, prefix="prune.")
    return masks


def _inputs(function, first, second, run, state, masks):
    """`function(first, second, ...)` with what its further arguments are called."""
    return function(first, second, **{name: INPUTS[name](run, state, masks) for name in needs(function)})


def _channel_scores(run, score, state, masks):
    names = run.networks.axis_names.params
    if score.channels is not None:
        return _inputs(score.channels, state.params, names, run, state, masks)
    return channels.filter_mean(_weight_scores(run, score, state, masks), names, run.networks.axes)


def _weight_scores(run, score, state, masks):
    """The scores of the prunable weights.

    Raises:
      ValueError: the score's function has returned another tree, or a leaf of another shape.
    """
    scores = _inputs(score.weights, state.params, masks, run, state, masks)
    shapes, expected = (
        {name: np.shape(leaf) for name, leaf in mask_lib.named_leaves(t).items()} for t in (scores, masks)
    )
    if shapes != expected:
        wrong = next(name for name in {**expected, **shapes} if shapes.get(name) != expected.get(name))
        here, there = shapes.get(wrong, "no leaf"), expected.get(wrong, "none, since it is not prunable")
        raise ValueError(f"score {score.name!r}: its leaf {wrong} is {here}; allowed is a tree like the masks: {there}")
    return scores


def _with_filters(networks, params, scores):
    """`(channel scores, names of the groups that are ranked on their own)`, as `channels.select` takes them.

    Channels that have no score go by the L1 norm of their filters, each group on its own.
    """
    filters = channels.filter_l1(params, networks.axis_names.params, networks.axes)
    alone = mask_lib.named_leaves(filters).keys() - mask_lib.named_leaves(scores).keys()
    return {component: {**own, **scores.get(component, {})} for component, own in filters.items()}, alone


def _without_channels(networks, scores, alone, level):
    """The masks with the channels pruned that have the lowest scores, as many as the level says."""
    options, names = networks.config.prune, networks.axis_names.params
    scores = channels.prunable(scores, networks.dense_masks, names)
    how = {"scope": options.scope, "min_channels": max(1, options.min_per_layer), "alone": alone}
    how["multiple"] = options.channel_multiple
    if options.target == "flops":
        cost = lambda kept: networks.flops_with(kept) / networks.flops()  # noqa: E731
        kept = channels.select_by_cost(scores, cost, 1 - level, **how)
    else:
        kept = channels.select(scores, level, **how)
    return jax.tree.map(
        lambda ones, mask: mask if ones is not None and mask is not None else ones,
        networks.dense_masks,
        channels.to_weight_masks(kept, networks.params, names),
        is_leaf=pytrees.is_hole,
    )


def check(networks) -> None:
    """Refuses, before anything is trained, what these networks can't be pruned by, or to.

    Raises:
      UserError: the score does not apply to a component, the axes that the structure goes along are not known, the
        network has no channel that the score is for, or a level leaves no weight, or too few channels of some name.
    """
    options, names = networks.config.prune, networks.axis_names
    score = SCORES[options.score]
    if unknown := set(needs(score.weights) + needs(score.channels)) - INPUTS.keys():
        raise ValueError(f"score {score.name!r} asks for {', '.join(unknown)}; allowed are {', '.join(INPUTS)}")
    if "flows" in needs(score.weights):
        models.check_flows(networks.objective.components)
    pruning.known_axes(networks.dense_masks, options.structure, networks.axes)
    if options.structure != "channel":
        weights = mask_lib.counts(networks.dense_masks).weights
        if emptying := [level for level in networks.levels if round(level * weights) == weights]:
            raise UserError(f"config.prune: a sparsity of {emptying[0]:g} leaves none of {weights:,} weights")
        return
    params, stand_ins = _stand_ins(networks)
    scores = channels.filter_l1(params, names.params, networks.axes)
    if score.channels is not None and set(needs(score.channels)) <= stand_ins.keys():
        scores = score.channels(params, names.params, **{name: stand_ins[name] for name in needs(score.channels)})
        if not any(scores.values()):
            others = [other.name for other in SCORES.values() if _scores_all(other, networks.config)]
            raise UserError(
                f"config.prune.score={score.name!r}: allowed are {', '.join(others)} with config.model.name="
                f"{networks.config.model.name!r}, which has no {score.wants}"
            )
    for level in networks.levels[1:]:
        try:
            _without_channels(networks, *_with_filters(networks, params, scores), level)
        except UserError as error:
            raise UserError(f"config.prune: {level:g} can't be had with structure 'channel': {error}") from None


def _stand_ins(networks):
    """`(parameters, inputs)` that stand in for a run's, where it only matters which channels a score is for."""
    ones = lambda tree: jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), tree)  # noqa: E731
    params, batch_stats = ones(networks.params), ones(networks.batch_stats)
    inputs = {"initial": params, "batch_stats": batch_stats, "losses": {tuple(params): _sum}, "batches": [None]}
    inputs["axes"] = networks.axes
    return params, inputs


def _sum(params, batch):
    del batch
    return sum(map(jnp.sum, jax.tree.leaves(params)))


def _scores_all(score, config):
    """Whether the method prunes by this score, which reads filters alone, so that every network has its channels."""
    is_of_filters = score.weights is None and not set(needs(score.channels)) - {"initial", "axes"}
    return is_of_filters and config_lib.method(config).channel_scores(score)
