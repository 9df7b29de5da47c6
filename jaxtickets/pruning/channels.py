"""Structured pruning: scores of channels -> channel masks -> masks of weights.

A channel is whatever the axes of one name have in common (`models.axis_names`): the column of a kernel that makes it,
its scale and bias, the rows of the kernels that read it. A channel mask is `{component: {channel name: [n] bool}}`,
True keeps; a name that is left out keeps all. `axis_names` is a tree like the parameters with a tuple for each leaf.
A kernel's filters lie along its output axis, which is known as in `pruning.prune` (`axes`).
"""

import math
from functools import partial

import jax
import numpy as np

from jaxtickets import checks, pytrees
from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.pruning import axes as axes_lib
from jaxtickets.pruning.channel_selection import SCOPES, select, select_by_cost
from jaxtickets.pruning.components import (
    NO_KERNELS,
    check_all_scored,
    check_components,
    check_losses,
    check_names,
    leaves_of,
)
from jaxtickets.pytrees import is_hole, structure_of

__all__ = [
    "SCOPES",
    "along_axes",
    "filter_change",
    "filter_l1",
    "filter_l2",
    "filter_mean",
    "from_weight_masks",
    "gamma",
    "gamma_taylor",
    "groups",
    "is_gamma",
    "kept_shares",
    "prunable",
    "select",
    "select_by_cost",
    "to_weight_masks",
]


def _is_kernel(path, names):
    """Whether a leaf makes channels or reads them, as its name tells: `kernel`, or `weight`, but no scale."""
    return len(names) > 1 and mask_lib.kind_of(path) not in NO_KERNELS


def groups(params, axis_names) -> dict[str, dict[str, int]]:
    """The number of channels of each name: `{component: {channel name: number}}`.

    Raises:
      UserError: two axes of one name differ in size.
    """
    check_components(params)
    sizes: dict[str, dict[str, int]] = {component: {} for component in params}
    for component, path, leaf, names in leaves_of(params, axis_names):
        for name, size in () if is_hole(leaf) else zip(names, leaf.shape, strict=True):
            if name is not None and sizes[component].setdefault(name, size) != size:
                told = f"{path} has {size} channels of {name}, another leaf {sizes[component][name]}"
                raise UserError(f"axis_names: {told}; allowed are as many on each axis of a name")
    return sizes


def is_gamma(params, axis_names, batch_stats):
    """A tree like the parameters: whether a leaf is the scale of a batch norm over named channels."""
    means = [path for path in mask_lib.named_leaves(batch_stats) if path.endswith("/mean")]

    def scales(path, names):
        module, _, kind = path.rpartition("/")
        return kind == "scale" and bool(names[-1]) and any(mean.startswith(f"{module}/") for mean in means)

    found = [scales(path, names) for _, path, leaf, names in leaves_of(params, axis_names) if not is_hole(leaf)]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def gamma(params, axis_names, batch_stats):
    """|scale| of a channel's batch norm (network slimming, Liu et al. 2017, section 3).

    Only a norm with running statistics makes a channel's size its scale, so that sizes compare; names without one are
    not scored. A class-conditional scale counts with the mean over classes, and a name with several norms, such as a
    residual stream that each block normalises, with their mean, so that long streams are not above others.
    """
    norms = list(_scales(params, axis_names, batch_stats))
    sizes = {norm: np.abs(np.asarray(scale)).reshape(-1, scale.shape[-1]) for _, norm, scale, _ in norms}
    of_norms = {norm: size.mean(axis=0) for norm, size in sizes.items()}
    return {component: {} for component in params} | _means(norms, of_norms)


def _scales(params, axis_names, batch_stats):
    """`(component, path of the norm, scale, channel name)` of each batch norm over named channels."""
    chosen = jax.tree.leaves(is_gamma(params, axis_names, batch_stats))
    leaves = (found for found in leaves_of(params, axis_names) if not is_hole(found[2]))
    for is_scale, (component, path, leaf, names) in zip(chosen, leaves, strict=True):
        if is_scale:
            yield component, path.rpartition("/")[0], leaf, names[-1]


def _means(norms, scores):
    """`{component: {channel name: [n]}}`: the mean score of the norms of each name.

    Args:
      norms: as `_scales` yields them.
      scores: `{path of the norm: [n]}`.
    """
    found: dict[str, dict[str, list]] = {}
    for component, norm, _, name in norms:
        found.setdefault(component, {}).setdefault(name, []).append(scores[norm])
    return {
        component: {name: np.mean(own, axis=0) for name, own in names.items()} for component, names in found.items()
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
    check_components(params)
    check_losses(losses, params, "losses", "params", "batch")
    checks.check_batches(batches)
    check_all_scored(losses, {own: True for own, *_ in _scales(params, axis_names, batch_stats)}, "losses")
    scores: dict[str, dict] = {component: {} for component in params}
    for components, loss in ({tuple(params): losses} if callable(losses) else losses).items():
        own = {component: params[component] for component in components}
        norms = list(_scales(own, axis_names, batch_stats))
        if not norms:
            continue
        gates = {norm: np.ones(scale.shape[-1], scale.dtype) for _, norm, scale, _ in norms}
        slopes = [jax.device_get(_gate_gradient(loss, own, gates, batch)) for batch in batches]
        squares = {norm: [np.square(slope[norm], dtype=np.float64) for slope in slopes] for norm in gates}
        found = _means(norms, {norm: np.mean(of_batches, axis=0) for norm, of_batches in squares.items()})
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


def filter_mean(scores, axis_names, axes=None):
    """The mean score over all weights that make a channel.

    A mean, because a threshold over several layers would else take those with small filters first. Of a residual stream
    the kernels that write to it count together.

    Args:
      scores: of each weight, like `params`; leaves other than kernels are not read, and may be None.
      axes: see `jaxtickets.pruning.prune`.

    Raises:
      UserError: the output axis of a kernel with named axes is not known.
    """
    check_components(scores, "scores")
    sums: dict[str, dict] = {component: {} for component in scores}
    unknown = []
    said = axes_lib.of_leaves(scores, axes)
    for (component, path, leaf, names), own in zip(leaves_of(scores, axis_names, "scores"), said, strict=True):
        if is_hole(leaf) or not any(names) or not _is_kernel(path, names):
            continue
        if (found := axes_lib.find(path, len(names), own)) is None:
            unknown.append(path)
            continue
        for axis in found.outputs:
            if names[axis]:
                filters = np.moveaxis(np.asarray(leaf), axis, -1).reshape(-1, leaf.shape[axis])
                total, count = sums[component].get(names[axis], (0, 0))
                sums[component][names[axis]] = total + filters.sum(axis=0), count + len(filters)
    axes_lib.refuse_unknown(unknown, "filters")
    return {component: {name: total / count for name, (total, count) in own.items()} for component, own in sums.items()}


def filter_l1(params, axis_names, axes=None):
    """The mean of |w| over a channel's filter: its L1 norm (Li et al. 2017, section 3.1) over its number of weights."""
    check_components(params)
    return filter_mean(jax.tree.map(np.abs, params), axis_names, axes)


def filter_l2(params, axis_names, axes=None):
    """The root mean square over a channel's filter: its L2 norm over the root of its number of weights."""
    check_components(params)
    return jax.tree.map(np.sqrt, filter_mean(jax.tree.map(np.square, params), axis_names, axes))


def filter_change(params, axis_names, initial, axes=None):
    """The mean of |w - w_0| over a channel's filter: how far training has moved it from the initialisation.

    It is 0 before training. The score of weights that it is the mean of is Zhou et al. 2019's, section 4 ("movement").
    """
    check_components(params)
    pytrees.check_shapes(initial, params, "initial")
    change = jax.tree.map(lambda leaf, before: np.abs(leaf - before), params, initial)
    return filter_mean(change, axis_names, axes)


def prunable(scores, masks, axis_names):
    """The scores of those channels that only prunable kernels make and read.

    Args:
      scores: `{component: {channel name: [n]}}`.
      masks: like the parameters, None on leaves that are not to be pruned.
    """
    check_components(scores, "scores")
    check_components(masks, "masks")
    if unknown := [component for component in masks if component not in scores]:
        raise UserError(f"scores: there is no {unknown[0]!r}; allowed is a tree with all components of masks")
    fixed: dict[str, set] = {component: set() for component in scores}
    for component, path, leaf, names in leaves_of(masks, axis_names, "masks"):
        if is_hole(leaf) and _is_kernel(path, names):
            fixed[component].update(names)
    return {
        component: {name: leaf for name, leaf in own.items() if name not in fixed[component]}
        for component, own in scores.items()
    }


def kept_shares(params, axis_names, channel_masks) -> dict[str, float]:
    """For each leaf, by slash-joined path, the share of its entries that belong to kept channels only."""
    check_names(channel_masks, params, axis_names)
    return {
        path: math.prod(mask.mean() for _, mask in along_axes(leaf.shape, names, channel_masks.get(component, {})))
        for component, path, leaf, names in leaves_of(params, axis_names)
        if not is_hole(leaf)
    }


def along_axes(shape, names, channel_masks) -> list[tuple[int, np.ndarray]]:
    """`[(axis, its channel mask)]` of those axes of a leaf whose name is in `channel_masks`, of one component.

    Raises:
      UserError: an axis and its mask differ in size.
    """
    found = [(axis, np.asarray(channel_masks[name])) for axis, name in enumerate(names) if name in channel_masks]
    for axis, mask in found:
        if mask.shape != (shape[axis],):
            told = f"{shape[axis]} channels of {names[axis]} and a channel mask of shape {mask.shape}"
            raise UserError(f"channel_masks: there are {told}; allowed is one entry per channel")
    return found


def to_weight_masks(channel_masks, params, axis_names):
    """The masks of the weights that belong to kept channels only; `None` on leaves whose axes have no name.

    `masks.apply` with them makes the masked network: a pruned channel has no scale, no bias and no weight that makes or
    reads it, so that it is exactly zero behind its norm and its activation (which keep zeros) and adds to nothing.

    Given batch statistics and their axis names, the same for these. They matter where a spectral norm has not yet
    moved under the mask: its vector must be zero, as it is afterwards, on channels that are pruned.

    Raises:
      UserError: a component or a name in `channel_masks` is unknown, or `params` is no dictionary of components.
    """
    check_names(channel_masks, params, axis_names)

    def mask_of(component, leaf, names):
        if is_hole(leaf) or not any(names):
            return None
        mask = np.ones(leaf.shape, bool)
        for axis, kept in along_axes(leaf.shape, names, channel_masks.get(component, {})):
            mask &= np.expand_dims(kept, [other for other in range(leaf.ndim) if other != axis])
        return mask

    found = [mask_of(component, leaf, names) for component, _, leaf, names in leaves_of(params, axis_names)]
    return jax.tree.unflatten(structure_of(params), found)


def from_weight_masks(masks, axis_names):
    """The channel masks `{component: {channel name: [n] bool}}` that masks of weights amount to.

    A channel is pruned if every kernel that makes or reads it has pruned all that belongs to it. What only one of them
    has emptied stays: a bias can make something of a channel without weights.
    """
    check_components(masks, "masks")
    kept: dict[str, dict] = {component: {} for component in masks}
    for component, path, leaf, names in leaves_of(masks, axis_names, "masks"):
        for axis, name in enumerate(names):
            if not is_hole(leaf) and _is_kernel(path, names) and name is not None:
                used = np.asarray(leaf).any(axis=tuple(other for other in range(leaf.ndim) if other != axis))
                kept[component][name] = used | kept[component].get(name, False)
    return kept
