"""Train states of any make: the trees in them that are built like the parameters."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import pytrees
from jaxtickets.errors import UserError
from jaxtickets.pytrees import is_hole, structure_of, with_holes


def rewind(state: Any, masks: Any) -> Any:
    """A train state in which every pruned weight, and whatever is kept beside it, is zero; all else is as it was.

    Every tree in the state whose leaves have the paths of the masks is multiplied by them: the parameters themselves,
    the moments in an Optax state, running averages; and each dictionary with some of the parameters' components alone,
    as the optimiser of one player has. Such a tree may have holes, for a leaf or for a branch, as the moments within
    `optax.masked` and `optax.multi_transform` have. A leaf may have further axes in front, as those of a state that is
    replicated over devices, or that is one of several seeds in one program; a leaf of another shape stays.

    `jt.train.rewind` is for `TrainState` alone, in which it leaves `movement`, the sums of a score, as they were.

    Args:
      state: any pytree.
      masks: like the parameters in it; their nodes may be of other types, as a `FrozenDict` beside a dictionary.

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
    named, any_alike = dict(with_holes(masks)), []
    parts = {key: dict(with_holes(own)) for key, own in masks.items()} if isinstance(masks, Mapping) else {}

    def masks_for(node):
        """The masks of a tree's leaves, in its order, by slash-joined path; None if it is not built like them."""
        expected = named
        if parts and isinstance(node, Mapping) and node and parts.keys() > node.keys():
            expected = {
                f"{key}/{name}" if name else f"{key}": mask for key in node for name, mask in parts[key].items()
            }
        if structure_of(node).num_leaves > len(expected):
            return None
        found, names = [], set()
        for name, leaf in with_holes(node):
            if name in expected:
                names.add(name)
            elif is_hole(leaf):  # It may stand for a branch.
                names |= {path for path in expected if path.startswith(f"{name}/")}
            else:
                return None
            found.append(expected.get(name))
        return found if names == expected.keys() else None

    def masked(leaf, mask):
        if is_hole(mask) or is_hole(leaf) or np.shape(leaf)[np.ndim(leaf) - np.ndim(mask) :] != np.shape(mask):
            return leaf
        any_alike.append(True)
        return kept(leaf, mask)

    def masked_tree(node):
        if (own := masks_for(node)) is None:
            return node
        leaves, structure = jax.tree.flatten(node, is_leaf=is_hole)
        return structure.unflatten(map(masked, leaves, own))

    found = jax.tree.map(masked_tree, state, is_leaf=lambda node: masks_for(node) is not None)
    return found, bool(any_alike)


def kept(leaf: Any, mask: Any) -> Any:
    """A leaf with zeros for what is pruned, also if that is infinite or no number, which a product would keep."""
    where = np.where if isinstance(leaf, np.ndarray) and isinstance(mask, np.ndarray) else jnp.where
    return where(mask, leaf, np.zeros((), leaf.dtype))
