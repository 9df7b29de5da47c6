"""Networks as PyTorch's state dicts: the names and the layouts of its layers, in safetensors.

`torch_twins.py` has the modules that load them. Names are those of the Flax modules, joined by dots:
`generator.up_16.conv` has `weight` and `bias`, a norm also `running_mean` and `running_var`.
"""

import json
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxtickets import masks as mask_lib
from jaxtickets import models
from jaxtickets.models import layers

NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# How the axes of a kernel are ordered there. Both define a transposed convolution as the transpose of a convolution
# (`layers.ConvTranspose`), so nothing is flipped.
CONV, TRANSPOSED, DENSE = (3, 2, 0, 1), (2, 3, 0, 1), (1, 0)
LAYOUTS = {layers.ConvTranspose: TRANSPOSED, layers.Unproject: TRANSPOSED, layers.Dense: DENSE}


class Layer(NamedTuple):
    """A layer with a kernel: its dotted name, its class in `models.layers`, its stride and its padding."""

    name: str
    kind: str
    stride: int
    padding: int


def layers_of(components: dict[str, models.Component]) -> dict[str, tuple[Layer, type]]:
    """`{path: (layer, its class)}` of all layers with kernels, in the order in which they are computed."""
    found = {}

    def record(call, args, kwargs, context):
        module = context.module
        if isinstance(module, layers._Kernel) and context.method_name == "__call__":
            path = "/".join((component, *module.path))
            stride, padding = getattr(module, "stride", 1), getattr(module, "padding", 0)
            found[path] = Layer(path.replace("/", "."), type(module).__name__, stride, padding), type(module)
        return call(*args, **kwargs)

    for component, one in components.items():
        with nn.intercept_methods(record):
            jax.eval_shape(lambda component=component, one=one: models.init({component: one}, jax.random.key(0)))
    return found


def state_dict(components: dict[str, models.Component], params, batch_stats) -> dict[str, np.ndarray]:
    """Effective weights and batch statistics with PyTorch's names and layouts.

    A kernel `[h, w, in, out]` becomes `[out, in, h, w]`, that of a transposed convolution `[in, out, h, w]`, a dense
    one `[out, in]`. Kernels with a spectral norm are divided by their singular value, as in evaluation, and need none.

    Args:
      params, batch_stats: of all components; pruned weights are zero, and are zero there.
    """
    known, found = layers_of(components), {}
    statistics = mask_lib.named_leaves(batch_stats)
    for path, leaf in mask_lib.named_leaves(params).items():
        module, _, name = path.rpartition("/")
        leaf = np.asarray(leaf)
        if (u := statistics.get(f"{module}/u")) is not None and name in ("kernel", "embedding"):
            leaf = leaf / _singular_value(leaf.reshape(-1, leaf.shape[-1]), np.asarray(u))
        if name == "kernel":
            leaf = leaf.transpose(LAYOUTS.get(known[module][1], CONV))
        found[_name(module, name)] = np.ascontiguousarray(leaf)
    for path, leaf in statistics.items():
        module, _, name = path.rpartition("/")
        if name != "u":
            found[_name(module, name)] = np.ascontiguousarray(leaf)
        if name == "mean":
            found[_name(module, "num_batches_tracked")] = np.array(0, np.int64)
    return found


def _name(module, name):
    return f"{module.replace('/', '.')}.{NAMES.get(name, name)}"


def _singular_value(matrix, u):
    """The estimate of the largest singular value with which `norms.spectral_normalize` divides in evaluation."""
    left = u / (np.linalg.norm(u) + 1e-12)
    right = matrix @ left
    right = right / (np.linalg.norm(right) + 1e-12)
    return max(right @ matrix @ left, np.float32(1e-12))


def metadata(components: dict[str, models.Component], model: dict) -> dict[str, str]:
    """The metadata of the file, from which `torch_twins` builds the modules; `model` is a `config.model`."""
    about = {"model": model, "layers": [list(layer) for layer, _ in layers_of(components).values()]}
    return {"format": "pt", "jaxtickets": json.dumps(about, sort_keys=True)}
