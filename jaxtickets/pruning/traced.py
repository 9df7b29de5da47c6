"""Selection within compiled programs: over traced arrays, to the masks of `pruning.selection`, bit for bit.

What `selection` refuses by the scores' values can't be refused here: the masks then stay as they are.

A unit's score is the mean over its weights, here in float32 and in `selection` in float64: units of several weights
whose means differ by less than that rounding may change places.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import pytrees
from jaxtickets.pruning import axes as axes_lib
from jaxtickets.pruning.structures import n_of_m, unit_ids


def keep_highest(scores, kept, n_keep, sizes=None):
    """`selection.keep_highest` of traced arrays; `n_keep` may be traced too."""
    values, candidates = jnp.concatenate(scores), jnp.concatenate(kept)
    # The sort is stable, and 0.0 and -0.0 are equal in it: of equal scores the first ones stay.
    order = jnp.argsort(jnp.where(candidates, -values, jnp.inf), stable=True)
    place = jnp.zeros(values.size, jnp.int32).at[order].set(jnp.arange(values.size, dtype=jnp.int32))
    if sizes is None:
        chosen = candidates & (place < n_keep)
    else:
        totals = jnp.cumsum(jnp.where(candidates, jnp.concatenate(sizes), 0)[order])
        totals = jnp.concatenate([jnp.zeros(1, totals.dtype), totals])
        nearest = jnp.argmin(jnp.abs(totals - n_keep))
        chosen = candidates & ((place < nearest) | jnp.isposinf(values))
    return jnp.split(chosen, np.cumsum([leaf.size for leaf in kept])[:-1].tolist())


def select(scores, masks, pools, structure, kernels, protect: int = 0):
    """The masks, nested in `masks`, that keep the highest units of each pool.

    They are `masks` where a score of a kept weight is not finite, or nothing would be left.

    Args:
      scores, masks: pytrees of one structure, `None` on leaves that are not prunable.
      pools: `[(name, indices of prunable leaves, weights to keep)]`, as `pools.pools_of` gives them; the numbers
        may be traced. N:M needs none.
      structure: a `Structure`.
      kernels: the axes of each leaf by its name (`known_axes`).
      protect: how many units stay in each layer at least.

    Raises:
      UserError: the scores are not those of the masks.
    """
    named = mask_lib.named_leaves(masks)
    kept = [jnp.asarray(mask) for mask in named.values()]
    values = [jnp.asarray(leaf).astype(jnp.float32) for _, leaf, _ in pytrees.pairs(scores, masks, "scores", "masks")]
    own = [kernels.get(name) for name in named]
    if structure.kind == "n:m":
        n, m = structure.sizes
        groups = [n_of_m(mask, leaf, n, m, axes, jnp) for mask, leaf, axes in zip(kept, values, own, strict=True)]
        return _unless_diverged(masks, groups, values)
    layers = [_units(mask, leaf, axes, structure) for mask, leaf, axes in zip(kept, values, own, strict=True)]
    if protect:
        layers = [(_protected(units, its_kept, protect), its_kept, sizes) for units, its_kept, sizes in layers]
    chosen = dict.fromkeys(range(len(layers)))
    for _, indices, n_keep in pools:
        unit_scores, unit_kept, unit_sizes = zip(*(layers[index] for index in indices), strict=True)
        sizes = None if structure.kind == "weight" else unit_sizes
        for index, units in zip(indices, keep_highest(unit_scores, unit_kept, n_keep, sizes), strict=True):
            chosen[index] = _weights(units, kept[index], own[index], structure)
    return _unless_diverged(masks, list(chosen.values()), values)


def _unless_diverged(masks, chosen, scores):
    """The masks of the leaves `chosen`; `masks` if a score of a kept weight is not finite, or nothing would be left."""
    kept = jax.tree.leaves(masks)
    fine = [jnp.isfinite(jnp.where(mask, leaf, 0)).all() for mask, leaf in zip(kept, scores, strict=True)]
    is_fine = jnp.stack(fine).all() & jnp.stack([leaf.any() for leaf in chosen]).any()
    leaves = [jnp.where(is_fine, new, before) for new, before in zip(chosen, kept, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(masks), leaves)


def _protected(scores, kept, n):
    """The scores, with those of the `n` highest kept units raised above all others."""
    (best,) = keep_highest([scores], [kept], n)
    return jnp.where(best, jnp.inf, scores)


def _is_single(leaf, structure):
    """Whether each weight is a unit."""
    return structure.kind == "weight" or leaf.ndim < 2


def _blocks(leaf, axes, structure):
    """`[positions, rows, height, columns, width]`: the blocks of a leaf; what they reach beyond it is 0."""
    matrix = axes_lib.to_matrix(leaf, axes)
    matrix = matrix.reshape(-1, *matrix.shape[-2:])
    if structure.kind == "filter":
        return matrix.reshape(1, 1, -1, matrix.shape[-1], 1)
    padding = [(0, -size % block) for size, block in zip(matrix.shape[1:], structure.sizes, strict=True)]
    matrix = jnp.pad(matrix, [(0, 0), *padding])
    rows, columns = (size // block for size, block in zip(matrix.shape[1:], structure.sizes, strict=True))
    return matrix.reshape(-1, rows, structure.sizes[0], columns, structure.sizes[1])


def _units(mask, scores, axes, structure):
    """`(scores, kept, sizes)` of a leaf's units, flat, in the order of their numbers (`structures.unit_ids`)."""
    if _is_single(mask, structure):
        return scores.ravel(), mask.ravel(), np.ones(mask.size, np.int32)
    sizes = np.bincount(unit_ids(mask.shape, structure, axes).ravel()).astype(np.int32)
    means = _blocks(scores, axes, structure).sum(axis=(2, 4)).ravel() / sizes
    return means, _blocks(mask, axes, structure).any(axis=(2, 4)).ravel(), sizes


def _weights(chosen, mask, axes, structure):
    """The mask of a leaf's weights in the chosen units, nested in `mask`."""
    if _is_single(mask, structure):
        return chosen.reshape(mask.shape)
    blocks = jax.eval_shape(lambda: _blocks(mask, axes, structure)).shape
    matrix = jax.eval_shape(lambda: axes_lib.to_matrix(mask, axes)).shape
    units = jnp.broadcast_to(chosen.reshape(*blocks[:2], 1, blocks[3], 1), blocks)
    if structure.kind == "block":
        units = units.reshape(blocks[0], blocks[1] * blocks[2], -1)[:, : matrix[-2], : matrix[-1]]
    return axes_lib.from_matrix(units.reshape(matrix), axes, mask.shape) & mask
