"""What can be asked of components without training them: names of axes, multiplications, flows."""

import dataclasses
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxtickets.errors import UserError
from jaxtickets.models.components import Component, variables
from jaxtickets.models.convolutional import identity


class AxisNames(NamedTuple):
    """Trees like the parameters and the batch statistics: each leaf is a tuple with the name of each axis, or None."""

    params: dict
    batch_stats: dict


def axis_names(components: dict[str, Component]) -> AxisNames:
    """The name of the channels along each axis of each leaf, or None.

    A convolution's kernel has `(None, None, "up_8", "up_16")`; the scale of its batch norm, the running mean and the
    vector of its spectral norm have `("up_16",)`. Within a component, axes of one name are the same channels: layers
    joined by a residual sum share their name. Images, latents, classes and codes have no name, nor have the axes of
    parameters that a module declares without names.
    """
    names = AxisNames({}, {})
    for component, collections in _shapes(components).items():
        leaves = traverse_util.flatten_dict(collections.get("params", {}))
        params = {
            path: leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else (None,) * leaf.ndim
            for path, leaf in leaves.items()
        }
        # A statistic has the last axis of its module's parameters; a conditional norm's are one module deeper.
        made = {path[:-1]: axes[-1] for path, axes in params.items() if axes}
        batch_stats = {
            path: (*(None,) * (leaf.ndim - 1), made.get(path[:-1], made.get(path[:-2])))[: leaf.ndim]
            for path, leaf in traverse_util.flatten_dict(collections.get("batch_stats", {})).items()
        }
        names.params[component] = traverse_util.unflatten_dict(params)
        names.batch_stats[component] = traverse_util.unflatten_dict(batch_stats)
    return names


def kernel_uses(components: dict[str, Component]) -> dict[str, np.ndarray]:
    """The number of times that one example's forward pass multiplies by each weight of each kernel.

    Returns:
      By slash-joined path of the kernel, an int array that broadcasts against it. For a convolution it is
      `[kernel height, kernel width, 1, 1]`, because a tap at the kernel's edge meets padding where the centre meets
      pixels; for a dense layer it is ones. It counts the published operation, also where a layer computes the same
      function in another way (`models.layers`), and no multiplications by padding, as in XLA's cost analysis.
    """
    uses = {}
    for name, collections in _shapes(components).items():
        params = traverse_util.flatten_dict(nn.unbox(collections.get("params", {})), sep="/")
        for path, (recorded,) in traverse_util.flatten_dict(collections.get("kernel_uses", {}), sep="/").items():
            counts = reduce(np.multiply.outer, recorded.value, np.array(1))
            uses[f"{name}/{path}"] = counts.reshape(counts.shape + (1,) * (params[path].ndim - counts.ndim))
    return uses


def products(components: dict[str, Component]) -> dict[str, int]:
    """The number of multiplications without a kernel, attention's two products, in one example's forward pass.

    By slash-joined path of the module that multiplies.
    """
    found = {}
    for name, collections in _shapes(components).items():
        recorded = traverse_util.flatten_dict(collections.get("products", {}))
        found |= {"/".join((name, *path[:-1])): static.value for path, (static,) in recorded.items()}
    return found


def _shapes(components):
    return jax.eval_shape(lambda: variables(components, jax.random.key(0)))


def check_flows(components: dict[str, Component]) -> None:
    """Refuses components that can't be made linear.

    Raises:
      UserError: a module has no `style`, which its activations and norms are changed by.
    """
    for name, component in components.items():
        if not (hasattr(component.module, "style") or getattr(component.module, "is_one_layer", False)):
            raise UserError(
                f"config.prune.score: the synaptic flow through {name} is not known, because its module "
                f"{type(component.module).__name__} has no `style` (jaxtickets.models.layers.Style); use another score"
            )


def flows(components: dict[str, Component], batch_stats) -> dict[str, Callable]:
    """`{component: flow}` with `flow(params) -> R`, the sum of the outputs of the linear component for inputs of ones.

    As published for SynFlow (Tanaka et al. 2020, section 6), in evaluation mode, so that batch norm is a product with
    its scale, and with non-negative statistics. With non-negative parameters a ReLU passes everything; other
    activations and the squashing of images become the identity, and norms that would cancel a layer's size (layer norm,
    spectral norm) are left out. A conditional network's flow is summed over all classes. A module that says
    `is_one_layer`, such as a codebook, is a layer by itself: its flow is the sum of its parameters.
    """
    check_flows(components)

    def flow_of(name, component):
        module = component.module
        if getattr(module, "is_one_layer", False):
            return lambda params: sum(map(jnp.sum, jax.tree.leaves(params)), jnp.float32(0))
        style = module.style
        norm = "none" if style.norm == "layer" else style.norm
        linear = dataclasses.replace(style, norm=norm, spectral=False, activation=identity, squash=identity)
        statistics = jax.tree.map(abs, batch_stats[name])
        n = max(1, component.classes)

        def flow(params):
            collections = {"params": params, "batch_stats": statistics}
            ones, labels = (jnp.ones((n, *shape)) for shape in component.input_shapes), jnp.arange(n)
            return module.clone(style=linear).apply(collections, *ones, train=False, labels=labels).sum()

        return flow

    return {name: flow_of(name, component) for name, component in components.items()}
