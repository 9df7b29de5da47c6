"""Trees of components whose axes have names: their leaves, and what can't be such a tree."""

from collections.abc import Mapping

import jax

from jaxtickets import masks as mask_lib
from jaxtickets import pytrees
from jaxtickets.checks import check_functions
from jaxtickets.errors import UserError

KERNELS = ("kernel", *mask_lib.NAMES)  # What has the channels of parameters.
NO_KERNELS = ("scale", "bias", "embedding")  # What may have two axes and yet makes no channel.


def check_components(tree, what: str = "params") -> None:
    """Refuses what is no tree of components.

    Raises:
      UserError: it is no dictionary, or holds what is no tree of arrays.
    """
    if not isinstance(tree, Mapping):
        name = type(tree).__name__
        raise UserError(f"{what}: is a {name}; allowed is a dictionary of components, such as {{'net': {what}}}")
    for path, leaf in mask_lib.named_leaves(tree).items():
        if not pytrees.is_array(leaf):
            raise UserError(f"{what}: {path} is {leaf!r:.60}; allowed are arrays in a dictionary of components")


def check_names(channel_masks, tree, axis_names, what: str = "params") -> None:
    """Refuses channel masks of components or names that are not there.

    Trees without a kernel, such as batch statistics, lack the names of some layers. `what` is the argument that has
    given the tree, for the message.

    Raises:
      UserError: a component or a name is unknown, or `tree` is no tree of components.
    """
    check_components(tree, what)
    check_components(channel_masks, "channel_masks")
    _check_axis_names(axis_names, {})
    for component, own in channel_masks.items():
        if component not in axis_names:
            raise UserError(f"channel_masks: there is no {component!r}; allowed: {', '.join(map(str, axis_names))}")
        if not isinstance(own, Mapping) or not all(pytrees.is_array(mask) for mask in own.values()):
            raise UserError(f"channel_masks: {component} is {own!r:.60}; allowed is {{channel name: array of bool}}")
        found = leaves_of({component: tree[component]}, axis_names, what) if component in tree else ()
        leaves = [(mask_lib.kind_of(path), names) for _, path, _, names in found if names]  # None has no names.
        known = {name for _, names in leaves for name in names if name is not None}
        has_kernel = any(len(names) > 1 and kind in KERNELS for kind, names in leaves)
        if has_kernel and (unknown := [name for name in own if name not in known]):
            allowed = ", ".join(sorted(known)) or "none"
            raise UserError(f"channel_masks: {component} has no channels {unknown[0]!r}; allowed: {allowed}")


def _check_axis_names(axis_names, tree):
    """Refuses what is no tree of names, or lacks a component."""
    if not isinstance(axis_names, Mapping):
        name = type(axis_names).__name__
        raise UserError(f"axis_names: is a {name}; allowed is a dictionary of components, such as of jt.axis_names")
    if missing := [component for component in tree if component not in axis_names]:
        raise UserError(f"axis_names: there is no {missing[0]!r}; allowed is a tree with all components of the other")


def leaves_of(tree, axis_names, what="params"):
    """`(component, slash-joined path, leaf or None, names of its axes)` of each leaf.

    Raises:
      UserError: `tree`, which the argument `what` gives, is no tree of components, or `axis_names` is not like it.
    """
    check_components(tree, what)
    _check_axis_names(axis_names, tree)
    axis_names = {component: axis_names[component] for component in tree}
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=pytrees.is_hole)[0]
    for (keys, leaf), (path, names, _) in zip(
        flat, pytrees.check_like(axis_names, tree, "axis_names", what), strict=True
    ):
        names = () if pytrees.is_hole(leaf) and pytrees.is_hole(names) else names
        is_tuple = isinstance(names, tuple | list) and all(isinstance(one, str | None) for one in names)
        if not is_tuple or not (pytrees.is_hole(leaf) or len(names) == leaf.ndim):
            allowed = "a tuple with a name, or None, for each of its axes"
            raise UserError(f"axis_names: that of {path} is {names!r:.60}; allowed is {allowed}")
        yield keys[0].key, path, leaf, names


def check_losses(losses, params, name, *arguments, of_many=True):
    """Refuses what are no losses, or flows, of these components.

    Raises:
      UserError: it is neither a function nor functions by component, or a component is not there.
    """
    check_functions(losses, name, *arguments, of_many=of_many)
    if callable(losses):
        return
    check_components(params)
    for key in losses:
        if unknown := [one for one in (key if of_many else (key,)) if one not in params]:
            raise UserError(f"{name}: has {unknown[0]!r:.60}; allowed are components: {', '.join(map(str, params))}")


def check_all_scored(losses, masks, name: str, of_many: bool = True) -> None:
    """Refuses losses, or flows, that leave out a component with prunable weights, which would have no scores.

    Raises:
      UserError: they do.
    """
    if callable(losses):
        return
    scored = {component for key in losses for component in (key if of_many else (key,))}
    if missing := [own for own, tree in masks.items() if own not in scored and jax.tree.leaves(tree)]:
        raise UserError(
            f"{name}: there is none for {missing[0]!r:.60}; allowed is one for each component that has prunable weights"
        )
