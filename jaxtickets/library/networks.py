"""Which axes of a module's weights are inputs and outputs, as its layers tell: Flax linen, Flax NNX, Equinox."""

import sys
from typing import Any

import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import pytrees
from jaxtickets.errors import UserError
from jaxtickets.pruning.axes import FLAX, UNKNOWN, Axes, flax_axes

OUT_IN = Axes((1,), (0,))
IN_OUT = Axes((0,), (1,))


def axes(module: Any, *inputs: Any, like: Any = None, **options: Any) -> Any:
    """A tree like the parameters: the `Axes` of each weight of the library's own layers, None for other leaves.

    It is what `jt.prune`, `jt.imp` and the schedules take as `axes`. Weights whose layers do not tell which axes are
    inputs and outputs (`Einsum`, stacks of layers that `scan` or `vmap` made) have unknown axes, and structures along
    axes are refused for them.

    Without it, axes are known by the names of leaves, and a `kernel` is taken for `[..., inputs, outputs]`. So it is
    needed for a `ConvTranspose` with `transpose_kernel=True`: its kernel is `[..., outputs, inputs]`, which its array
    does not show, and by its name it would be pruned along the wrong axis without a message.

    Args:
      module: a Flax linen module, a Flax NNX module, or an Equinox module, also within lists, dictionaries and the
        like. It is not run.
      inputs, options: of linen, what `module.init` takes after the key; `jax.ShapeDtypeStruct`s will do.
      like: of NNX, the parameters, such as `nnx.to_pure_dict(state)`; None: `nnx.state(module, nnx.Param)`.

    Raises:
      UserError: the module is of none of these libraries. Then the axes must be given; see `jt.prune`.
    """
    linen, nnx, equinox = (sys.modules.get(name) for name in ("flax.linen", "flax.nnx", "equinox"))
    if linen and isinstance(module, linen.Module):
        return flax_axes(module, *inputs, **options)
    if nnx and isinstance(module, nnx.Module):
        return _of_nnx(nnx, module, nnx.state(module, nnx.Param) if like is None else like)
    found = _of_equinox(equinox, module) if equinox else None
    if not any(isinstance(own, Axes) for own in jax.tree.leaves(found, is_leaf=lambda own: isinstance(own, Axes))):
        raise UserError(
            f"module: a {type(module).__name__}: allowed are modules of Flax linen, Flax NNX and Equinox that have "
            "layers of these libraries; for others give axes=, such as lambda path: (0, 1) for [in, out]"
        )
    return found


def _of_nnx(nnx, module, like):
    known = {}
    for path, layer in nnx.iter_graph(module):
        if isinstance(layer, nnx.Module):
            for name, own in _of_nnx_layer(nnx, layer).items():
                known["/".join(map(str, (*path, name)))] = own

    def own_axes(path, leaf):
        return _if_of_rank(leaf, *known.get(mask_lib.path_name(path).removesuffix("/value"), (None, None)))

    return jax.tree_util.tree_map_with_path(own_axes, like)


def _of_nnx_layer(nnx, layer):
    """`{name of a parameter: (its axes, its number of axes)}`."""
    if isinstance(layer, nnx.Linear):
        return {"kernel": (FLAX, 2)}
    if isinstance(layer, nnx.LinearGeneral):
        n_in, n_out = (np.size(features) for features in (layer.in_features, layer.out_features))
        own = Axes(tuple(range(-n_in - n_out, -n_out)), tuple(range(-n_out, 0)))
        return {"kernel": (own, n_in + n_out)}
    if isinstance(layer, nnx.Conv | nnx.ConvTranspose):
        is_turned = getattr(layer, "transpose_kernel", False)
        return {"kernel": (Axes((-1,), (-2,)) if is_turned else FLAX, np.size(layer.kernel_size) + 2)}
    if isinstance(layer, nnx.Embed):
        return {"embedding": (FLAX, 2)}
    return {"kernel": (UNKNOWN, None)} if isinstance(layer, nnx.Einsum) else {}


def _of_equinox(equinox, tree):
    layers = equinox.nn
    known = {
        layers.Linear: lambda layer: {"weight": (OUT_IN, 2)},
        layers.Conv: lambda layer: {"weight": (OUT_IN, layer.num_spatial_dims + 2)},
        layers.ConvTranspose: lambda layer: {"weight": (OUT_IN, layer.num_spatial_dims + 2)},
        layers.Embedding: lambda layer: {"weight": (IN_OUT, 2)},
        layers.GRUCell: lambda layer: {"weight_ih": (OUT_IN, 2), "weight_hh": (OUT_IN, 2)},
        layers.LSTMCell: lambda layer: {"weight_ih": (OUT_IN, 2), "weight_hh": (OUT_IN, 2)},
    }
    kinds = tuple(known)

    def of_node(node):
        if not isinstance(node, kinds):
            return None
        own = next(of_layer(node) for kind, of_layer in known.items() if isinstance(node, kind))

        def own_axes(path, leaf):
            return _if_of_rank(leaf, *own.get(mask_lib.path_name(path), (None, None)))

        return jax.tree_util.tree_map_with_path(own_axes, node, is_leaf=pytrees.is_hole)

    return jax.tree.map(of_node, tree, is_leaf=lambda node: pytrees.is_hole(node) or isinstance(node, kinds))


def _if_of_rank(leaf, own, ndim):
    """The axes, unless the leaf has further ones: then it holds several layers."""
    return own if own is None or ndim == np.ndim(leaf) else UNKNOWN
