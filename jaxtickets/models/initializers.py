"""Initializers of kernels `[..., in, out]` and of batch-norm scales, and the names of a parameter's axes."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def initializer(draw: Callable, size: Callable) -> Callable:
    """An initializer of kernels `[..., in, out]`: `draw(key, shape, dtype)` times `size(shape)`.

    It draws a vector and reshapes it. The numbers are those drawn for the kernel's shape, but for that shape XLA's CPU
    back end unrolls the loops over the few taps and takes five times as long to compile.
    """

    def init(key, shape, dtype=float):
        values = draw(key, shape=(math.prod(shape),), dtype=dtype) * jnp.asarray(size(shape), dtype)
        return values.reshape(shape)

    return init


def _fans(shape):
    taps = math.prod(shape[:-2])
    return taps * shape[-2], taps * shape[-1]


def _he(shape):
    # 0.8796... is the standard deviation of a normal distribution truncated to [-2, 2].
    return np.sqrt(np.float32(2 / _fans(shape)[0])) / np.float32(0.87962566103423978)


# Radford, Metz, Chintala 2016, section 3: weights from N(0, 0.02).
dcgan_init = initializer(nn.initializers.normal(0.02), lambda shape: 1)
# He et al. 2015, section 2.2, and Glorot, Bengio 2010, equation 16; equal to `jax.nn.initializers` bit for bit.
he_init = initializer(partial(jax.random.truncated_normal, lower=-2, upper=2), _he)
xavier_init = initializer(
    partial(jax.random.uniform, minval=-1), lambda shape: np.sqrt(3 * np.float32(2 / sum(_fans(shape))))
)


def torch_init(axis: int) -> Callable:
    """PyTorch's default for kernels: uniform in +-1 / sqrt(n), with n the taps times the size of the kernel's `axis`.

    It is He et al. 2015's with a negative slope of sqrt(5) (`torch.nn.init.kaiming_uniform_`).
    """
    draw = partial(jax.random.uniform, minval=-1)
    return initializer(draw, lambda shape: _torch_bound(shape, axis))


def _torch_bound(shape, axis):
    return 1 / np.sqrt(np.float32(math.prod(shape[:-2]) * shape[axis]))


def zero_biases(kernel_shape) -> Callable:
    """The initializer of the biases of a layer whose kernel has this shape."""
    del kernel_shape
    return nn.initializers.zeros


def torch_biases(axis: int) -> Callable:
    """Like `zero_biases`: PyTorch's default, the distribution of the layer's kernel (`torch_init`)."""
    draw = partial(jax.random.uniform, minval=-1)
    return lambda kernel_shape: initializer(draw, lambda shape: _torch_bound(kernel_shape, axis))


def inits(kernels: str, own: Callable, biases: str) -> tuple[dict[str, Callable], dict[str, Callable]]:
    """The initializers of transposed convolutions and of convolutions, as attributes of `layers.Style`.

    PyTorch takes the outputs of a transposed convolution for its fan in.

    Args:
      kernels: "torch" for PyTorch's, "" for `own`.
      biases: "torch" for PyTorch's, "" for zeros.
    """
    up, down = (
        {
            "kernel_init": torch_init(axis) if kernels == "torch" else own,
            "bias_init": torch_biases(axis) if biases == "torch" else zero_biases,
        }
        for axis in (-1, -2)
    )
    return up, down


def normal_scale_init(key, shape, dtype=jnp.float32):
    """Scales of norms from N(1, 0.02), as in DCGAN's code."""
    return 1 + dcgan_init(key, shape, dtype)


SCALE_INITS = {"ones": nn.initializers.ones, "normal": normal_scale_init}


def named(init: Callable, *names: str | None) -> Callable:
    """An initializer of a parameter that keeps the channel name of each of its axes (`models.axis_names`)."""
    return nn.with_logical_partitioning(init, names)
