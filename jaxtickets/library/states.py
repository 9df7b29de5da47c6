"""Train states of any make: the trees in them that are built like the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError


def is_hole(node: Any) -> bool:
    """Whether a node holds no array where another tree of the same parameters may hold one."""
    return node is None or isinstance(node, optax.MaskedNode)


def structure_of(tree: Any):
    """The structure of a tree in which `None` is a leaf, as it is in masks."""
    return jax.tree.structure(tree, is_leaf=is_hole)


def rewind(state: Any, masks: Any) -> Any:
    """A train state in which every pruned weight, and whatever is kept beside it, is zero; all else is as it was.

    Every tree in the state that is built like the parameters is multiplied by the masks: the parameters themselves, the
    moments in an Optax state, running averages. A leaf may have further axes in front, as those of a state that is
    replicated over devices, or that is one of several seeds in one program; a leaf of another shape stays.

    Args:
      state: any pytree.
      masks: like the parameters in it.
    """
    like = structure_of(masks)

    def is_alike(node):
        return structure_of(node) == like

    def masked(leaf, mask):
        if mask is None or is_hole(leaf) or np.shape(leaf)[np.ndim(leaf) - np.ndim(mask) :] != np.shape(mask):
            return leaf
        return kept(leaf, mask)

    def masked_tree(node):
        return jax.tree.map(masked, node, masks, is_leaf=is_hole) if is_alike(node) else node

    return jax.tree.map(masked_tree, state, is_leaf=is_alike)


def kept(leaf: Any, mask: Any) -> Any:
    """A leaf with zeros for what is pruned, also if that is infinite or no number, which a product would keep."""
    where = np.where if isinstance(leaf, np.ndarray) and isinstance(mask, np.ndarray) else jnp.where
    return where(mask, leaf, np.zeros((), leaf.dtype))


def check_shapes(found: Any, params: Any, what: str) -> None:
    """Refuses parameters, built like `params`, of other shapes.

    Raises:
      UserError: a leaf has another shape.
    """
    flat = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_hole)[0]
    for (path, leaf), own in zip(flat, jax.tree.leaves(found, is_leaf=is_hole), strict=True):
        if np.shape(own) != np.shape(leaf):
            name = mask_lib.path_name(path)
            raise UserError(f"{what}: has returned {name} with the shape {np.shape(own)}; allowed is {np.shape(leaf)}")


def check_fit(masks: Any, params: Any, what: str) -> None:
    """Refuses masks that are not those of these parameters.

    Raises:
      UserError: another structure, or another shape of a leaf, or a mask that is not of booleans.
    """
    if structure_of(masks) != structure_of(params):
        raise UserError(f"{what}: they are built unlike the parameters; allowed are such as jt.masks.ones(params)")
    flat = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_hole)[0]
    for (path, leaf), mask in zip(flat, jax.tree.leaves(masks, is_leaf=is_hole), strict=True):
        if mask is None:
            continue
        name = mask_lib.path_name(path)
        if (kind := jnp.result_type(mask)) != np.dtype(bool):
            raise UserError(f"{what}: that of {name} is of {kind}; allowed is bool, such as mask != 0")
        if np.shape(leaf) != np.shape(mask):
            raise UserError(f"{what}: that of {name} has the shape {np.shape(mask)}; allowed is {np.shape(leaf)}")
