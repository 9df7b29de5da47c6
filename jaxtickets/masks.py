"""The algebra of masks: pytrees of booleans with the structure of the parameters.

A mask has a boolean array where a leaf is prunable and `None` where it is not; True keeps the weight.
Everything here is a pure function over pytrees and works with any Flax parameters.
"""

import math
import re
import zlib
from typing import NamedTuple

import jax
import numpy as np

from jaxtickets.errors import UserError


def path_name(path) -> str:
    """The slash-joined name of a `jax.tree_util` key path: `generator/up_16/conv/kernel`.

    A key may hold slashes itself, as Haiku's do. Names in files are encoded (`tensor_files.name_of`), these are not.
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def component_name(path) -> str:
    """The name of the component of a key path: its first key."""
    return path_name(path[:1])


def named_leaves(tree) -> dict:
    """`{slash-joined path: leaf}` in the tree's own order; a mask's `None` leaves are left out.

    Raises:
      UserError: two leaves have one name, because keys hold slashes.
    """
    named = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if (name := path_name(path)) in named:
            raise UserError(f"two parameters are called {name}, because keys hold slashes; allowed is one of each name")
        named[name] = leaf
    return named


def ones(params, include=(r"(^|/)(kernel|embedding)$",), exclude=(), components=()):
    """The mask that keeps every weight.

    A leaf is prunable if some pattern of `include` is found in its path (`re.search`) and none of `exclude` is, and it
    belongs to one of `components`.

    Args:
      params: the parameters, a nested dict of arrays.
      include: regular expressions over slash-joined paths.
      exclude: the same.
      components: top-level keys of `params`; none named: all.

    Raises:
      UserError: a pattern is no regular expression or matches no path, or nothing is left to prune.
    """
    names, hits = list(named_leaves(params)), {}
    for field, patterns in (("include", include), ("exclude", exclude)):
        hits[field] = set()
        for pattern in patterns:
            try:
                found = {name for name in names if re.search(pattern, name)}
            except re.error as error:
                raise UserError(
                    f"prune.{field}: {pattern!r} is not a regular expression ({error}); "
                    "allowed: regular expressions over paths such as generator/up_16/conv/kernel"
                ) from None
            if not found:
                raise UserError(f"prune.{field}: {pattern!r} matches no parameter; the paths are {', '.join(names)}")
            hits[field] |= found
    prunable = hits["include"] - hits["exclude"]

    def mask(path, leaf):
        is_chosen = path_name(path) in prunable and (not components or component_name(path) in components)
        return np.ones(leaf.shape, bool) if is_chosen else None

    masks = jax.tree_util.tree_map_with_path(mask, params)
    if not jax.tree.leaves(masks):
        raise UserError("prune.include, prune.exclude and prune.components leave nothing to prune")
    return masks


def apply(params, masks):
    """The effective weights: every prunable leaf of `params` multiplied by its mask.

    Called inside a loss, it makes the gradient of every pruned weight zero by the chain rule.
    """
    with jax.named_scope("masks"):  # Their name in profiles.
        return jax.tree.map(lambda leaf, mask: leaf if mask is None else leaf * mask.astype(leaf.dtype), params, masks)


def map_components(function, tree, components):
    """`tree` with `function` of each subtree in it that is `{component: ...}` with some of these components.

    An Optax state holds its moments as such trees, shaped like the parameters that it belongs to.
    """

    def is_components(node):
        return isinstance(node, dict) and bool(node) and set(node) <= set(components)

    return jax.tree.map(lambda node: function(node) if is_components(node) else node, tree, is_leaf=is_components)


class Counts(NamedTuple):
    """How many weights a layer or a network has and keeps."""

    weights: int
    kept: int


def layer_counts(masks) -> dict[str, Counts]:
    """The counts of each prunable leaf, by slash-joined path."""
    return {name: Counts(mask.size, int(np.count_nonzero(mask))) for name, mask in named_leaves(masks).items()}


def counts(masks) -> Counts:
    """The counts over all prunable leaves."""
    layers = layer_counts(masks).values()
    return Counts(sum(layer.weights for layer in layers), sum(layer.kept for layer in layers))


def sparsity(masks) -> float:
    """Pruned weights / prunable weights, in [0, 1]."""
    weights, kept = counts(masks)
    return 1 - kept / weights


def sparsity_all(masks, params) -> float:
    """Pruned weights / all parameters, prunable or not."""
    weights, kept = counts(masks)
    return (weights - kept) / sum(leaf.size for leaf in jax.tree.leaves(params))


def hamming_distance(first, second) -> float:
    """The share of prunable weights on which two masks differ, in [0, 1]."""
    differing = jax.tree.map(lambda a, b: int(np.count_nonzero(np.asarray(a) != np.asarray(b))), first, second)
    return sum(jax.tree.leaves(differing)) / counts(first).weights


def shuffle(masks, seed: int):
    """Each leaf's entries in a random order, which the seed, the leaf's path and its size decide."""

    def shuffled(path, mask):
        key = [seed, zlib.crc32(path_name(path).encode())]
        return np.random.Generator(np.random.Philox(key=key)).permutation(np.ravel(mask)).reshape(np.shape(mask))

    return jax.tree_util.tree_map_with_path(shuffled, masks)


def is_nested(inner, outer) -> bool:
    """Whether every weight that `inner` keeps is kept by `outer` too."""
    within = jax.tree.map(lambda a, b: not np.any(np.asarray(a) & ~np.asarray(b)), inner, outer)
    return all(jax.tree.leaves(within))


def pack(masks):
    """Eight weights a byte: the mask with each leaf as a flat uint8 array (`numpy.packbits`)."""
    return jax.tree.map(lambda mask: np.packbits(np.asarray(mask)), masks)


def unpack(packed, like):
    """The inverse of `pack`; `like` is a mask, or parameters, that gives the leaves' shapes.

    Raises:
      ValueError: a leaf has another number of bytes than its shape needs.
    """
    return jax.tree.map(lambda leaf, bits: None if bits is None else unpack_leaf(bits, np.shape(leaf)), like, packed)


def unpack_leaf(bits, shape) -> np.ndarray:
    """The boolean array of a shape that was packed into `bits`.

    Raises:
      ValueError: `bits` is no flat uint8 array of the length that the shape needs.
    """
    bits, entries = np.asarray(bits), math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != (-(-entries // 8),):
        raise ValueError(f"{bits.size} bytes are no mask of {entries} weights, eight per byte")
    return np.unpackbits(bits, count=entries).astype(bool).reshape(shape)
