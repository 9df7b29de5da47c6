"""The units that are pruned whole: filters, blocks, and groups of M weights of which N stay."""

import logging
import math
import re
from typing import NamedTuple

import jax
import numpy as np

from jaxtickets import pytrees
from jaxtickets.errors import UserError
from jaxtickets.pruning import axes as axes_lib

STRUCTURES = "weight, filter, channel, block:ROWSxCOLUMNS such as block:4x4, or N:M such as 2:4"


class Structure(NamedTuple):
    """The unit that is pruned whole.

    kind is "weight", "filter", "block" (of `sizes` in x out), "n:m" (`sizes` = n, m), or "channel": filters with all
    that reads them, over several layers (`pruning.channels`).
    """

    kind: str
    sizes: tuple[int, int] = (1, 1)

    @property
    def sparsity(self) -> float | None:
        """The only sparsity that N:M masks have."""
        return 1 - self.sizes[0] / self.sizes[1] if self.kind == "n:m" else None


def parse_structure(text: str) -> Structure:
    """The structure that `config.prune.structure` names.

    Raises:
      UserError: there is no such structure.
    """
    if text in ("weight", "filter", "channel"):
        return Structure(text)
    written = text if isinstance(text, str) else ""
    if (match := re.fullmatch(r"block:(\d{1,9})x(\d{1,9})", written)) and int(match[1]) and int(match[2]):
        return Structure("block", (int(match[1]), int(match[2])))
    if (match := re.fullmatch(r"(\d{1,9}):(\d{1,9})", written)) and 0 < int(match[1]) < int(match[2]):
        return Structure("n:m", (int(match[1]), int(match[2])))
    raise UserError(f"structure: {text!r} is unknown; allowed: {STRUCTURES}")


def known_axes(masks, structure: str, axes=None) -> dict[str, axes_lib.Axes]:
    """The axes of each prunable leaf that has two or more, if the structure goes along axes; else {}.

    Args:
      masks, structure, axes: see `prune`.

    Raises:
      UserError: those of a leaf are not known, or N:M fits no layer.
    """
    units = parse_structure(structure)
    if units.kind in ("weight", "channel"):
        return {}
    found = {
        name: axes_lib.find(name, mask.ndim, said)
        for (name, mask), said in zip(pytrees.with_holes(masks), axes_lib.of_leaves(masks, axes), strict=True)
        if not pytrees.is_hole(mask) and np.ndim(mask) > 1
    }
    axes_lib.refuse_unknown([name for name, own in found.items() if own is None], f"structure {structure!r}")
    kernels = {name: own for name, own in found.items() if own is not None}
    dense, n_layers = _dense(masks, units, kernels), len(jax.tree.leaves(masks))
    if n_layers and len(dense) == n_layers:
        raise UserError(
            f"structure: {structure!r} fits no layer: {_told(dense)}; allowed are layers whose number of inputs is a "
            f"multiple of {units.sizes[1]}"
        )
    return kernels


def _dense(masks, structure, kernels):
    """`{name: number of inputs}` of the prunable leaves that N:M does not fit; of a leaf with one axis it is 1."""
    if structure.kind != "n:m":
        return {}
    inputs = {
        name: math.prod(mask.shape[axis] for axis in kernels[name].inputs) if name in kernels else 1
        for name, mask in pytrees.with_holes(masks)
        if not pytrees.is_hole(mask)
    }
    return {name: number for name, number in inputs.items() if number % structure.sizes[1]}


def _told(layers):
    names = [f"{name} has {number} inputs" for name, number in layers.items()]
    return ", ".join(names[:3]) + (f" (and {len(names) - 3} more)" if len(names) > 3 else "")


def warn_of_dense(masks, structure: Structure, kernels) -> None:
    """Logs a warning of the prunable leaves that N:M does not fit.

    Args:
      kernels: the axes of each leaf by its name (`known_axes`).
    """
    if dense := _dense(masks, structure, kernels):
        n, m = structure.sizes
        logging.getLogger(__name__).warning(
            "structure '%s:%s' does not fit %s of %s layers, which are not pruned: the number of inputs is no multiple "
            "of %s in %s",
            n,
            m,
            len(dense),
            len(jax.tree.leaves(masks)),
            m,
            ", ".join(dense),
        )


def unit_ids(shape, structure, axes):
    """The unit of each weight: an output channel, or a block over inputs and outputs at one position of the kernel."""
    ids = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    if len(shape) < 2:
        return ids
    matrix = axes_lib.to_matrix(ids, axes)
    if structure.kind == "filter":
        units = np.broadcast_to(np.arange(matrix.shape[-1]), matrix.shape)
    else:
        (rows, columns), (height, width) = structure.sizes, matrix.shape[-2:]
        n_rows, n_columns = -(-height // rows), -(-width // columns)
        block = np.arange(height)[:, None] // rows * n_columns + np.arange(width) // columns
        positions = np.arange(math.prod(matrix.shape[:-2])).reshape(*matrix.shape[:-2], 1, 1)
        units = positions * n_rows * n_columns + block
    return axes_lib.from_matrix(units, axes, shape)


def n_of_m(mask, scores, n, m, axes, xp=np):
    """`mask` with the `n` highest of each `m` consecutive weights along the inputs; as it is if `m` doesn't fit.

    xp: the module of the arrays, `numpy` or `jax.numpy`.
    """
    if mask.ndim < 2:
        return mask
    ranked = axes_lib.to_matrix(xp.where(mask, scores, -xp.inf), axes).swapaxes(-1, -2)
    if ranked.shape[-1] % m:
        return mask
    groups = ranked.reshape(-1, m)
    order = xp.argsort(-groups, axis=1, stable=True)
    chosen = xp.argsort(order, axis=1, stable=True) < n  # The place of each weight in its group's order.
    return axes_lib.from_matrix(chosen.reshape(ranked.shape).swapaxes(-1, -2), axes, mask.shape) & mask
