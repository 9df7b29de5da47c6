"""Train states of any make: the trees in them that are built like the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import pytrees
from jaxtickets.errors import UserError
from jaxtickets.pytrees import is_hole, structure_of


def rewind(state: Any, masks: Any) -> Any:
    """A train state in which every pruned weight, and whatever is kept beside it, is zero; all else is as it was.

    Every tree in the state that is built like the parameters is multiplied by the masks: the parameters themselves, the
    moments in an Optax state, running averages; and each dictionary with some of the parameters' components alone, as
    the optimiser of one player has. A leaf may have further axes in front, as those of a state that is replicated over
    devices, or that is one of several seeds in one program; a leaf of another shape stays.

    `jt.train.rewind` is for `TrainState` alone, in which it leaves `movement`, the sums of a score, as they were.

    Args:
      state: any pytree.
      masks: like the parameters in it.

    Raises:
      UserError: nothing in the state is built like the masks, with arrays of such shapes.
    """
    for name, mask in pytrees.with_holes(masks):
        if not is_hole(mask) and not pytrees.is_array(mask):
            raise UserError(f"masks: {name or 'it'} is {mask!r:.60}; allowed are arrays of bool, and None")
    found, is_any = _zeroed(state, masks)
    if not is_any:
        raise UserError(
            "masks: nothing in the state is built like them, with arrays of such shapes; allowed are masks of the "
            "parameters in the state, such as jt.masks.ones(params)"
        )
    return found


def zeroed(state: Any, masks: Any) -> Any:
    """`rewind` of what may hold nothing that is built like the masks, as the state of plain gradient descent."""
    return _zeroed(state, masks)[0]


def _zeroed(state, masks):
    """`(the state, whether there was anything that is built like the masks)`."""
    like, any_alike = structure_of(masks), []
    parts = {key: structure_of(own) for key, own in masks.items()} if type(masks) is dict else {}

    def is_part(node):
        is_some = type(node) is dict and bool(node) and parts.keys() >= node.keys()
        return is_some and all(structure_of(own) == parts[key] for key, own in node.items())

    def is_alike(node):
        return structure_of(node) == like or is_part(node)

    def masked(leaf, mask):
        if is_hole(mask) or is_hole(leaf) or np.shape(leaf)[np.ndim(leaf) - np.ndim(mask) :] != np.shape(mask):
            return leaf
        any_alike.append(True)
        return kept(leaf, mask)

    def masked_tree(node):
        if structure_of(node) == like:
            return jax.tree.map(masked, node, masks, is_leaf=is_hole)
        if is_part(node):
            return jax.tree.map(masked, node, {key: masks[key] for key in node}, is_leaf=is_hole)
        return node

    return jax.tree.map(masked_tree, state, is_leaf=is_alike), bool(any_alike)


def kept(leaf: Any, mask: Any) -> Any:
    """A leaf with zeros for what is pruned, also if that is infinite or no number, which a product would keep."""
    where = np.where if isinstance(leaf, np.ndarray) and isinstance(mask, np.ndarray) else jnp.where
    return where(mask, leaf, np.zeros((), leaf.dtype))
