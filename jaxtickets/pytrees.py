"""Trees of parameters and masks: what their leaves are called, and whether one is built like another."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxtickets.errors import UserError


def path_name(path) -> str:
    """The slash-joined name of a `jax.tree_util` key path: `generator/up_16/conv/kernel`.

    A key may hold slashes itself, as Haiku's do. Names in files are encoded (`tensor_files.name_of`), these are not.
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_array(leaf) -> bool:
    """Whether a leaf is an array, or stands for one as `jax.ShapeDtypeStruct` does."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def is_hole(node) -> bool:
    """Whether a node, `None` or Optax's `MaskedNode`, is a hole: no array, where other trees of the network have one.

    With `is_leaf=is_hole` JAX's functions over trees take holes for leaves, as they are in masks.
    """
    # Who has such nodes has imported Optax.
    return node is None or isinstance(node, getattr(sys.modules.get("optax"), "MaskedNode", ()))


def structure_of(tree: Any):
    """The structure of a tree in which holes are leaves."""
    return jax.tree.structure(tree, is_leaf=is_hole)


def with_holes(tree: Any) -> list[tuple[str, Any]]:
    """`[(slash-joined path, leaf)]`, holes too."""
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_hole)[0]
    return [(path_name(path), leaf) for path, leaf in flat]


def map_with_holes(function: Callable, tree: Any, *others: Any) -> Any:
    """`jax.tree.map` in which holes are leaves, of whatever kind they are in each of the trees."""
    return jax.tree.map(function, tree, *others, is_leaf=is_hole)


def check_like(tree: Any, like: Any, what: str, of: str = "params", allowed: str = "") -> list[tuple[str, Any, Any]]:
    """`[(slash-joined path, leaf of tree, leaf of like)]`, holes too.

    Args:
      what, of: the arguments that have given the two, for the message.
      allowed: what is allowed, for the message; "": a tree like `of`.

    Raises:
      UserError: the trees are built differently.
    """
    named = with_holes(like)
    try:
        own = structure_of(like).flatten_up_to(tree)
    except ValueError:
        there, here = [name for name, _ in named], [name for name, _ in with_holes(tree)]
        if strange := next((name for name in here if name not in there), None):
            how = f"{of} has no {strange}"
        elif missing := next((name for name in there if name not in here), None):
            how = f"there is no {missing} in it"
        else:
            how = f"a {type(tree).__name__} and a {type(like).__name__} with other nodes"
        raise UserError(f"{what}: is built unlike {of} ({how}); allowed is {allowed or f'a tree like {of}'}") from None
    return [(name, leaf, other) for (name, other), leaf in zip(named, own, strict=True)]


def check_shapes(tree: Any, like: Any, what: str, of: str = "params", masks: Any = None) -> None:
    """Refuses a tree that is built unlike another, or has arrays of other shapes.

    Args:
      masks: those that fit `like`; only where they have an array do shapes count. None: everywhere.

    Raises:
      UserError: it is.
    """
    leaves = check_like(tree, like, what, of)
    prunable = [True] * len(leaves) if masks is None else [not is_hole(mask) for _, mask in with_holes(masks)]
    for (name, leaf, other), counts in zip(leaves, prunable, strict=True):
        here, there = map(_shape, (leaf, other))
        if counts and here != there:
            raise UserError(f"{what}: {name or 'it'} has {here}; allowed is {there}, as in {of}")


def _shape(leaf):
    return "no array" if is_hole(leaf) else f"the shape {np.shape(leaf)}"


def pairs(tree: Any, like: Any, what: str, of: str) -> list[tuple[str, Any, Any]]:
    """`[(slash-joined path, array of tree, array of like)]` of trees whose arrays have the same paths and shapes.

    Their nodes may be of other types, and holes are left out.

    Args:
      what, of: the arguments that have given the two, for the message.

    Raises:
      UserError: a path is in one of them only, or the shapes of its arrays differ.
    """
    ours, theirs = ({name: leaf for name, leaf in with_holes(one) if not is_hole(leaf)} for one in (tree, like))
    for name in {**theirs, **ours}:
        here, there = (_shape(own.get(name)) for own in (ours, theirs))
        if here != there:
            raise UserError(f"{what}: {name or 'it'} has {here}; allowed is {there}, as in {of}")
    return [(name, ours[name], leaf) for name, leaf in theirs.items()]


def check_fit(masks: Any, params: Any, what: str = "masks", of: str = "params", exactly: bool = True) -> None:
    """Refuses masks that are not those of these parameters.

    Args:
      exactly: whether they must be of the parameters' shapes; False: parameters may have further axes in front, the
        same in each leaf, as those of a state that is replicated over devices; or masks may, as those of several
        tickets of one network.

    Raises:
      UserError: another structure, or another shape of a leaf, or a mask that is not of booleans.
    """
    in_front = None
    for name, mask, leaf in check_like(masks, params, what, of, f"a tree such as jt.masks.ones({of})"):
        if is_hole(mask):
            continue
        if not is_array(mask):
            kind = type(mask).__name__
            raise UserError(f"{what}: that of {name or of} is a {kind}; allowed is an array of bool, or None")
        check_bool(name, mask, what)
        if not is_array(leaf) and not np.isscalar(leaf):
            raise UserError(f"{what}: that of {name or of} is an array; allowed is None, as {of} has no array there")
        shape = np.shape(leaf)
        if in_front is None:
            further = 0 if exactly else len(mask.shape) - len(shape)
            in_front = shape[: max(0, -further)], mask.shape[: max(0, further)]
        if (*in_front[0], *mask.shape) != (*in_front[1], *shape):
            raise UserError(f"{what}: that of {name} has the shape {mask.shape}; allowed is {shape}, as in {of}")


def filled(masks: Any, params: Any) -> Any:
    """Masks in which a hole in the place of a branch has become a branch of holes; others are as they were.

    A state within `optax.multi_transform` has such masks.
    """

    def fill(mask, branch):
        return jax.tree.map(lambda _: None, branch, is_leaf=is_hole) if is_hole(mask) else mask

    if is_hole(masks):  # None for all of them is a mistake.
        return masks
    try:
        return jax.tree.map(fill, masks, params, is_leaf=is_hole)
    except ValueError:  # They are those of another network.
        return masks


def check_some(masks: Any, what: str = "masks") -> None:
    """Refuses masks, or what has their shape, in which there is no array.

    Raises:
      UserError: there is none.
    """
    if not jax.tree.leaves(masks):
        raise UserError(f"{what}: there is nothing in it; allowed is a tree of arrays, such as jt.masks.ones(params)")


def check_bool(name: str, mask: Any, what: str = "masks") -> None:
    """Refuses a mask that is not of booleans, such as scores or parameters in its place.

    Args:
      name: the slash-joined path of the mask.

    Raises:
      UserError: it is not.
    """
    if mask.dtype != np.dtype(bool):
        raise UserError(f"{what}: that of {name or 'it'} is of {mask.dtype}; allowed is bool, such as mask != 0")
