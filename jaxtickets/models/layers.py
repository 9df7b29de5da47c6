"""Flax layers whose kernels are stored as `[height, width, in, out]` and run fast.

A layer is exact against the plain `jax.lax` operation in value and gradient; what differs is
how XLA is asked for it. Each layer records the spatial shape over which its kernel is used, so that
FLOPs can be counted from shapes alone (`models.kernel_uses`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# Radford, Metz, Chintala 2016, section 3: weights from N(0, 0.02).
dcgan_init = nn.initializers.normal(0.02)


def _strided_conv(images, kernel, stride, padding):
    """The ordinary convolution whose transpose `conv_transpose` computes; kernel `[h, w, out, in]`."""
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWOI", "NHWC")
    )


def _transposed(x, kernel, stride, padding):
    batch, height, width, _ = x.shape
    kernel_height, kernel_width, _, features = kernel.shape
    shape = (
        batch,
        stride * (height - 1) + kernel_height - 2 * padding,
        stride * (width - 1) + kernel_width - 2 * padding,
        features,
    )
    transpose = jax.linear_transpose(
        lambda images: _strided_conv(images, kernel, stride, padding), jax.ShapeDtypeStruct(shape, x.dtype)
    )
    return transpose(x)[0]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_transpose(x, kernel, stride: int, padding: int):
    """The transposed convolution of `x: [batch, h, w, in]` with `kernel: [kh, kw, in, out]`.

    The same function as PyTorch's `ConvTranspose2d`: the transpose of the strided convolution
    that takes `[batch, stride * (h - 1) + kh - 2 * padding, ..., out]` to `x`'s shape.

    XLA differentiates it with respect to the kernel by way of a convolution over a dilated input,
    most of whose products are with zero. <y', T(x; k)> = <C(y'; k), x>, where C is the ordinary
    convolution and T its transpose, so the kernel gradient of T at (x, cotangent y') is
    the kernel gradient of C at (y', cotangent x), which needs no dilation.
    """
    return _transposed(x, kernel, stride, padding)


def _conv_transpose_forward(x, kernel, stride, padding):
    return _transposed(x, kernel, stride, padding), (x, kernel)


def _conv_transpose_backward(stride, padding, residuals, cotangent):
    x, kernel = residuals
    x_gradient, kernel_vjp = jax.vjp(lambda k: _strided_conv(cotangent, k, stride, padding), kernel)
    return x_gradient, kernel_vjp(x)[0]


conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


class _Kernel(nn.Module):
    """What the layers below share: a kernel, an optional bias and a computing dtype."""

    features: int
    kernel_size: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = dcgan_init

    def parameters(self, in_features: int):
        size = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (size, size, in_features, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        return nn.dtypes.promote_dtype(kernel, bias, dtype=self.dtype)

    def record_uses(self, positions):
        """Notes `positions: [h, w]`, of which only the shape matters: the kernel is used h * w times an image."""
        self.sow("kernel_uses", "positions", positions)


class Conv(_Kernel):
    """A convolution of `[batch, h, w, in]` with zero padding on each side."""

    stride: int = 1
    padding: int = 0

    @nn.compact
    def __call__(self, x):
        kernel, bias = self.parameters(x.shape[-1])
        y = lax.conv_general_dilated(
            x.astype(kernel.dtype),
            kernel,
            (self.stride, self.stride),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        self.record_uses(y[0, :, :, 0])
        return y if bias is None else y + bias


class ConvTranspose(_Kernel):
    """A transposed convolution of `[batch, h, w, in]`; see `conv_transpose`."""

    stride: int = 2
    padding: int = 1

    @nn.compact
    def __call__(self, x):
        kernel, bias = self.parameters(x.shape[-1])
        self.record_uses(x[0, :, :, 0])
        y = conv_transpose(x.astype(kernel.dtype), kernel, self.stride, self.padding)
        return y if bias is None else y + bias


class Unproject(_Kernel):
    """`[batch, in]` -> `[batch, size, size, out]`: a transposed convolution of a 1x1 image, as a product."""

    @nn.compact
    def __call__(self, x):
        kernel, bias = self.parameters(x.shape[-1])
        self.record_uses(x[:1, :1])
        y = jnp.einsum("bi,hwio->bhwo", x.astype(kernel.dtype), kernel)
        return y if bias is None else y + bias


class Project(_Kernel):
    """`[batch, size, size, in]` -> `[batch, out]`: a convolution that covers its input, as a product."""

    @nn.compact
    def __call__(self, x):
        kernel, bias = self.parameters(x.shape[-1])
        self.record_uses(x[:1, 0, 0, :1])
        y = jnp.einsum("bhwi,hwio->bo", x.astype(kernel.dtype), kernel)
        return y if bias is None else y + bias
