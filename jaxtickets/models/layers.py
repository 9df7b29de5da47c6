"""Flax layers whose kernels are stored as `[height, width, in, out]` and run fast.

A layer is exact against the plain `jax.lax` operation in value and gradient; what differs is how XLA is asked for it.
Each layer names the channels of its kernel's axes (`models.axis_names`), and records how often the plain operation uses
each place of its kernel, so that FLOPs can be counted from shapes alone (`models.kernel_uses`).
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax import lax

from jaxtickets.models.convolution import conv, conv_transpose

# The named scope of work on weights, which is done once a batch.
SPECTRAL_NORM = "spectral_norm"


def initializer(draw: Callable, size: Callable) -> Callable:
    """An initializer of kernels `[..., in, out]`: `size(shape)` times what `draw` gives.

    It draws a vector: the numbers are those for the kernel's shape, but there XLA's CPU back end unrolls the loops over
    its few taps, and takes five times as long to compile.
    """

    def init(key, shape, dtype=float):
        values = draw(key, shape=(math.prod(shape),), dtype=dtype) * jnp.asarray(size(shape), dtype)
        return values.reshape(shape)

    return init


def _fans(shape):
    taps = math.prod(shape[:-2])
    return taps * shape[-2], taps * shape[-1]


def _he(shape):
    # 0.8796... is the standard deviation of what `truncated_normal` draws.
    return np.sqrt(np.float32(2 / _fans(shape)[0])) / np.float32(0.87962566103423978)


# Radford, Metz, Chintala 2016, section 3: weights from N(0, 0.02).
dcgan_init = initializer(nn.initializers.normal(0.02), lambda shape: 1)
# He et al. 2015, section 2.2, and Glorot, Bengio 2010, equation 16; as `jax.nn.initializers` has them, bit for bit.
he_init = initializer(partial(jax.random.truncated_normal, lower=-2, upper=2), _he)
xavier_init = initializer(
    partial(jax.random.uniform, minval=-1), lambda shape: np.sqrt(3 * np.float32(2 / sum(_fans(shape))))
)


def dcgan_scale_init(key, shape, dtype=jnp.float32):
    """Scales of batch norms from N(1, 0.02), as in DCGAN's code."""
    return 1 + dcgan_init(key, shape, dtype)


def _widen(kernel):
    """The 4x4 kernel that is a 3x3 kernel after (or before) a sum over 2x2 pixels."""
    padded = jnp.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0)))
    return padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:]


def upsample_conv(x, kernel):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution with padding 1: `[batch, 2h, 2w, out]`.

    Upsampling is the transposed convolution of stride 2 with ones(2, 2); so both together are that of the
    widened kernel: 16 products a pixel of `x` instead of 36, and no map of four times `x`'s size in between.
    """
    return conv_transpose(x, _widen(kernel[::-1, ::-1]), 2, 1)


def conv_pool(x, kernel):
    """A 3x3 convolution with padding 1, then the mean over 2x2 pixels: `[batch, h/2, w/2, out]`.

    Both together are the convolution of stride 2 with the widened kernel over 4: 16 products instead of 36.
    """
    return conv(x, _widen(kernel) / 4, 2, 1)


def upsample(x):
    """Nearest-neighbour upsampling of `[batch, h, w, c]` by 2."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def pool(x):
    """The mean over 2x2 pixels of `[batch, h, w, c]`."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


@flax.struct.dataclass
class Static:
    """What a layer records of its shapes: part of a tree's structure, so that `jax.eval_shape` keeps its value."""

    value: Any = flax.struct.field(pytree_node=False)


def tap_uses(size: int, positions: int, kernel_size: int, stride: int = 1, padding: int = 0) -> tuple[int, ...]:
    """How often each tap of a kernel meets a pixel rather than padding, along one axis.

    The kernel lies at so many `positions`, `stride` pixels apart, the first of them `padding` pixels before the `size`
    pixels of the axis. Those are read in a convolution and made in a transposed one, whose positions are its input's
    pixels.
    """
    return tuple(
        sum(0 <= stride * position + tap - padding < size for position in range(positions))
        for tap in range(kernel_size)
    )


def named(init: Callable, *names: str | None) -> Callable:
    """An initialiser whose parameter remembers the channel name of each of its axes (`models.axis_names`)."""
    return nn.with_logical_partitioning(init, names)


def _unit(vector):
    return vector / (jnp.linalg.norm(vector) + 1e-12)


@jax.named_scope(SPECTRAL_NORM)
def spectral_normalize(module: nn.Module, kernel):
    """`kernel` over its largest singular value as a matrix `[everything else, out]` (Miyato et al. 2018, section 2).

    One power iteration a training pass; the left vector `u` lives beside the batch statistics and, like them, moves
    only in training. The gradient goes through the singular value, with its vectors held constant (algorithm 1).
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    u = module.variable(
        "batch_stats", "u", lambda: _unit(jax.random.normal(module.make_rng("params"), matrix.shape[-1:]))
    )
    left = _unit(u.value)  # A running average of unit vectors is shorter than one.
    right = _unit(lax.stop_gradient(matrix) @ left)
    if module.is_mutable_collection("batch_stats") and not module.is_initializing():
        moved = right @ lax.stop_gradient(matrix)
        left = u.value = jnp.where(moved.any(), _unit(moved), left)  # An emptied kernel has no direction.
    return kernel / jnp.maximum(right @ matrix @ left, 1e-12)


class _Kernel(nn.Module):
    """What the layers below share: a kernel, an optional bias and a computing dtype.

    A layer says what its kernel does in `apply_kernel(x, kernel)`, and how many `spatial` axes the kernel has.
    """

    spatial = 2

    features: int
    kernel_size: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = dcgan_init
    spectral: bool = False
    inputs: str | None = None  # The names of the channels that are read and made.
    outputs: str | None = None

    def parameters(self, in_features: int):
        size = (self.kernel_size,) * self.spatial
        init = named(self.kernel_init, *[None] * self.spatial, self.inputs, self.outputs)
        kernel = self.param("kernel", init, (*size, in_features, self.features))
        if self.spectral:
            kernel = spectral_normalize(self, kernel)
        bias_init = named(nn.initializers.zeros, self.outputs)
        bias = self.param("bias", bias_init, (self.features,)) if self.use_bias else None
        return nn.dtypes.promote_dtype(kernel, bias, dtype=self.dtype)

    @nn.compact
    def __call__(self, x):
        kernel, bias = self.parameters(x.shape[-1])
        y = self.apply_kernel(x.astype(kernel.dtype), kernel)
        return y if bias is None else y + bias

    def record_uses(self, sizes=(), positions=(), stride: int = 1, padding: int = 0):
        """Notes how often an image uses each tap; see `tap_uses`, of whose numbers there is one for each axis here.

        Without sizes each weight is used once.
        """
        taps = [tap_uses(*axis, self.kernel_size, stride, padding) for axis in zip(sizes, positions, strict=True)]
        self.sow("kernel_uses", "kernel", Static(tuple(taps)))


class Conv(_Kernel):
    """A convolution of `[batch, h, w, in]` with zero padding on each side."""

    stride: int = 1
    padding: int = 0

    def apply_kernel(self, x, kernel):
        y = conv(x, kernel, self.stride, self.padding)
        self.record_uses(x.shape[1:3], y.shape[1:3], self.stride, self.padding)
        return y


class ConvTranspose(_Kernel):
    """A transposed convolution of `[batch, h, w, in]`; see `conv_transpose`."""

    stride: int = 2
    padding: int = 1

    def apply_kernel(self, x, kernel):
        y = conv_transpose(x, kernel, self.stride, self.padding)
        self.record_uses(y.shape[1:3], x.shape[1:3], self.stride, self.padding)
        return y


class UpsampleConv(_Kernel):
    """Nearest-neighbour upsampling by 2 and a 3x3 convolution; see `upsample_conv`."""

    def apply_kernel(self, x, kernel):
        y = upsample_conv(x, kernel)
        self.record_uses(y.shape[1:3], y.shape[1:3], padding=1)
        return y


class ConvPool(_Kernel):
    """A 3x3 convolution and the mean over 2x2 pixels; see `conv_pool`."""

    def apply_kernel(self, x, kernel):
        self.record_uses(x.shape[1:3], x.shape[1:3], padding=1)
        return conv_pool(x, kernel)


class Unproject(_Kernel):
    """`[batch, in]` -> `[batch, size, size, out]`: a transposed convolution of a 1x1 image, as a product."""

    def apply_kernel(self, x, kernel):
        self.record_uses()
        return jnp.einsum("bi,hwio->bhwo", x, kernel)


class Project(_Kernel):
    """`[batch, size, size, in]` -> `[batch, out]`: a convolution that covers its input, as a product."""

    def apply_kernel(self, x, kernel):
        self.record_uses()
        return jnp.einsum("bhwi,hwio->bo", x, kernel)


class Dense(_Kernel):
    """`[batch, in]` -> `[batch, out]`; the kernel is `[in, out]`."""

    spatial = 0
    kernel_size: int = 1

    def apply_kernel(self, x, kernel):
        self.record_uses()
        return x @ kernel


class ConditionalBatchNorm(nn.Module):
    """Batch norm with a scale and a bias for each class (Dumoulin et al. 2017; Miyato, Koyama 2018)."""

    classes: int
    channels: str
    axis_name: str | None
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool, labels):
        statistics = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            use_scale=False,
            use_bias=False,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name="statistics",
        )
        shape = (self.classes, x.shape[-1])
        scale = self.param("scale", named(nn.initializers.ones, None, self.channels), shape)
        bias = self.param("bias", named(nn.initializers.zeros, None, self.channels), shape)
        scale, bias = (table[labels][:, None, None].astype(self.dtype) for table in (scale, bias))
        return statistics(x) * scale + bias


class LayerNorm(nn.Module):
    """Layer norm over each whole image of `x: [batch, h, w, c]` (Gulrajani et al. 2017, section 4).

    Scale and bias are one a channel. Mean and variance are those of `features` channels: what a compacted network
    lacks of them counts as zeros, which it is in the masked network.
    """

    features: int
    channels: str
    scale_init: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", named(self.scale_init, self.channels), x.shape[-1:])
        bias = self.param("bias", named(nn.initializers.zeros, self.channels), x.shape[-1:])
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        present = x.shape[-1] / self.features
        mean = present * x.mean(axis=(1, 2, 3), keepdims=True)
        mean_square = present * jnp.square(x).mean(axis=(1, 2, 3), keepdims=True)
        variance = jnp.maximum(mean_square - jnp.square(mean), 0)
        return ((x - mean) * (lax.rsqrt(variance + 1e-5) * scale) + bias).astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class Style:
    """What the layers of a network have in common.

    Attributes:
      norm: "none", "batch" or "layer", between a convolution and its activation.
      spectral: whether every kernel is divided by its largest singular value.
      squash: what brings the images that a network makes to [-1, 1].
      classes: above 0 batch norms have a scale and a bias for each of so many classes.
      axis_name: the mapped axis over which batch statistics are averaged, or None.
      channels: how many there are of each name that has fewer than the architecture says (`models.narrow`).
      rematerialize: whether a backward pass computes what lies inside each block again, from the block's input.
    """

    norm: str = "batch"
    spectral: bool = False
    activation: Callable = nn.relu
    squash: Callable = jnp.tanh
    kernel_init: Callable = dcgan_init
    scale_init: Callable = dcgan_scale_init
    classes: int = 0
    dtype: Any = jnp.float32
    axis_name: str | None = None
    channels: FrozenDict[str, int] = FrozenDict()
    rematerialize: bool = False

    def block(self, kind: type[nn.Module]) -> type[nn.Module]:
        """The module `kind`, a stage or a block, in this style; it must be called with positional arguments alone."""
        if not self.rematerialize:
            return kind
        arguments = list(inspect.signature(kind.__call__).parameters)
        return nn.remat(kind, static_argnums=tuple(place for place, name in enumerate(arguments) if name == "train"))

    def layer(self, kind: type[nn.Module], features: int, *sizes: int, outputs: str | None = None, **options):
        """A layer of this kind and kernel size in this style, with so many features unless `outputs` has fewer."""
        style = {"dtype": self.dtype, "kernel_init": self.kernel_init, "spectral": self.spectral}
        return kind(self.channels.get(outputs, features), *sizes, outputs=outputs, **style, **options)

    def normalize(self, x, channels: str, features: int, train: bool, labels=None, name: str = "norm"):
        """`x: [batch, h, w, channels]` normalised, in a submodule `name`; to be called in a compact method.

        features: how many channels of that name the architecture has; `x` has fewer in a compacted network.
        """
        if self.norm == "none":
            return x
        if self.norm == "batch" and self.classes:
            return ConditionalBatchNorm(self.classes, channels, self.axis_name, self.dtype, name=name)(x, train, labels)
        if self.norm == "layer":
            return LayerNorm(features, channels, self.scale_init, self.dtype, name=name)(x)
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name,
            dtype=self.dtype,
            scale_init=named(self.scale_init, channels),
            bias_init=named(nn.initializers.zeros, channels),
            name=name,
        )
        return norm(x)
