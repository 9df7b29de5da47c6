"""Structured pruning: scores of channels -> channel masks -> masks of weights.

A channel is whatever the axes of one name have in common (`models.axis_names`): the column of a kernel that makes it,
its scale and bias, the rows of the kernels that read it. A channel mask is `{component: {channel name: [n] bool}}`,
True keeps; a name that is left out keeps all. `axis_names` is a tree like the parameters with a tuple for each leaf.
"""

import math
from functools import partial

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.pruning.selection import prune

SCOPES = ("global", "component", "group")


def _leaves(tree, axis_names):
    """`(component, slash-joined path, leaf, names of its axes)` of each leaf."""
    axes = jax.tree.structure(tree).flatten_up_to(axis_names)
    for (path, leaf), names in zip(mask_lib.named_leaves(tree).items(), axes, strict=True):
        yield path.partition("/")[0], path, leaf, names


def groups(params, axis_names) -> dict[str, dict[str, int]]:
    """`{component: {channel name: how many}}`.

    Raises:
      ValueError: two axes of one name differ in size.
    """
    sizes = {component: {} for component in params}
    for component, path, leaf, names in _leaves(params, axis_names):
        for name, size in zip(names, leaf.shape, strict=True):
            if name is not None and sizes[component].setdefault(name, size) != size:
                raise ValueError(f"{path} has {size} channels of {name}, another leaf {sizes[component][name]}")
    return sizes


def gamma(params, axis_names, batch_stats):
    """|scale| of a channel's batch norm (network slimming, Liu et al. 2017, section 3).

    Only a norm with running statistics makes a channel's size its scale, so that sizes compare; names without one are
    not scored. A class-conditional scale counts with the mean over classes, and a name with several norms, such as a
    residual stream that each block normalises, with their mean, so that long streams are not above others.
    """
    means = [path for path in mask_lib.named_leaves(batch_stats) if path.endswith("/mean")]
    found = {component: {} for component in params}
    for component, path, leaf, names in _leaves(params, axis_names):
        module, _, kind = path.rpartition("/")
        if kind == "scale" and names[-1] and any(mean.startswith(f"{module}/") for mean in means):
            scales = np.abs(np.asarray(leaf)).reshape(-1, leaf.shape[-1])
            found[component].setdefault(names[-1], []).append(scales.mean(axis=0))
    return {
        component: {name: np.mean(norms, axis=0) for name, norms in own.items()} for component, own in found.items()
    }


def filter_norm(params, axis_names, order: int = 1):
    """The mean of |w|, or with order=2 the root mean square, over all weights that make a channel.

    The L1 norm of a filter (Li et al. 2017, section 3.1), a weight: else a threshold over several layers would take
    those with small filters first. Of a residual stream the kernels that write to it count together.
    """
    sums = {component: {} for component in params}
    for component, path, leaf, names in _leaves(params, axis_names):
        if path.endswith("/kernel") and names[-1]:
            weights = np.abs(np.asarray(leaf)).reshape(-1, leaf.shape[-1])
            total, count = sums[component].get(names[-1], (0, 0))
            sums[component][names[-1]] = total + (weights**order).sum(axis=0), count + len(weights)
    return {
        component: {name: (total / count) ** (1 / order) for name, (total, count) in own.items()}
        for component, own in sums.items()
    }


def select(scores, ratio: float, scope: str = "global", min_channels: int = 1):
    """The channel masks that prune the lowest `round(ratio * channels)`; of equal scores the first stay.

    Args:
      scores: `{component: {channel name: [n]}}`, higher where a channel matters more.
      ratio: pruned / scored channels, in [0, 1).
      scope: what one threshold decides over: "global" all channels; "component" those of one component; "group" those
        of one name. Each is pruned to the ratio.
      min_channels: at least so many stay of each name.

    Raises:
      UserError: nothing is scored, or the ratio leaves less than `min_channels` asks for.
      ValueError: a score is not a number.
    """
    pools = {}
    for path, leaf in mask_lib.named_leaves(scores).items():
        component = path.partition("/")[0]
        where = {"global": "the network", "component": f"the {component}", "group": path}[scope]
        pools.setdefault(where, []).append(leaf.size)
    if not pools:
        raise UserError("there is no channel to prune: no name is scored (gamma scores those with a batch norm)")
    for where, sizes in pools.items():
        total, free = sum(sizes), sum(max(0, size - min_channels) for size in sizes)
        if round(ratio * total) > free:
            raise UserError(
                f"ratio: {ratio:g} prunes {round(ratio * total)} of {total} channels of {where}, but {min_channels} of "
                f"each of {len(sizes)} names must stay; allowed is at most {math.floor(1e4 * free / total) / 1e4:g}"
            )
    everything = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), scores)
    return prune(scores, everything, ratio, "layerwise" if scope == "group" else scope, min_channels)


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
