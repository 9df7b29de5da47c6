"""Fast Flax layers with kernels `[height, width, in, out]`, and the style that the layers of a network share.

Each layer equals the plain `jax.lax` operation in value and gradient, but asks XLA for it in a faster way. It names the
channels along its kernel's axes (`models.axis_names`), and records how often the plain operation uses each tap of its
kernel, so that FLOPs can be counted from shapes alone (`models.kernel_uses`).
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from flax.core import FrozenDict

from jaxtickets.models.convolution import conv, conv_transpose
from jaxtickets.models.initializers import SCALE_INITS, dcgan_init, named, zero_biases
from jaxtickets.models.norms import ConditionalBatchNorm, LayerNorm, spectral_normalize


def _widen(kernel):
    """The 4x4 kernel of a sum over 2x2 pixels and a 3x3 convolution, one after the other in either order."""
    padded = jnp.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0)))
    return padded[:-1, :-1] + padded[1:, :-1] + padded[:-1, 1:] + padded[1:, 1:]


def upsample_conv(x, kernel):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution with padding 1: `[batch, 2h, 2w, out]`.

    Upsampling is the transposed convolution of stride 2 with ones(2, 2). So both together are one such convolution with
    the widened kernel: 16 products per pixel of `x` instead of 36, and no map of four times `x`'s size in between.
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
    """A value that a layer records of its shapes; as part of a tree's structure it survives `jax.eval_shape`."""

    value: Any = flax.struct.field(pytree_node=False)


def tap_uses(size: int, positions: int, kernel_size: int, stride: int = 1, padding: int = 0) -> tuple[int, ...]:
    """How often each tap of a kernel meets a pixel rather than padding, along one axis.

    The axis has `size` pixels. The kernel lies at `positions` positions, `stride` pixels apart, the first one `padding`
    pixels before the axis starts. A convolution reads these pixels; a transposed convolution writes them, and its
    positions are the pixels of its input.
    """
    return tuple(
        sum(0 <= stride * position + tap - padding < size for position in range(positions))
        for tap in range(kernel_size)
    )


class _Kernel(nn.Module):
    """A layer with a kernel, an optional bias and a computing dtype.

    Subclasses define `apply_kernel(x, kernel)` and `spatial`, the number of spatial axes of the kernel.
    """

    spatial = 2

    features: int
    kernel_size: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = dcgan_init
    bias_init: Callable = zero_biases
    spectral: bool = False
    inputs: str | None = None  # The name of the channels that the layer reads.
    outputs: str | None = None  # The name of the channels that the layer makes.

    def parameters(self, in_features: int):
        size = (self.kernel_size,) * self.spatial
        init = named(self.kernel_init, *[None] * self.spatial, self.inputs, self.outputs)
        kernel = self.param("kernel", init, (*size, in_features, self.features))
        if self.spectral:
            kernel = spectral_normalize(self, kernel)
        bias_init = named(self.bias_init((*size, in_features, self.features)), self.outputs)
        bias = self.param("bias", bias_init, (self.features,)) if self.use_bias else None
        return nn.dtypes.promote_dtype(kernel, bias, dtype=self.dtype)

    @nn.compact
    def __call__(self, x):
        kernel, bias = self.parameters(x.shape[-1])
        y = self.apply_kernel(x.astype(kernel.dtype), kernel)
        return y if bias is None else y + bias

    def record_uses(self, sizes=(), positions=(), stride: int = 1, padding: int = 0):
        """Records how often one image uses each tap of the kernel.

        Args:
          sizes, positions: one number per spatial axis; without them each weight is used once.
          stride, padding: see `tap_uses`.
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


@dataclasses.dataclass(frozen=True)
class Style:
    """The attributes that all layers of a network share.

    Attributes:
      norm: "none", "batch" or "layer", the norm between a convolution and its activation.
      spectral: whether every kernel is divided by its largest singular value.
      activation: the activation function.
      squash: the function that brings the images that a network makes to [-1, 1].
      kernel_init: the initializer of kernels.
      bias_init: `(shape of a layer's kernel) -> initializer` of the biases of layers.
      scale_init: the name of the initializer of the scales of norms, in `SCALE_INITS`.
      classes: the number of classes for which batch norms have a scale and a bias each; 0 is unconditional.
      dtype: the dtype in which layers compute; parameters are float32.
      axis_name: the mapped axis over which batch statistics are averaged, or None.
      channels: `{channel name: count}` where there are fewer channels than in the architecture (`models.narrow`).
      rematerialize: whether a backward pass computes the activations inside each block again, from the block's input.
    """

    norm: str = "batch"
    spectral: bool = False
    activation: Callable = nn.relu
    squash: Callable = jnp.tanh
    kernel_init: Callable = dcgan_init
    bias_init: Callable = zero_biases
    scale_init: str = "ones"
    classes: int = 0
    dtype: Any = jnp.float32
    axis_name: str | None = None
    channels: FrozenDict[str, int] = FrozenDict()
    rematerialize: bool = False

    def block(self, kind: type[nn.Module]) -> type[nn.Module]:
        """The module class `kind`, a stage or a block, rematerialised if the style says so.

        The module must be called with positional arguments only.
        """
        if not self.rematerialize:
            return kind
        arguments = list(inspect.signature(kind.__call__).parameters)
        return nn.remat(kind, static_argnums=tuple(place for place, name in enumerate(arguments) if name == "train"))

    def layer(self, kind: type[nn.Module], features: int, *sizes: int, outputs: str | None = None, **options):
        """A layer of class `kind` in this style: `kind(features, *sizes, ...)`.

        It has fewer features where `channels` says so for `outputs`, the name of the channels that it makes.
        """
        style = {name: getattr(self, name) for name in ("dtype", "kernel_init", "bias_init", "spectral")}
        return kind(self.channels.get(outputs, features), *sizes, outputs=outputs, **style, **options)

    def normalize(self, x, channels: str, features: int, train: bool, labels=None, name: str = "norm"):
        """`x: [batch, h, w, c]`, normalised by a submodule called `name`; must be called in a compact method.

        Args:
          channels: the name of the channels of `x`.
          features: the number of channels of this name in the architecture; `x` has fewer in a compacted network.
        """
        if self.norm == "none":
            return x
        scale_init = SCALE_INITS[self.scale_init]
        if self.norm == "batch" and self.classes:
            norm = ConditionalBatchNorm(self.classes, channels, scale_init, self.axis_name, self.dtype, name=name)
            return norm(x, train, labels)
        if self.norm == "layer":
            return LayerNorm(features, channels, scale_init, self.dtype, name=name)(x)
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name,
            dtype=self.dtype,
            scale_init=named(scale_init, channels),
            bias_init=named(nn.initializers.zeros, channels),
            name=name,
        )
        return norm(x)
