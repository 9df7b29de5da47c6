"""Optax transformations that prune while they optimise, for a training loop whose loss stays as it is.

They keep the masks in the optimiser's state. After each update that they return, pruned weights are exactly zero, and
so are the moments that the wrapped optimiser has of them.
"""

from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtickets import masks as mask_lib
from jaxtickets.errors import UserError
from jaxtickets.library import schedules
from jaxtickets.library.first_masks import check_choice_of_leaves, first_masks
from jaxtickets.library.schedules import Schedule
from jaxtickets.library.states import kept, zeroed
from jaxtickets.pytrees import check_fit, check_shapes, is_hole, map_with_holes


class SparseState(NamedTuple):
    """The state of `sparsify` and `masked`.

    Attributes:
      count: the number of updates done, int32.
      masks: the masks, as arrays of booleans; `None` on leaves that are not prunable.
      inner: the state of the wrapped optimiser.
    """

    count: jax.Array
    masks: Any
    inner: Any


def masked(tx: optax.GradientTransformation, masks: Any) -> optax.GradientTransformationExtraArgs:
    """`tx` under masks that stay as they are: pruned weights are zero after each update, and have no moments.

    Start from `jt.masks.apply(params, masks)`. The loss reads the parameters as they are, so from dense ones the first
    gradient is that of the dense network, and training goes another way than with the masks in the loss.

    Args:
      tx: any Optax optimiser.
      masks: like the parameters, such as those of a ticket.

    Raises:
      UserError: `tx` is no optimiser, or there are no masks; when the state is made, if they are others'.
    """
    if masks is None:
        raise UserError("masks: None: allowed is a tree such as jt.masks.ones(params)")
    return sparsify(tx, Schedule(), masks=masks)


def sparsify(
    tx: optax.GradientTransformation, schedule: Schedule, *, masks: Any = None, include=None, exclude=()
) -> optax.GradientTransformationExtraArgs:
    """`tx` under masks that change as the schedule says, within the compiled step.

    The gradients that it is given should be those of all weights, as they are where the loss reads the parameters
    themselves: RigL grows weights where the gradient is large. The optimiser sees gradients and parameters under the
    masks. Where the schedule or `masks` are sparse from the start, start from
    `jt.masks.apply(params, jt.masks_of(tx.init(params)))`, or the first gradient is that of the dense network (see
    `jt.masked`). The update that is returned brings pruned weights to zero, so nothing may change it afterwards: in
    `optax.chain` this comes last. Under `optax.MultiSteps` the schedule counts the updates that are made. Outside of a
    compiled function it works too, slowly: each update is then compiled by itself.

    Args:
      tx: any Optax optimiser.
      schedule: one of `jt.schedules`: `gradual`, `one_shot`, `static`, `rigl`, `sparse_evolutionary`.
      masks: masks to start from; None: all weights are kept. `gradual` without `initial` begins at their sparsity.
      include, exclude: which leaves are prunable, as in `jt.masks.ones`; not beside `masks`, which say it themselves.

    Raises:
      UserError: an argument is not what it can be; when the state is made, if the schedule can't be kept with these
        parameters.
    """
    if not all(callable(getattr(tx, name, None)) for name in ("init", "update")):
        raise UserError(f"tx: {tx!r:.60}: allowed is an optimiser of Optax, such as optax.adam(0.001)")
    if not isinstance(schedule, Schedule):
        raise UserError(f"schedule: {schedule!r}: allowed is one of jt.schedules, such as jt.schedules.one_shot(0.9)")
    check_choice_of_leaves(masks, include, exclude)
    if masks is not None:
        schedule = schedules.begun_at(schedule, masks)
    tx = optax.with_extra_args_support(tx)

    def init(params):
        first = schedules.initial_masks(schedule, params, first_masks(params, masks, include, exclude))
        first = jax.tree.map(jnp.asarray, first)
        return SparseState(jnp.zeros([], jnp.int32), first, tx.init(mask_lib.apply(params, first)))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise UserError("params: pruning needs them; allowed is update(gradients, state, params)")
        check_fit(state.masks, params, "state")
        check_shapes(updates, params, "updates")
        gradients, now, inner = updates, state.masks, state.inner
        if schedule.levels:
            dense = first_masks(params, masks, include, exclude)

            def change(now, inner):
                after = schedules.changed(schedule, state.count, _kept(params, now), gradients, now, dense)
                return after, zeroed(inner, after)

            is_due = schedules.is_due(schedule, state.count)
            now, inner = jax.lax.cond(is_due, change, lambda *same: same, now, inner)
        new, new_inner = tx.update(_kept(gradients, now), inner, _kept(params, now), **extra)
        if schedule.regrows:  # A step that changes masks changes nothing else.
            new = jax.tree.map(lambda leaf: jnp.where(is_due, 0, leaf), new)
            new_inner = jax.tree.map(lambda before, after: jnp.where(is_due, before, after), inner, new_inner)
        new = map_with_holes(
            lambda leaf, mask, w: leaf if is_hole(mask) else jnp.where(mask, leaf, -w), new, now, params
        )
        return new, SparseState(optax.safe_increment(state.count), now, new_inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _kept(tree, masks):
    return map_with_holes(lambda leaf, mask: leaf if is_hole(mask) else kept(leaf, mask), tree, masks)


def masks_of(opt_state: Any) -> Any:
    """The masks in an Optax state, wherever in it `masked` or `sparsify` stand: in a chain, in other wrappers.

    Those of several, each for some of the leaves, are put together.

    Raises:
      UserError: there are none.
    """
    found = list(_all_masks(opt_state))
    if not found:
        raise UserError("opt_state: there are no masks in it; allowed is the state of jt.masked or jt.sparsify")
    together = reduce(_both, found)
    return jax.tree.map(lambda mask: None if is_hole(mask) else mask, together, is_leaf=is_hole)


def _both(first, second):
    """Two trees of masks as one; where one has a hole, which may stand for many leaves, the other counts."""
    if is_hole(first) or is_hole(second):
        return second if is_hole(first) else first
    if jax.tree_util.all_leaves([first]):
        return first & second
    children, node = jax.tree.flatten(first, is_leaf=lambda child: child is not first)
    return node.unflatten(map(_both, children, node.flatten_up_to(second)))


def _all_masks(state):
    for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, SparseState)):
        if isinstance(node, SparseState):
            yield node.masks
            yield from _all_masks(node.inner)


def straight_through(params: Any, masks: Any) -> Any:
    """The effective weights, with gradients that pass as if nothing were pruned (Bengio et al. 2013, section 2).

    Called inside a loss, with masks that are drawn there from the dense weights, it lets pruned weights come back:
    `jt.straight_through(params, jt.prune(jt.magnitude(params, dense), dense, 0.9))`.

    Raises:
      UserError: the masks are not those of these parameters.
    """
    check_fit(masks, params, exactly=False)

    def through(leaf, mask):
        if is_hole(mask):
            return leaf
        return leaf + jax.lax.stop_gradient(leaf * mask.astype(leaf.dtype) - leaf)

    return map_with_holes(through, params, masks)
