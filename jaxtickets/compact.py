"""Compaction: pruned channels are taken out, and a smaller dense network remains.

It computes what the masked network (`pruning.channels.to_weight_masks`) computed, and goes on training as that would.
"""

from functools import partial

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import pytrees
from jaxtickets.errors import UserError
from jaxtickets.pruning.channels import along_axes
from jaxtickets.pruning.components import check_names, leaves_of


def take(tree, channel_masks, axis_names):
    """The kept channels of every leaf, on the host.

    Args:
      tree: `{component: {layer: ...}}`: parameters, batch statistics, or what has their shapes, as masks do.
      channel_masks: `{component: {channel name: [n] bool}}`; components and names that are left out keep all, but
        some name must be there.
      axis_names: a tree with the structure of `tree`, may have further components: the name of each axis, or None.

    Raises:
      UserError: a component or a name in `channel_masks` is unknown, or there is none, `tree` is no dictionary of
        components, or a leaf has another number of channels than the mask.
    """
    check_names(channel_masks, tree, axis_names, "tree")
    if not any(channel_masks.values()):
        told = "names no channels; allowed is {component: {channel name: [n] bool}}"
        raise UserError(f"channel_masks: {channel_masks!r:.60} {told}")
    for _ in leaves_of(tree, axis_names, "tree"):  # It checks the names.
        pass

    def kept(own, leaf, names):
        if pytrees.is_hole(leaf):
            return leaf
        leaf = np.asarray(leaf)
        for axis, mask in along_axes(leaf.shape, names, own):
            leaf = np.compress(mask, leaf, axis)
        return leaf

    return {
        component: jax.tree.map(
            partial(kept, channel_masks.get(component, {})),
            layers,
            axis_names[component],
            is_leaf=pytrees.is_hole,
        )
        for component, layers in jax.device_get(tree).items()
    }


def compact(state, channel_masks, axis_names):
    """A `TrainState` with the kept channels alone: parameters, batch statistics, moments, averages and movement.

    Step and seed stay, so training goes on with the same batches and random numbers. The networks for it are those of
    `compacted_config`.

    Args:
      state: on the host or on one device.
      channel_masks: `{component: {channel name: [n] bool}}`.
      axis_names: `.params` and `.batch_stats`, as `models.axis_names` gives them.
    """
    state = jax.device_get(state)

    def taken(field, tree):
        return take(tree, channel_masks, getattr(axis_names, field))

    def moments(tree):
        return mask_lib.map_components(lambda params: taken("params", params), tree, axis_names.params)

    return state.replace(
        params=taken("params", state.params),
        batch_stats=taken("batch_stats", state.batch_stats),
        opt_state={player: moments(tree) for player, tree in state.opt_state.items()},
        average={field: taken(field, tree) for field, tree in state.average.items()},
        movement=taken("params", state.movement),
    )


def compacted_config(config, channel_masks):
    """The config whose networks have as many channels as the masks keep: `config.model.channels` counts them."""
    smaller = config.copy_and_resolve_references()
    counts = smaller.model.channels.to_dict()
    for component, masks in channel_masks.items():
        kept = {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}
        if kept:
            counts[component] = counts.get(component, {}) | kept
    smaller.model.channels = type(config)(counts)
    return smaller
