"""Selection: from scores and a sparsity to masks, with exact counts and ties broken by position."""

import logging
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import pytrees
from jaxtickets.checks import check_count, check_share
from jaxtickets.errors import UserError
from jaxtickets.pruning import traced
from jaxtickets.pruning.pools import check_enough, check_floor, extents, pools_of, protected_units, raise_none_left
from jaxtickets.pruning.structures import known_axes, n_of_m, parse_structure, unit_ids, warn_of_dense

SAMPLE = 1 << 18  # The number of scores that are sorted to guess where the threshold is.
CHUNK = 1 << 18  # The number of scores that are compared at a time, so that they stay in a core's cache.


class _Layer(NamedTuple):
    """One prunable leaf as units that are pruned whole. `ids` gives the unit of each weight; None: each is its own."""

    name: str
    component: str
    shape: tuple[int, ...]
    ids: np.ndarray | None
    scores: np.ndarray  # The mean over a unit's weights.
    kept: np.ndarray
    sizes: np.ndarray | None  # The weights of a unit; None: one each.

    @property
    def weights(self) -> int:
        return int(np.prod(self.shape))

    @property
    def kept_weights(self) -> int:
        return int(np.count_nonzero(self.kept) if self.sizes is None else self.sizes[self.kept].sum())


def _finite(name: str, scores) -> np.ndarray:
    """Scores in float32.

    Raises:
      UserError: one is infinite or no number.
    """
    scores = np.asarray(scores, np.float32)
    if scores.size and not np.isfinite([scores.min(), scores.max()]).all():
        raise UserError(f"scores: those of {name} are not finite; allowed are finite numbers (did training diverge?)")
    return scores


def _layer(path, mask, scores, structure, axes):
    name, component = mask_lib.path_name(path), mask_lib.component_name(path)
    mask, scores = np.asarray(mask), _finite(name, scores)
    if structure.kind == "weight":
        return _Layer(name, component, mask.shape, None, scores.ravel(), mask.ravel(), None)
    ids = unit_ids(mask.shape, structure, axes.get(name)).ravel()
    sizes = np.bincount(ids)
    means = (np.bincount(ids, weights=scores.ravel().astype(np.float64)) / sizes).astype(np.float32)
    return _Layer(name, component, mask.shape, ids, means, np.bincount(ids, weights=mask.ravel()) > 0, sizes)


def _layers(masks, scores, structure, kernels):
    flat = jax.tree_util.tree_flatten_with_path(masks)[0]
    return [_layer(path, mask, own, structure, kernels) for (path, mask), own in zip(flat, scores, strict=True)]


def keep_highest(scores, kept, n_keep, sizes=None):
    """Of the `kept` entries the highest, `n_keep` weights in all; among equal scores the first ones stay.

    Entries of several weights (`sizes`) can't always meet `n_keep`: then it is the number that comes nearest, or what
    those with a score of infinity have.

    Args:
      scores: lists of flat arrays, as `kept` and `sizes`; all their entries are compared, one array after the other.

    Returns:
      A list of masks like `kept`.
    """
    if sizes is not None:
        return _keep_nearest(scores, kept, n_keep, sizes)
    n_prune = sum(map(np.count_nonzero, kept)) - n_keep
    if n_prune <= 0:
        return [candidates.copy() for candidates in kept]
    threshold = _nth_lowest(scores, kept, n_prune)
    chosen = []
    for values, candidates in zip(scores, kept, strict=True):
        chosen.append(values > threshold)
        chosen[-1] &= candidates
    n_tied = n_keep - sum(map(np.count_nonzero, chosen))
    for values, candidates, above in zip(scores, kept, chosen, strict=True):
        if n_tied <= 0:
            break
        ties = np.flatnonzero(candidates & (values == threshold))[:n_tied]
        above[ties] = True
        n_tied -= ties.size
    return chosen


def _nth_lowest(scores, kept, n):
    """The n-th lowest of the kept scores, counted from 1.

    Those below the range where a sample says that it is are only counted, and few are copied: fresh memory for all of
    them would take longer than all the rest. Where the sample was a bad one, all are candidates.
    """
    for low, high in (_likely_range(scores, kept, n), (-np.inf, np.inf)):
        below, parts = 0, []
        for values, candidates in zip(scores, kept, strict=True):
            for start in range(0, values.size, CHUNK):
                part, own = values[start : start + CHUNK], candidates[start : start + CHUNK]
                is_below = part < low
                below += int(np.count_nonzero(is_below & own))
                parts.append(part[~(is_below | (part > high)) & own])
        between = np.concatenate(parts)
        if below < n <= below + between.size:
            break
    between.partition(n - below - 1)
    return between[n - below - 1]


def _likely_range(scores, kept, n):
    stride = sum(values.size for values in scores) // SAMPLE + 1
    samples = [values[::stride][candidates[::stride]] for values, candidates in zip(scores, kept, strict=True)]
    sample = np.sort(np.concatenate(samples))
    place, margin = n * sample.size // sum(map(np.count_nonzero, kept)), 2 * math.isqrt(SAMPLE)
    low = sample[place - margin] if place >= margin else -np.inf
    high = sample[place + margin] if place + margin < sample.size else np.inf
    return low, high  # At least four standard deviations to each side.


def _keep_nearest(scores, kept, n_keep, sizes):
    candidates, values = np.concatenate(kept), np.concatenate(scores)
    order = np.flatnonzero(candidates)
    order = order[np.argsort(-values[order], kind="stable")]
    totals = np.concatenate([[0], np.cumsum(np.concatenate(sizes)[order])])
    chosen = candidates & np.isposinf(values)
    chosen[order[: np.abs(totals - n_keep).argmin()]] = True
    return np.split(chosen, np.cumsum([leaf.size for leaf in kept])[:-1])


def _protect(layers, n):
    """The layers with the scores of their `n` highest kept units raised above all others."""
    protected = []
    for layer in layers:
        scores = layer.scores.copy()
        scores[keep_highest([scores], [layer.kept], min(n, np.count_nonzero(layer.kept)))[0]] = np.inf
        protected.append(layer._replace(scores=scores))
    return protected


def prune(
    scores,
    masks,
    sparsity: float,
    scope: str = "global",
    min_per_layer: int = 0,
    structure: str = "weight",
    axes=None,
    *,
    prefix: str = "",
    warns: bool = True,
) -> Any:
    """The masks, nested in `masks`, that prune `round(sparsity * weights)` of the prunable weights.

    The count is exact when single weights are pruned; of whole filters or blocks, as many as come nearest to it.

    Within a compiled function, where scores or masks are traced, the masks are the same (`pruning.traced`), and what
    does not depend on traced values is checked as it is compiled. What depends on them can't be: the masks stay as they
    are if a score is not finite, or if nothing would be left, and no warning tells of an emptied layer. "uniform" and
    "erk" share by how much each layer has left, so there they take masks that are not traced. The sparsity is a number.

    Args:
      scores: a pytree like `masks`, higher where a weight matters more; of a filter or a block the mean counts.
      masks: the masks so far; what they prune stays pruned.
      sparsity: the total sparsity to reach, pruned / prunable, in [0, 1).
      scope: what one threshold decides over: "global" all layers together; "component" those of one component;
        "layerwise" each layer, to the same sparsity; "uniform" and "erk" each layer, to its share of one exact
        total (see `densities`).
      min_per_layer: the number of weights (filters, blocks) that stay in each layer at least. 0 allows a layer to be
        emptied, with a warning that names it, but not all of them; of filters one always stays.
      structure: "weight"; "filter", the weights of one output channel; "block:RxC", R inputs x C outputs at one
        position of a kernel; "N:M", N of each M consecutive weights along the input axis (`sparsity` must be
        1 - N/M). A layer whose inputs M doesn't divide stays as it is, with a warning that names it.
      axes: the input and output axes of the kernels, where their names do not tell (`pruning.axes`): a function from a
        leaf's slash-joined path to a pair of numbers, such as `lambda path: (1, 0)` for `[out, in, ...]`, or a tree
        of such pairs like `masks`, such as `jt.axes(module)`. Only structures other than "weight" read it.
      prefix: what stands before the names of arguments in messages; "prune." makes them those of the config's fields.
      warns: whether warnings are logged, of layers that are emptied or that N:M does not fit.

    Raises:
      UserError: an argument is not what it can be, `sparsity` is below what `masks` prune already, leaves nothing, or
        less than `min_per_layer` asks for, or is not what `structure` gives, or the axes of a leaf are not known,
        or N:M fits no layer, or a score is not a number.
    """
    sparsity, units = check_share(sparsity, "sparsity"), parse_structure(structure)
    min_per_layer = check_count(min_per_layer, "min_per_layer")
    if units.kind == "channel":
        raise UserError("structure: 'channel': allowed are the others; channels are selected by jt.channels.select")
    pytrees.check_fit(masks, masks)
    flat_scores = [leaf for _, leaf, _ in pytrees.pairs(scores, masks, "scores", "masks")]
    pytrees.check_some(masks)
    named, kernels = mask_lib.named_leaves(masks), known_axes(masks, structure, axes)
    only = units.sparsity
    if only is not None and abs(sparsity - only) > 1e-6:
        raise UserError(f"sparsity: {sparsity:g} can't be had: it is {only:g} with structure {structure}")
    if warns:
        warn_of_dense(masks, units, kernels)
    is_traced, protect = _is_traced((scores, masks)), protected_units(units, min_per_layer)
    if units.kind == "n:m":
        if is_traced:
            return traced.select(scores, masks, [], units, kernels)
        pruned = [
            n_of_m(np.asarray(mask), _finite(name, leaf), *units.sizes, kernels.get(name))
            for (name, mask), leaf in zip(named.items(), flat_scores, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(masks), pruned)
    if is_traced:
        layers = _layers_to_trace(masks, scope, units, kernels)
    else:
        layers = _layers(masks, flat_scores, units, kernels)
    pools = pools_of(layers, sparsity, scope)
    for where, indices, n_keep in pools:
        check_enough(n_keep, [layers[index] for index in indices], sparsity, where)
    check_floor(pools, layers, sparsity, units, min_per_layer, prefix)
    if is_traced:
        return traced.select(scores, masks, pools, units, kernels, protect)
    protected = _protect(layers, protect) if protect else layers
    pruned = [None] * len(layers)
    for _, indices, n_keep in pools:
        pool = [protected[index] for index in indices]
        sizes = None if pool[0].sizes is None else [layer.sizes for layer in pool]
        selected = keep_highest([layer.scores for layer in pool], [layer.kept for layer in pool], n_keep, sizes)
        for index, layer, chosen in zip(indices, pool, selected, strict=True):
            if layer.ids is not None:
                chosen = chosen[layer.ids] & np.asarray(named[layer.name]).ravel()
            pruned[index] = chosen.reshape(layer.shape)
    if not any(leaf.any() for leaf in pruned):
        raise_none_left(layers, sparsity)
    if warns:
        _warn_of_emptied(named, pruned, prefix)
    return jax.tree.unflatten(jax.tree.structure(masks), pruned)


def _is_traced(tree):
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _layers_to_trace(masks, scope, structure, kernels):
    """What the layers' numbers of weights are decided by; of traced masks, as if all weights were kept.

    Raises:
      UserError: the scope needs more than that.
    """
    if not _is_traced(masks):
        return _layers(masks, [np.zeros(mask.shape) for mask in jax.tree.leaves(masks)], structure, kernels)
    if scope in ("uniform", "erk"):
        raise UserError(
            f"masks: are traced, and scope {scope!r} shares by how much each layer has left; allowed within a compiled "
            "function are masks from outside of it, or another scope"
        )
    return extents(masks)


def _warn_of_emptied(named, pruned, prefix):
    """A warning names every layer that has just been emptied, biases aside."""
    for (name, before), after in zip(named.items(), pruned, strict=True):
        if np.any(before) and not after.any() and not name.endswith("bias"):
            logging.getLogger(__name__).warning(
                "pruning emptied %s: nothing flows through it; %smin_per_layer=1 keeps a weight in each layer",
                name,
                prefix,
            )
