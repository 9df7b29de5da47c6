"""Which axes of a kernel are its inputs and its outputs: what structured pruning must know.

They are known of a module's own layers (`jt.axes`), or given by the caller, or follow from the leaf's name:
`kernel` is Flax's `[..., in, out]`, if it has two axes or at least four, and `embedding` is `[in, out]`. A `kernel` of
three axes may be one of attention, `[in, heads, size]`. A `weight` may be anything: PyTorch's are `[out, in, ...]` in
convolutions, `[in, out, ...]` in transposed ones, and `[entries, out]` in embeddings; Haiku's `w` differs likewise.
What is not known is refused, because along a wrong axis everything still runs. By its name a kernel of four axes is
`nn.Conv`'s: those of `nn.ConvTranspose(transpose_kernel=True)` and `nn.DenseGeneral` need `axes`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import pytrees
from jaxtickets.checks import check_function
from jaxtickets.errors import UserError


class Axes(NamedTuple):
    """The axes of a kernel by their numbers, negative ones from the end; the others are positions, such as height.

    Attributes:
      inputs, outputs: their product is the number of inputs (outputs). A depthwise kernel has no input axis.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


UNKNOWN = Axes((), ())
FLAX = Axes((-2,), (-1,))


def flax_axes(module, *inputs, **options):
    """A tree like the parameters of a Flax linen module: the `Axes` of each kernel of a layer of Flax's, else None.

    Kernels of `nn.Einsum`, and those that `nn.scan` or `nn.vmap` stack, have `UNKNOWN` axes: they must be given.

    Args:
      module: the module; it is not run, only traced.
      inputs, options: what `module.init` takes after the key. Inputs may be `jax.ShapeDtypeStruct`s.
    """
    from flax import linen as nn  # The import of masks and scores stays light.

    found = {}

    def note(function, arguments, keywords, context):
        found.update(_of_layer(nn, context.module))
        return function(*arguments, **keywords)

    def init(*inputs):
        return nn.unbox(module.init(jax.random.key(0), *inputs, **options))

    with nn.intercept_methods(note):
        params = jax.eval_shape(init, *inputs).get("params", {})

    def axes(path, leaf):
        own, ndim = found.get(tuple(key.key for key in path), (None, leaf.ndim))
        return own if ndim == leaf.ndim else UNKNOWN  # `nn.scan` and `nn.vmap` stack the kernels of several layers.

    return jax.tree_util.tree_map_with_path(axes, params)


def _of_layer(nn, layer):
    """`{path of a parameter: (its axes, its number of axes)}` of one of Flax's layers, else {}."""
    kernel = (*layer.path, "kernel")
    if isinstance(layer, nn.Conv | nn.ConvLocal | nn.ConvTranspose):
        is_turned = getattr(layer, "transpose_kernel", False)
        return {kernel: (Axes((-1,), (-2,)) if is_turned else FLAX, np.size(layer.kernel_size) + 2)}
    if isinstance(layer, nn.DenseGeneral):
        inputs, outputs = (len(axis) if isinstance(axis, Sequence) else 1 for axis in (layer.axis, layer.features))
        own = Axes(tuple(range(-inputs - outputs, -outputs)), tuple(range(-outputs, 0)))
        return {kernel: (own, inputs + outputs)}
    if isinstance(layer, nn.Dense):
        return {kernel: (FLAX, 2)}
    if isinstance(layer, nn.Embed):
        return {(*layer.path, "embedding"): (FLAX, 2)}
    return {kernel: (UNKNOWN, len(layer.shape))} if isinstance(layer, nn.Einsum) else {}


def of_leaves(tree, axes=None) -> list[Axes]:
    """What is said of the axes of each leaf, `None` leaves too, in the tree's order; None: nothing.

    Args:
      axes: None; a tree like `tree` with a pair (inputs, outputs) or None for each leaf; or a function from a leaf's
        slash-joined path to that. Each of the two is the number of an axis or several, such as `(1, 0)` for
        `[out, in, height, width]`. Dictionaries may lack keys: nothing is said of what is there, such as batch
        statistics beside the parameters of `jt.axes`.

    Raises:
      UserError: `axes` is something else, or a tree of another structure.
    """
    # A module with axes for its weights can be called too, and is no leaf.
    if axes is None or (callable(axes) and jax.tree_util.all_leaves([axes])):
        if axes is not None:
            check_function(axes, "axes", "path")
        return [axes and axes(name) for name, _ in pytrees.with_holes(tree)]
    try:
        return pytrees.structure_of(tree).flatten_up_to(_completed(tree, axes))
    except ValueError as error:
        raise UserError(f"axes: allowed is a function of a path, or a tree like the parameters ({error})") from None


def _completed(tree, axes):
    """`axes` with None for each leaf of a key that it lacks."""
    if type(tree) is not dict or type(axes) is not dict or not axes or not axes.keys() <= tree.keys():
        return axes
    nothing = jax.tree.map(lambda _: None, tree, is_leaf=pytrees.is_hole)
    return {key: _completed(branch, axes[key]) if key in axes else nothing[key] for key, branch in tree.items()}


def find(name: str, ndim: int, said) -> Axes | None:
    """The axes of a leaf with two axes or more, counted from 0; None if they are not known.

    Args:
      name: the slash-joined path.
      said: an entry of `of_leaves`.

    Raises:
      UserError: `said` is no pair, or names an axis that is not there, or twice.
    """
    if said is None:
        kind = mask_lib.kind_of(name)
        is_known = (kind == "kernel" and ndim != 3) or (kind == "embedding" and ndim == 2)
        said = FLAX if is_known else UNKNOWN
    try:
        inputs, outputs = (tuple(own) if isinstance(own, Sequence) else (own,) for own in said)
        numbers = [*inputs, *outputs]
    except (TypeError, ValueError):
        numbers = [None]
    if not all(type(axis) is int and -ndim <= axis < ndim for axis in numbers) or len(
        {axis % ndim for axis in numbers}
    ) < len(numbers):
        raise UserError(
            f"axes: {said!r} of {name}: allowed is a pair (inputs, outputs), each the number of an axis or several, "
            f"different ones from {-ndim} to {ndim - 1}, as (1, 0) for [out, in, height, width]"
        )
    found = Axes(tuple(axis % ndim for axis in inputs), tuple(axis % ndim for axis in outputs))
    return found if found.outputs else None


def refuse_unknown(names: Sequence[str], what: str) -> None:
    """Refuses leaves whose axes are not known, if there are any.

    Raises:
      UserError: there are.
    """
    if names:
        others = f" (and of {len(names) - 1} more)" if len(names) > 1 else ""
        raise UserError(
            f"{what}: which axes of {names[0]}{others} are inputs and outputs is not known; known are layers of Flax "
            "and Equinox (axes=jt.axes(module)), and `kernel` [..., in, out] with 2 axes or more than 3; else give "
            "axes=, such as lambda path: (1, 0) for [out, in, ...], or exclude such leaves from the masks"
        )


def to_matrix(leaf: np.ndarray, axes: Axes) -> np.ndarray:
    """`[positions..., inputs, outputs]`: the leaf with all its input axes as one, of size 1 if there is none."""
    moved = leaf.transpose(_order(leaf.ndim, axes))
    positions = leaf.ndim - len(axes.inputs) - len(axes.outputs)
    inputs = int(np.prod(moved.shape[positions : positions + len(axes.inputs)], dtype=np.int64))
    outputs = int(np.prod(moved.shape[positions + len(axes.inputs) :], dtype=np.int64))
    return moved.reshape(*moved.shape[:positions], inputs, outputs)


def from_matrix(matrix: np.ndarray, axes: Axes, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `to_matrix` for a leaf of a shape."""
    order = _order(len(shape), axes)
    return matrix.reshape([shape[axis] for axis in order]).transpose(tuple(np.argsort(order).tolist()))


def _order(ndim, axes):
    positions = [axis for axis in range(ndim) if axis not in (*axes.inputs, *axes.outputs)]
    return (*positions, *axes.inputs, *axes.outputs)
