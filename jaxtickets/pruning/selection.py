"""Selection: from scores and a sparsity to masks, with exact counts and ties broken by position."""

import logging

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError

SCOPES = ("global", "layerwise")


def sparsities(rate: float, rounds: int) -> list[float]:
    """The sparsity after 0, 1, ..., `rounds` rounds that each prune `rate` of what remains: 1 - (1 - rate)^n."""
    return [1 - (1 - rate) ** done for done in range(rounds + 1)]


def _keep_highest(scores, kept, n_keep):
    """Of the `kept` entries of a flat array the `n_keep` highest; among equal scores the first ones stay."""
    candidates = np.flatnonzero(kept)
    values = scores[candidates]
    n_prune = candidates.size - n_keep
    chosen = np.ones(candidates.size, bool)
    if n_prune > 0:
        threshold = np.partition(values, n_prune - 1)[n_prune - 1]
        chosen[values < threshold] = False
        ties = np.flatnonzero(values == threshold)
        n_tied = n_prune - np.count_nonzero(~chosen)
        chosen[ties[ties.size - n_tied :]] = False
    result = np.zeros(kept.size, bool)
    result[candidates[chosen]] = True
    return result


def _protect(scores, kept, sizes, n):
    """`scores` with the `n` highest kept entries of each layer raised above all others."""
    scores = scores.copy()
    start = 0
    for size in sizes:
        layer = slice(start, start + size)
        top = _keep_highest(scores[layer], kept[layer], min(n, np.count_nonzero(kept[layer])))
        scores[layer][top] = np.inf
        start += size
    return scores


def prune(scores, masks, sparsity: float, scope: str = "global", min_per_layer: int = 0):
    """The masks, nested in `masks`, that prune exactly `round(sparsity * weights)` of the prunable weights.

    Args:
      scores: a pytree like `masks`, higher where a weight matters more.
      masks: the masks so far; what they prune stays pruned.
      sparsity: the total sparsity to reach, pruned / prunable, in [0, 1).
      scope: "global" compares all layers with one threshold; "layerwise" prunes each layer to `sparsity`.
      min_per_layer: at least so many weights stay in each layer. 0 allows a layer to be emptied, with a
        warning that names it.

    Raises:
      UserError: `sparsity` is below what `masks` prune already, or leaves less than `min_per_layer` asks for.
      ValueError: a score is not a number.
    """
    names, leaves = zip(*mask_lib.named_leaves(masks).items(), strict=True)
    kept = [np.asarray(leaf).ravel() for leaf in leaves]
    flat_scores = [np.asarray(leaf, np.float32).ravel() for leaf in jax.tree.leaves(scores)]
    for name, leaf in zip(names, flat_scores, strict=True):
        if np.isnan(leaf).any():
            raise ValueError(f"the scores of {name} are not numbers (NaN): did training diverge?")
    if scope == "global":
        groups = [range(len(names))]
    elif scope == "layerwise":
        groups = [[index] for index in range(len(names))]
    else:
        raise UserError(f"prune.scope: {scope!r} is unknown; allowed: {', '.join(SCOPES)}")

    pruned = [None] * len(names)
    for group in groups:
        sizes = [kept[index].size for index in group]
        group_scores = np.concatenate([flat_scores[index] for index in group])
        group_kept = np.concatenate([kept[index] for index in group])
        n_keep = group_kept.size - round(sparsity * group_kept.size)
        where = "the network" if scope == "global" else names[group[0]]
        if n_keep > np.count_nonzero(group_kept):
            already = 1 - np.count_nonzero(group_kept) / group_kept.size
            raise UserError(f"sparsity: {sparsity:g} of {where} is below the {already:g} that is pruned already")
        if min_per_layer:
            if n_keep < sum(min(min_per_layer, size) for size in sizes):
                raise UserError(
                    f"sparsity: {sparsity:g} leaves {n_keep} weights in {where}, fewer than "
                    f"prune.min_per_layer={min_per_layer} asks for over {len(sizes)} layers"
                )
            group_scores = _protect(group_scores, group_kept, sizes, min_per_layer)
        selected = _keep_highest(group_scores, group_kept, n_keep)
        for index, part in zip(group, np.split(selected, np.cumsum(sizes)[:-1]), strict=True):
            pruned[index] = part.reshape(leaves[index].shape)

    for name, before, after in zip(names, kept, pruned, strict=True):
        if before.any() and not after.any():
            logging.getLogger(__name__).warning(
                "pruning emptied %s: nothing flows through it; prune.min_per_layer=1 keeps a weight in each layer", name
            )
    return jax.tree.unflatten(jax.tree.structure(masks), pruned)
