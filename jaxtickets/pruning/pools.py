"""Pools: which layers one threshold decides over, and how many weights each pool keeps."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets.checks import check_choice, check_count
from jaxtickets.errors import UserError
from jaxtickets.pruning.structures import Structure

SCOPES = ("global", "component", "layerwise", "uniform", "erk")


class Extent(NamedTuple):
    """What the number of weights that a prunable leaf keeps is decided by: all but its scores."""

    name: str
    component: str
    shape: tuple[int, ...]
    kept_weights: int
    sizes: None = None  # Its units are taken for single weights.

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


def densities(shapes, total: int, scope: str = "erk", capacities=None) -> list[int]:
    """How many weights each layer keeps, `total` in all exactly.

    "uniform": the same density in each. "erk" (Erdos-Renyi kernel, Evci et al. 2020, section 3): the density is
    proportional to the sum of the kernel's dimensions over their product, at most 1. What a layer can't hold goes to
    the others in the same proportion; fractions go to the layers with the largest ones.

    Args:
      shapes: the shapes of the layers' kernels.
      total: at most as many as there are weights.
      capacities: how many each layer can keep; all of its weights by default.

    Raises:
      UserError: the layers have fewer weights than are to be kept, or the scope is unknown.
    """
    total = check_count(total, "total")
    check_choice(scope, "scope", ("uniform", "erk"))
    try:
        sizes = np.array([np.prod([int(size) for size in tuple(shape)], dtype=np.int64) for shape in shapes], np.int64)
    except (TypeError, ValueError):
        raise UserError(f"shapes: {shapes!r:.60}: allowed is a list of shapes, such as [(3, 3, 8, 16)]") from None
    shares = sizes.astype(float) if scope == "uniform" else np.array([float(sum(shape)) for shape in shapes])
    capacities = sizes if capacities is None else np.asarray(capacities)
    if capacities.shape != sizes.shape or not np.issubdtype(capacities.dtype, np.integer) or (capacities < 0).any():
        raise UserError(f"capacities: {capacities!r:.60}: allowed is a whole number of at least 0 for each shape")
    if total > capacities.sum():
        raise UserError(f"total: {total}: allowed is at most {capacities.sum()}, as many as the layers can hold")
    full = np.zeros(len(shapes), bool)
    while True:
        left = total - capacities[full].sum()
        kept = np.where(full, capacities, shares * left / max(shares[~full].sum(), 1e-300))
        if not (over := ~full & (kept > capacities)).any():
            break
        full |= over
    counts = np.floor(kept + 1e-9).astype(np.int64)
    fractions = np.where(counts < capacities, kept - counts, -1)
    counts[np.argsort(-fractions, kind="stable")[: total - counts.sum()]] += 1
    return counts.tolist()


def extents(masks) -> list[Extent]:
    """Of each prunable leaf, as if all its weights were kept."""
    flat = jax.tree_util.tree_flatten_with_path(masks)[0]
    return [
        Extent(mask_lib.path_name(path), mask_lib.component_name(path), leaf.shape, leaf.size) for path, leaf in flat
    ]


def protected_units(structure: Structure, min_per_layer: int) -> int:
    """How many units stay in each layer at least; of filters always one."""
    return max(min_per_layer, 1) if structure.kind == "filter" else min_per_layer


def pools_of(layers: Sequence[Any], sparsity: float, scope: str):
    """`[(name, indices of layers, weights to keep)]`: within a pool one threshold decides.

    Args:
      layers: `Extent`s, or such with scores.

    Raises:
      UserError: there is no such scope, or more is pruned already.
    """
    check_choice(scope, "scope", SCOPES)
    if scope in ("uniform", "erk"):
        weights = sum(layer.weights for layer in layers)
        total, capacities = weights - round(sparsity * weights), [layer.kept_weights for layer in layers]
        check_enough(total, layers, sparsity, "the network")
        counts = densities([layer.shape for layer in layers], min(total, sum(capacities)), scope, capacities)
        return [(layer.name, [index], count) for index, (layer, count) in enumerate(zip(layers, counts, strict=True))]
    pools: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        pool = {"global": "the network", "component": f"the {layer.component}", "layerwise": layer.name}[scope]
        pools.setdefault(pool, []).append(index)
    result = []
    for name, indices in pools.items():
        weights = sum(layers[index].weights for index in indices)
        result.append((name, indices, weights - round(sparsity * weights)))
    return result


def check_enough(n_keep: int, layers: Sequence[Any], sparsity: float, where: str) -> None:
    """Refuses a pool that should keep more weights than its layers have left.

    Raises:
      UserError: it should.
    """
    weights, available = sum(layer.weights for layer in layers), sum(layer.kept_weights for layer in layers)
    if n_keep > available and layers[0].sizes is None:  # Whole filters may have overshot the last sparsity.
        already = 1 - available / weights
        raise UserError(f"sparsity: {sparsity:g} of {where} is below the {already:g} that is pruned already")


def check_floor(
    pools, layers: Sequence[Any], sparsity: float, structure: Structure, min_per_layer: int, prefix: str = ""
) -> None:
    """Refuses pools that keep less than `min_per_layer` asks for, and those that keep nothing at all.

    Of filters and blocks `min_per_layer` stay whatever the sparsity is, so that only single weights can be too few.

    Args:
      pools: as `pools_of` gives them.
      prefix: what stands before the names of arguments in messages.

    Raises:
      UserError: there are such pools.
    """
    protect = protected_units(structure, min_per_layer)
    for where, indices, n_keep in pools if structure.kind == "weight" else ():
        if n_keep < sum(min(protect, layers[index].weights) for index in indices):
            raise UserError(
                f"sparsity: {sparsity:g} leaves {n_keep} weights in {where}, fewer than "
                f"{prefix}min_per_layer={min_per_layer} asks for over {len(indices)} layers"
            )
    if not protect and not any(n_keep for *_, n_keep in pools):
        raise_none_left(layers, sparsity)


def raise_none_left(layers: Sequence[Any], sparsity: float) -> None:
    """Tells that a sparsity leaves nothing.

    Raises:
      UserError: always.
    """
    raise UserError(f"sparsity: {sparsity:g} leaves none of {sum(layer.weights for layer in layers)} weights")
