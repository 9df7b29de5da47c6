"""The algebra of masks: pytrees of booleans with the structure of the parameters.

A mask has a boolean array where a leaf is prunable and `None` where it is not; True keeps the weight.
Everything here is a pure function over pytrees and works with the parameters of any library: Flax linen and NNX,
Equinox, Haiku, or lists, tuples, dictionaries and dataclasses of one's own.
"""

import math
import re
import sys
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxtickets import checks, pytrees
from jaxtickets.errors import UserError
from jaxtickets.pytrees import is_array, is_hole, path_name

PATTERNS = "regular expressions over paths such as generator/up_16/conv/kernel"
# What weights are called, beside Flax's `kernel` and `embedding`: Equinox's, Haiku's. Scales of norms may be called so
# too, but have one axis.
NAMES = ("weight", "weight_ih", "weight_hh", "w", "W", "w_i", "w_h", "embeddings")


def component_name(path) -> str:
    """The name of the component of a key path: its first key."""
    return path_name(path[:1])


def kind_of(name: str) -> str:
    """The last key of a slash-joined path; the leaf `.../kernel/value` of an NNX state is a `kernel`."""
    return name.removesuffix("/value").rpartition("/")[2]


def named_leaves(tree) -> dict[str, Any]:
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


def ones(
    params,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    components: Sequence[str] = (),
    *,
    prefix: str = "",
) -> Any:
    """The mask that keeps every weight.

    A leaf is prunable if some pattern of `include` is found in its path (`re.search`) and none of `exclude` is, and it
    belongs to one of `components`.

    Args:
      params: the parameters, a pytree of arrays; other leaves, such as the functions in an Equinox module, and `None`
        are not prunable.
      include: regular expressions over slash-joined paths, or one. None: every leaf called `kernel` or `embedding`
        (Flax), and those of two axes or more that are called `weight` (Equinox, PyTorch), `w` or `embeddings` (Haiku)
        or the like (`NAMES`), or have no name because they are entries of a list or a tuple. Biases are not, nor are
        the scales of norms.
      exclude: regular expressions too.
      components: top-level keys of `params`; none named: all.
      prefix: what stands before the names of arguments in messages; "prune." makes them those of the config's fields.

    Raises:
      UserError: a pattern is no regular expression or matches no path, a component is not there, there are no arrays,
        or nothing is left to prune.
    """
    leaves = named_leaves(params)
    if not any(map(is_array, leaves.values())):
        raise UserError("params: there are no arrays in it; allowed is a tree of parameters")
    if include is None:
        included = _weights(params, leaves)
        if not included:
            raise UserError(
                f"{prefix}include: no parameter has the name of a weight (kernel, embedding, {', '.join(NAMES)}); "
                f"allowed are regular expressions over the paths, which are {', '.join(leaves)}"
            )
    else:
        included = _matching(f"{prefix}include", include, leaves)
    prunable = included - _matching(f"{prefix}exclude", exclude, leaves)
    chosen, known = checks.texts(components, f"{prefix}components", "top-level keys of the parameters"), _keys(params)
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(f"{prefix}components: {unknown[0]!r} is no top-level key; allowed are {', '.join(known)}")

    def mask(path, leaf):
        is_chosen = path_name(path) in prunable and (not chosen or component_name(path) in chosen)
        return np.ones(leaf.shape, bool) if is_chosen and is_array(leaf) else None

    masks = jax.tree_util.tree_map_with_path(mask, params)
    if not jax.tree.leaves(masks):
        names = f"{prefix}include, {prefix}exclude and {prefix}components"
        raise UserError(f"{names} leave nothing to prune")
    return masks


def _keys(params):
    """The names of the components: the first keys."""
    return list(dict.fromkeys(component_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]))


def _matching(argument, patterns, names):
    """The names in which one of the patterns is found; each must be found in some."""
    hits = set()
    for pattern in checks.texts(patterns, argument, PATTERNS):
        try:
            found = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise UserError(
                f"{argument}: {pattern!r} is not a regular expression ({error}); allowed: {PATTERNS}"
            ) from None
        if not found:
            raise UserError(f"{argument}: {pattern!r} matches no parameter; the paths are {', '.join(names)}")
        hits |= found
    return hits


def _weights(params, leaves):
    """The names of the leaves that are weights, as `ones` says."""
    equinox = sys.modules.get("equinox")  # Who has such modules has imported it.
    norms = (equinox.nn.LayerNorm, equinox.nn.RMSNorm, equinox.nn.GroupNorm) if equinox else ()
    nodes = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda node: isinstance(node, norms))[0]
    inside = tuple(f"{path_name(path)}/" for path, node in nodes if isinstance(node, norms))

    def is_weight(name, leaf):
        kind = kind_of(name)
        if kind in ("kernel", "embedding"):
            return True
        is_matrix = is_array(leaf) and len(leaf.shape) > 1 and jax.dtypes.issubdtype(leaf.dtype, np.inexact)
        return is_matrix and (kind in NAMES or not kind or kind.isdigit()) and not name.startswith(inside)

    return {name for name, leaf in leaves.items() if is_weight(name, leaf)}


def apply(params, masks) -> Any:
    """The effective weights: every prunable leaf of `params` multiplied by its mask.

    Called inside a loss, it makes the gradient of every pruned weight zero by the chain rule. Parameters or masks may
    have further axes in front, the same in each leaf: masks `[k, ...]` of k tickets give k networks.

    Raises:
      UserError: the masks are not those of these parameters.
    """
    masks = pytrees.filled(masks, params)
    pytrees.check_fit(masks, params, exactly=False)

    def effective(leaf, mask):
        return leaf if is_hole(mask) else leaf * mask.astype(leaf.dtype)

    with jax.named_scope("masks"):  # Their name in profiles.
        return pytrees.map_with_holes(effective, params, masks)


def map_components(function, tree, components) -> Any:
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
    return {name: Counts(mask.size, int(np.count_nonzero(mask))) for name, mask in _arrays(masks, "masks").items()}


def _arrays(masks, what):
    """`{slash-joined path: array}` of the prunable leaves.

    Raises:
      UserError: a leaf is no array, or not of booleans.
    """
    for name, mask in (named := named_leaves(masks)).items():
        if not is_array(mask):
            where = f"{name} is" if name else "is"
            raise UserError(f"{what}: {where} {mask!r:.60}; allowed is a tree with an array of bool, or None, per leaf")
        pytrees.check_bool(name, mask, what)
    return named


def counts(masks) -> Counts:
    """The counts over all prunable leaves."""
    layers = layer_counts(masks).values()
    return Counts(sum(layer.weights for layer in layers), sum(layer.kept for layer in layers))


def sparsity(masks) -> float:
    """Pruned weights / prunable weights, in [0, 1].

    Raises:
      UserError: there are no weights in the masks, or a leaf is not of booleans.
    """
    weights, kept = counts(masks)
    return 1 - kept / _some(weights, "masks")


def _some(count, what):
    if not count:
        raise UserError(f"{what}: there is nothing in it; allowed is a tree of arrays, such as jt.masks.ones(params)")
    return count


def sparsity_all(masks, params) -> float:
    """Pruned weights / all parameters, prunable or not."""
    weights, kept = counts(masks)
    return (weights - kept) / _some(sum(leaf.size for leaf in jax.tree.leaves(params) if is_array(leaf)), "params")


def table(masks) -> str:
    """The weights, kept weights and sparsity of each prunable leaf and of all, as lines of text."""
    rows = {**layer_counts(masks), "all": counts(masks)}
    width = max(map(len, rows))
    lines = [f"{'':{width}}  {'weights':>12}  {'kept':>12}  sparsity"]
    for name, (weights, kept) in rows.items():
        lines.append(f"{name:{width}}  {weights:12,}  {kept:12,}  {1 - kept / max(weights, 1):8.2%}")
    return "\n".join(lines)


def nonzero(params, include: Sequence[str] | None = None, exclude: Sequence[str] = ()) -> Any:
    """The mask that keeps the weights that are not zero, such as those of a network that was pruned elsewhere.

    Args:
      include, exclude: which leaves are prunable, as in `ones`.

    Raises:
      UserError: see `ones`.
    """
    dense = ones(params, include, exclude)
    return jax.tree.map(lambda leaf, mask: mask if is_hole(mask) else np.asarray(leaf) != 0, params, dense)


def overlap(first, second) -> float:
    """The share of the weights that `first` keeps which `second` keeps too, in [0, 1]; 1 if `first` keeps none."""
    both = sum(int(np.count_nonzero(a & b)) for a, b in _pairs(first, second, "first", "second"))
    kept = counts(first).kept
    return both / kept if kept else 1.0


def hamming_distance(first, second) -> float:
    """The share of prunable weights on which two masks differ, in [0, 1]."""
    differing = sum(int(np.count_nonzero(a != b)) for a, b in _pairs(first, second, "first", "second"))
    return differing / _some(counts(first).weights, "first")


def _pairs(first, second, *names):
    """The arrays of two masks side by side.

    Raises:
      UserError: they are not those of one network.
    """
    _arrays(first, names[0])
    _arrays(second, names[1])
    found = pytrees.pairs(second, first, names[1], names[0])
    return [(np.asarray(ours), np.asarray(theirs)) for _, theirs, ours in found]


def shuffle(masks, seed: int) -> Any:
    """Each leaf's entries in a random order, which the seed, the leaf's path and its size decide.

    Raises:
      UserError: the seed is no whole number from 0 to 2^64 - 1, or a leaf is no array of booleans.
    """
    seed = checks.check_count(seed, "seed", below=1 << 64)
    _arrays(masks, "masks")

    def shuffled(path, mask):
        key = [seed, zlib.crc32(path_name(path).encode())]
        return np.random.Generator(np.random.Philox(key=key)).permutation(np.ravel(mask)).reshape(np.shape(mask))

    return jax.tree_util.tree_map_with_path(shuffled, masks)


def is_nested(inner, outer) -> bool:
    """Whether every weight that `inner` keeps is kept by `outer` too."""
    return not any(np.any(a & ~b) for a, b in _pairs(inner, outer, "inner", "outer"))


def pack(masks) -> Any:
    """Eight weights a byte: the mask with each leaf as a flat uint8 array (`numpy.packbits`)."""
    _arrays(masks, "masks")
    return jax.tree.map(lambda mask: np.packbits(np.asarray(mask)), masks)


def unpack(packed, like) -> Any:
    """The inverse of `pack`; `like` is a mask, or parameters, that gives the leaves' shapes.

    Raises:
      UserError: the two are built differently.
      ValueError: a leaf has another number of bytes than its shape needs.
    """
    for name, bits, leaf in pytrees.check_like(packed, like, "packed", "like"):
        if not is_hole(bits) and not (is_array(bits) and is_array(leaf)):
            raise UserError(f"packed: {name or 'it'} is {bits!r:.60}; allowed are bits where `like` has an array")

    def mask(leaf, bits):
        return bits if is_hole(bits) else unpack_leaf(bits, np.shape(leaf))

    return pytrees.map_with_holes(mask, like, packed)


def unpack_leaf(bits, shape) -> np.ndarray:
    """The boolean array of a shape that was packed into `bits`.

    Raises:
      ValueError: `bits` is no flat uint8 array of the length that the shape needs.
    """
    bits, entries = np.asarray(bits), math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != (-(-entries // 8),):
        raise ValueError(f"{bits.size} bytes are no mask of {entries} weights, eight per byte")
    return np.unpackbits(bits, count=entries).astype(bool).reshape(shape)
