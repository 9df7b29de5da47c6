"""How ticket files hold trees: a few flat arrays without pruned weights and zeros, and the list of their leaves.

docs/tickets.md specifies the format, so that other programs can read it.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxtickets import tensor_files
from jaxtickets.errors import UserError
from jaxtickets.tensor_files import expect

MASKS, VALUES = "masks", "values/"
WHOLE, ZERO, SAME = "whole", "zero", "="
EXACT = ("params", "batch_stats", "trained")  # Trees whose leaves refer to no other leaf.
MOST = 1 << 32  # Zeros of which a file holds nothing.


def arrays_of(tree) -> dict[str, Any]:
    """`{name: leaf}` of the leaves that are arrays or numbers; functions and other objects have no place in a file."""
    return {name: leaf for name, leaf in tensor_files.named(tree).items() if isinstance(leaf, tensor_files.NUMBERS)}


def pack(trees: Mapping[str, Any], masks, axis_names=None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`(arrays by name, {"leaves": ..., "masks": ...} as JSON values)` of trees.

    Args:
      trees: by name. "params" and what is trained are masked here; in the others an array with a mask's path and shape
        loses the pruned numbers if all of them are zero.
      masks: a tree like `params`.
      axis_names: a tree like `params` whose leaves are tuples with the name of each axis, or None.

    Raises:
      UserError: an array has a type that the file has no room for, or a mask is no mask of a parameter.
    """
    keeps = {name: np.asarray(mask) for name, mask in tensor_files.named({"params": masks}).items()}
    axes = {} if axis_names is None else _axes({"params": axis_names})
    numbers = {name: number for number, name in enumerate(keeps)}
    leaves, values, known, arrays = {}, {}, {}, {}
    for name, tree in trees.items():  # In this order: JAX sorts the keys of a dictionary.
        arrays |= arrays_of({name: tree})
    for name, leaf in arrays.items():
        array, kind = tensor_files.stored(name, leaf)
        keep = keeps.get(name)
        if keep is not None and (keep.shape != array.shape or keep.dtype != bool):
            raise UserError(f"{name}: its mask is {keep.dtype} {keep.shape}; allowed is bool {array.shape}")
        how, content = WHOLE, array.reshape(-1)
        mask = name if keep is not None else _mask_of(name, array, keeps)
        if mask is not None and not keeps[mask].all():
            how, content = numbers[mask], array[keeps[mask]]
        if not content.view(np.uint8).any():
            how = ZERO
        first = known.setdefault((kind, array.shape, how, hashlib.sha256(content).digest()), name)
        if how != ZERO and first != name and name.partition("/")[0] not in EXACT:
            how = SAME + first
        if how == ZERO or str(how).startswith(SAME):
            content = content[:0]
        values.setdefault(_tensor(kind), []).append(content)
        own = [names] if any(names := axes.get(name, ())) else []
        leaves[name] = [kind, list(array.shape), how, *own]
    if strange := keeps.keys() - leaves.keys():
        raise UserError(f"{min(strange)}: has a mask and is no array; allowed are masks with the structure of `params`")
    arrays = {name: np.concatenate(own) for name, own in values.items()}
    bits = np.concatenate([keep.reshape(-1) for keep in keeps.values()]) if keeps else np.zeros(0, bool)
    arrays = {name: array for name, array in arrays.items() if array.size} | {MASKS: np.packbits(bits)}
    return arrays, {"leaves": leaves, "masks": list(keeps)}


def _axes(tree):
    is_names = lambda node: isinstance(node, tuple) and all(isinstance(one, str | None) for one in node)  # noqa: E731
    found = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_names)[0]
    return {tensor_files.name_of(path): names for path, names in found}


def _tensor(kind):
    """The name of the array in the file with the values of a type."""
    return VALUES + ("uint32" if kind.startswith(tensor_files.KEY) else kind)


def _mask_of(name, array, keeps):
    """The mask with whose path the name of a leaf ends, if it has the shape and all that is pruned is zero.

    Trained weights are masked, whatever they are.
    """
    for mask, keep in keeps.items():
        is_own = name.endswith(mask.removeprefix("params")) and keep.shape == array.shape
        if is_own and (name == f"trained/{mask}" or not array[~keep].any()):
            return mask
    return None


def unpack(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The inverse of `pack`: `(leaves by name, masks by the name of the parameter)`.

    Raises:
      KeyError, ValueError, TypeError: the arrays and the list of leaves do not fit each other.
    """
    listed = expect(about["leaves"], dict, "`leaves`")
    names = expect(about["masks"], list, "`masks`")
    bits, at, keeps = _bits(arrays[MASKS]), 0, []
    if len(set(names)) < len(names):
        raise ValueError("a parameter has two masks")
    for name in names:
        if not expect(name, str, "the name of a mask").startswith("params"):
            raise ValueError(f"there is a mask of {name}")
        shape = _shape(name, listed[name][1])
        keeps.append(bits[at : at + math.prod(shape)].reshape(shape))
        at += math.prod(shape)
    if len(bits) - at not in range(8) or bits[at:].any():
        raise ValueError(f"the masks have {len(bits)} bits for {at} weights")
    left = {name: array for name, array in arrays.items() if name != MASKS}
    found = dict(_leaves(listed, keeps, left))
    if over := [name for name, array in left.items() if array.size]:
        raise ValueError(f"the array {over[0]} has {left[over[0]].size} numbers too many")
    return found, dict(zip(names, keeps, strict=True))


def _leaves(listed, keeps, left) -> Iterator[tuple[str, Any]]:
    """`(name, leaf)` one after another; takes the values from `left`."""
    made, zeros = {}, 0
    for name, entry in listed.items():
        kind, shape, how = expect(entry, list, f"the entry of {name}")[:3]
        stored, shape = tensor_files.stored_type(name, kind), _shape(name, shape)
        if how == ZERO:
            if (zeros := zeros + math.prod(shape)) > MOST:
                raise ValueError(f"there are more than {MOST} zeros")
            array = np.zeros(shape, stored)
        elif isinstance(how, str) and how.startswith(SAME):
            array = made[how.removeprefix(SAME)]
            if (array.shape, array.dtype) != (shape, np.dtype(stored)):
                raise ValueError(f"{name} is not like {how.removeprefix(SAME)}")
        else:
            keep = None if how == WHOLE else keeps[_index(how, keeps)]
            if keep is not None and keep.shape != shape:
                raise ValueError(f"the mask of {name} has the shape {keep.shape}")
            count = math.prod(shape) if keep is None else int(np.count_nonzero(keep))
            tensor = left.get(_tensor(kind), np.zeros(0, stored))
            if tensor.dtype != stored or tensor.ndim != 1 or tensor.size < count:
                raise ValueError(f"{name} needs {count} numbers and the file has other ones")
            values, left[_tensor(kind)] = tensor[:count], tensor[count:]
            if keep is None:
                array = values.reshape(shape).copy()
            else:
                array = np.zeros(shape, stored)
                array[keep] = values
        made[name] = array
        yield name, tensor_files.restored(array, kind)


def sizes(about: Mapping[str, Any], masks: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The number of bytes that the file holds of each leaf.

    Args:
      about: as in `unpack`.
      masks: what `unpack` has returned.
    """
    kept, found = [int(np.count_nonzero(masks[name])) for name in about["masks"]], {}
    for name, (kind, shape, how, *_) in about["leaves"].items():
        count = kept[how] if isinstance(how, int) else math.prod(shape) if how == WHOLE else 0
        found[name] = count * np.dtype(tensor_files.stored_type(name, kind)).itemsize
    return found


def _bits(masks):
    if masks.dtype != np.uint8 or masks.ndim != 1:
        raise ValueError("its masks are no bits, eight per byte")
    return np.unpackbits(masks).astype(bool)


def _shape(name, shape):
    for size in expect(shape, list, f"the shape of {name}"):
        if expect(size, int, f"a size of {name}") < 0:
            raise ValueError(f"a size of {name} is {size}")
    return tuple(shape)


def _index(how, keeps):
    if not 0 <= expect(how, int, "the number of a mask") < len(keeps):
        raise ValueError(f"there is no mask {how}")
    return how
