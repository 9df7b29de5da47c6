"""Structured pruning: scores of channels -> channel masks -> masks of weights.

A channel is whatever the axes of one name have in common (`models.axis_names`): the column of a kernel that makes it,
its scale and bias, the rows of the kernels that read it. A channel mask is `{component: {channel name: [n] bool}}`,
True keeps; a name that is left out keeps all. `axis_names` is a tree like the parameters with a tuple for each leaf.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.pruning.selection import keep_highest, prune

SCOPES = ("global", "component", "layerwise")


def _is_none(leaf):
    return leaf is None


def _leaves(tree, axis_names):
    """`(component, slash-joined path, leaf or None, names of its axes)` of each leaf."""
    flat, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    for (path, leaf), names in zip(flat, structure.flatten_up_to(axis_names), strict=True):
        path = mask_lib.path_name(path)
        yield path.partition("/")[0], path, leaf, names


def groups(params, axis_names) -> dict[str, dict[str, int]]:
    """The number of channels of each name: `{component: {channel name: number}}`.

    Raises:
      ValueError: two axes of one name differ in size.
    """
    sizes = {component: {} for component in params}
    for component, path, leaf, names in _leaves(params, axis_names):
        for name, size in zip(names, leaf.shape, strict=True):
            if name is not None and sizes[component].setdefault(name, size) != size:
                raise ValueError(f"{path} has {size} channels of {name}, another leaf {sizes[component][name]}")
    return sizes


def is_gamma(params, axis_names, batch_stats):
    """A tree like the parameters: whether a leaf is the scale of a batch norm over named channels."""
    means = [path for path in mask_lib.named_leaves(batch_stats) if path.endswith("/mean")]

    def scales(path, names):
        module, _, kind = path.rpartition("/")
        return kind == "scale" and bool(names[-1]) and any(mean.startswith(f"{module}/") for mean in means)

    found = [scales(path, names) for _, path, _, names in _leaves(params, axis_names)]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def gamma(params, axis_names, batch_stats):
    """|scale| of a channel's batch norm (network slimming, Liu et al. 2017, section 3).

    Only a norm with running statistics makes a channel's size its scale, so that sizes compare; names without one are
    not scored. A class-conditional scale counts with the mean over classes, and a name with several norms, such as a
    residual stream that each block normalises, with their mean, so that long streams are not above others.
    """
    found = {component: {} for component in params}
    for component, _, scale, name in _scales(params, axis_names, batch_stats):
        scales = np.abs(np.asarray(scale)).reshape(-1, scale.shape[-1])
        found[component].setdefault(name, []).append(scales.mean(axis=0))
    return _means(found)


def _scales(params, axis_names, batch_stats):
    """`(component, path of the norm, scale, channel name)` of each batch norm over named channels."""
    chosen = jax.tree.leaves(is_gamma(params, axis_names, batch_stats))
    for is_scale, (component, path, leaf, names) in zip(chosen, _leaves(params, axis_names), strict=True):
        if is_scale:
            yield component, path.rpartition("/")[0], leaf, names[-1]


def _means(found):
    """The mean over the norms of each name, of `{component: {name: [[n] scores]}}`."""
    return {
        component: {name: np.mean(norms, axis=0) for name, norms in own.items()} for component, own in found.items()
    }


def gamma_taylor(params, axis_names, batch_stats, losses, batches):
    """(dL/dz)^2 of a gate z behind a channel's batch norm, the mean over batches (Molchanov et al. 2019, section 3).

    To first order it is the squared change of the loss when the channel is taken out. The gate multiplies scale and
    bias, so that dL/dz = scale * dL/dscale + bias * dL/dbias at z = 1, summed over the classes of a conditional norm. A
    name with several norms counts with the mean of their squares; names without a batch norm are not scored.

    Each component is scored by its own loss. The scores of a loss's components are divided by their sum, because each
    loss has a unit of its own.

    Args:
      losses, batches: see `jaxtickets.pruning.scores`.
    """
    scores = {component: {} for component in params}
    for components, loss in losses.items():
        own = {component: params[component] for component in components}
        found = {component: {} for component in own}
        norms = list(_scales(own, {component: axis_names[component] for component in own}, batch_stats))
        if not norms:
            continue
        gates = {norm: np.ones(scale.shape[-1], scale.dtype) for _, norm, scale, _ in norms}
        slopes = [jax.device_get(_gate_gradient(loss, own, gates, batch)) for batch in batches]
        for component, norm, _, name in norms:
            squares = [np.square(slope[norm], dtype=np.float64) for slope in slopes]
            found[component].setdefault(name, []).append(np.mean(squares, axis=0))
        found = _means(found)
        total = sum(leaf.sum() for leaf in jax.tree.leaves(found))
        scores |= jax.tree.map(lambda leaf, total=total: leaf / (total or 1.0), found)
    return scores


@partial(jax.jit, static_argnames="loss")
def _gate_gradient(loss, params, gates, batch):
    """dL/dz of gates z that multiply the scale and the bias of norms: `{path of the norm: [n]}`."""

    def gated(gates):
        def times_gate(path, leaf):
            norm, _, kind = mask_lib.path_name(path).rpartition("/")
            return leaf * gates[norm] if norm in gates and kind in ("scale", "bias") else leaf

        return loss(jax.tree_util.tree_map_with_path(times_gate, params), batch)

    return jax.grad(gated)(gates)


def filter_mean(scores, axis_names):
    """The mean score over all weights that make a channel.

    A mean, because a threshold over several layers would else take those with small filters first. Of a residual stream
    the kernels that write to it count together.

    Args:
      scores: of each weight, like `params`; leaves other than kernels are not read, and may be None.
    """
    sums = {component: {} for component in scores}
    for component, path, leaf, names in _leaves(scores, axis_names):
        if leaf is not None and path.endswith("/kernel") and names[-1]:
            filters = np.asarray(leaf).reshape(-1, leaf.shape[-1])
            total, count = sums[component].get(names[-1], (0, 0))
            sums[component][names[-1]] = total + filters.sum(axis=0), count + len(filters)
    return {component: {name: total / count for name, (total, count) in own.items()} for component, own in sums.items()}


def filter_l1(params, axis_names):
    """The mean of |w| over a channel's filter: its L1 norm (Li et al. 2017, section 3.1) over its number of weights."""
    return filter_mean(jax.tree.map(np.abs, params), axis_names)


def filter_l2(params, axis_names):
    """The root mean square over a channel's filter: its L2 norm over the root of its number of weights."""
    return jax.tree.map(np.sqrt, filter_mean(jax.tree.map(np.square, params), axis_names))


def filter_change(params, axis_names, initial):
    """The mean of |w - w_0| over a channel's filter: how far training has moved it from the initialisation.

    It is 0 before training. The score of weights that it is the mean of is Zhou et al. 2019's, section 4 ("movement").
    """
    return filter_mean(jax.tree.map(lambda leaf, before: np.abs(leaf - before), params, initial), axis_names)


def prunable(scores, masks, axis_names):
    """The scores of those channels that only prunable kernels make and read.

    Args:
      scores: `{component: {channel name: [n]}}`.
      masks: like the parameters, None on leaves that are not to be pruned.
    """
    fixed = {component: set() for component in scores}
    for component, path, leaf, names in _leaves(masks, axis_names):
        if leaf is None and path.endswith("/kernel"):
            fixed[component].update(names)
    return {
        component: {name: leaf for name, leaf in own.items() if name not in fixed[component]}
        for component, own in scores.items()
    }


def _pools(scores, scope, alone):
    """The sizes of the names that one threshold decides over: `{where: [size of each name]}`."""
    pools = {}
    for path, leaf in mask_lib.named_leaves(scores).items():
        component = path.partition("/")[0]
        where = {"global": "the network", "component": f"the {component}", "layerwise": path}[scope]
        pools.setdefault(path if path in alone else where, []).append(leaf.size)
    if not pools:
        raise UserError("there is no channel to prune: no name is scored (gamma scores those with a batch norm)")
    return pools


def select(scores, ratio: float, scope: str = "global", min_channels: int = 1, alone=(), multiple: int = 1):
    """The channel masks that prune the lowest `round(ratio * channels)`; of equal scores the first stay.

    Args:
      scores: `{component: {channel name: [n]}}`, higher where a channel matters more.
      ratio: pruned / scored channels, in [0, 1).
      scope: what one threshold decides over: "global" all channels; "component" those of one component; "layerwise"
        those of one name. Each is pruned to the ratio.
      min_channels: the number of channels that stay of each name at least.
      alone: `component/name` of those whose scores don't compare with others'; each is pruned to the ratio by itself.
      multiple: each name keeps the nearest multiple of this number (or all); the ratio then holds only approximately.

    Raises:
      UserError: nothing is scored, or the ratio leaves less than `min_channels` asks for.
      ValueError: a score is not a number.
    """
    for where, sizes in _pools(scores, scope, alone).items():
        total, free = sum(sizes), sum(max(0, size - min_channels) for size in sizes)
        if round(ratio * total) > free:
            raise UserError(
                f"ratio: {ratio:g} prunes {round(ratio * total)} of {total} channels of {where}, but {min_channels} of "
                f"each of {len(sizes)} names must stay; allowed is at most {math.floor(1e4 * free / total) / 1e4:g}"
            )

    def pruned(is_chosen, scope):
        chosen = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if is_chosen(mask_lib.path_name(path)) else None, scores
        )
        everything = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), chosen)
        return prune(chosen, everything, ratio, scope, min_channels) if jax.tree.leaves(chosen) else everything

    together, apart = pruned(lambda path: path not in alone, scope), pruned(lambda path: path in alone, "layerwise")
    masks = jax.tree.map(lambda a, b: b if a is None else a, together, apart, is_leaf=_is_none)
    if multiple == 1:
        return masks

    def rounded(leaf, mask):
        kept = multiple * max(-(-min_channels // multiple), round(np.count_nonzero(mask) / multiple), 1)
        return keep_highest([np.asarray(leaf, np.float32)], [np.ones(leaf.shape, bool)], kept)[0]

    return jax.tree.map(rounded, scores, masks)


def select_by_cost(
    scores,
    cost: Callable,
    limit: float,
    scope: str = "global",
    min_channels: int = 1,
    alone=(),
    multiple: int = 1,
):
    """The channel masks with the smallest ratio (`select`), to 1e-6, at which `cost(channel masks)` is at most `limit`.

    cost: falls as more is pruned.

    Raises:
      UserError: it is above `limit` at the largest ratio too.
    """
    pools = _pools(scores, scope, alone).values()
    # The largest ratio that `select` takes: a half of a channel more than can go is rounded down.
    high = min(1, *((sum(max(0, size - min_channels) for size in sizes) + 0.5) / sum(sizes) for sizes in pools)) - 1e-6
    how = {"scope": scope, "min_channels": min_channels, "alone": alone, "multiple": multiple}
    chosen = select(scores, high, **how)
    if (least := cost(chosen)) > limit:
        raise UserError(
            f"{limit:.2%} of the FLOPs can't be reached: {least:.2%} are left when {high:.2%} of the channels are "
            f"pruned, as many as can be with {max(min_channels, multiple)} of each name"
        )
    low = 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        masks = select(scores, middle, **how)
        if cost(masks) <= limit:
            chosen, high = masks, middle
        else:
            low = middle
    return chosen


def kept_shares(params, axis_names, channel_masks) -> dict[str, float]:
    """For each leaf, by slash-joined path, the share of its entries that belong to kept channels only."""
    return {
        path: math.prod(mask.mean() for _, mask in along_axes(leaf.shape, names, channel_masks.get(component, {})))
        for component, path, leaf, names in _leaves(params, axis_names)
    }


def along_axes(shape, names, channel_masks) -> list[tuple[int, np.ndarray]]:
    """`[(axis, its channel mask)]` of those axes of a leaf whose name is in `channel_masks`, of one component.

    Raises:
      ValueError: an axis and its mask differ in size.
    """
    found = [(axis, np.asarray(channel_masks[name])) for axis, name in enumerate(names) if name in channel_masks]
    for axis, mask in found:
        if mask.shape != (shape[axis],):
            raise ValueError(f"{shape[axis]} channels of {names[axis]} and a channel mask of shape {mask.shape}")
    return found


def to_weight_masks(channel_masks, params, axis_names):
    """The masks of the weights that belong to kept channels only; `None` on leaves whose axes have no name.

    `masks.apply` with them makes the masked network: a pruned channel has no scale, no bias and no weight that makes or
    reads it, so that it is exactly zero behind its norm and its activation (which keep zeros) and adds to nothing.

    Given batch statistics and their axis names, the same for these. They matter where a spectral norm has not yet
    moved under the mask: its vector must be zero, as it is afterwards, on channels that are pruned.
    """

    def mask_of(own, leaf, names):
        if not any(names):
            return None
        mask = np.ones(leaf.shape, bool)
        for axis, kept in along_axes(leaf.shape, names, own):
            mask &= np.expand_dims(kept, [other for other in range(leaf.ndim) if other != axis])
        return mask

    return {
        component: jax.tree.map(partial(mask_of, channel_masks.get(component, {})), layers, axis_names[component])
        for component, layers in params.items()
    }


def from_weight_masks(masks, axis_names):
    """The channel masks `{component: {channel name: [n] bool}}` that masks of weights amount to.

    A channel is pruned if every kernel that makes or reads it has pruned all that belongs to it. What only one of them
    has emptied stays: a bias can make something of a channel without weights.
    """
    kept = {component: {} for component in masks}
    for component, path, leaf, names in _leaves(masks, axis_names):
        for axis, name in enumerate(names):
            if leaf is not None and path.endswith("/kernel") and name is not None:
                used = np.asarray(leaf).any(axis=tuple(other for other in range(leaf.ndim) if other != axis))
                kept[component][name] = used | kept[component].get(name, False)
    return kept
