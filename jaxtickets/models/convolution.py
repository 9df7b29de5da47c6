"""Convolutions and their transposes, and how XLA is asked for them and for their gradients.

Three operations make up all of it, each linear in two of the images x, the kernel k and the outputs y:
<y, C(x, k)> = <x, T(y, k)> = <k, W(x, y)>. C is the strided convolution, T its transpose, W the kernel's gradient. The
derivatives of C are T and W, those of T are C and W.

On accelerators they are XLA's convolutions. Its CPU back end runs many of them at a fraction of the rate of the matrix
products that they consist of (benchmarks/fast_layers.py), so there those are written as products, a tap of the kernel
at a time: the same sums in another order.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

# With fewer outputs than this the products of a kernel's gradient are too narrow to be faster.
NARROW = 16
# XLA's convolutions are as fast as products on output maps of more positions than this, if they have several taps.
SMALL_MAP = 16


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x, kernel, stride: int = 1, padding: int = 0):
    """The convolution of `x: [batch, h, w, in]` with `kernel: [kh, kw, in, out]`, zeros on each side."""
    return _convolved(x, kernel, stride, padding)


def _conv_forward(x, kernel, stride, padding):
    return _convolved(x, kernel, stride, padding), (x, kernel)


def _conv_backward(stride, padding, residuals, cotangent):
    x, kernel = residuals
    x_gradient = _transposed(cotangent, kernel, x.shape[1:3], stride, padding)
    return x_gradient, _kernel_gradient(x, cotangent, kernel.shape[:2], stride, padding)


conv.defvjp(_conv_forward, _conv_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_transpose(x, kernel, stride: int, padding: int):
    """The transposed convolution of `x: [batch, h, w, in]` with `kernel: [kh, kw, in, out]`.

    The same function as PyTorch's `ConvTranspose2d`: the transpose of the strided convolution
    that takes `[batch, stride * (h - 1) + kh - 2 * padding, ..., out]` to `x`'s shape.
    """
    return _conv_transposed(x, kernel, stride, padding)


def _conv_transposed(x, kernel, stride, padding):
    sizes = [
        stride * (size - 1) + taps - 2 * padding for size, taps in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    ]
    return _transposed(x, kernel.swapaxes(2, 3), sizes, stride, padding)


def _conv_transpose_forward(x, kernel, stride, padding):
    return _conv_transposed(x, kernel, stride, padding), (x, kernel)


def _conv_transpose_backward(stride, padding, residuals, cotangent):
    x, kernel = residuals
    kernel_gradient = _kernel_gradient(cotangent, x, kernel.shape[:2], stride, padding)
    return _convolved(cotangent, kernel.swapaxes(2, 3), stride, padding), kernel_gradient.swapaxes(2, 3)


conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


# The three operations, for each platform.


def _convolved(x, kernel, stride, padding):
    """C: `[batch, h, w, in]` and `[kh, kw, in, out]` -> `[batch, h', w', out]`."""
    plain = partial(_plain, stride=stride, padding=padding)
    positions = jax.eval_shape(plain, x, kernel).shape[1:3]
    if _suits_xla(positions, kernel):
        return plain(x, kernel)

    def products(x, kernel):
        rows = _rows(x, kernel.shape[:2], positions, stride, padding)
        matrices = _matrices(kernel, stride)
        return sum(row @ matrix for row, matrix in zip(rows, matrices, strict=True))

    return lax.platform_dependent(x, kernel, cpu=products, default=plain)


def _transposed(y, kernel, sizes, stride, padding):
    """T: `[batch, h', w', out]` and `[kh, kw, in, out]` -> `[batch, *sizes, in]`."""

    def plain(y, kernel):
        images = jax.ShapeDtypeStruct((len(y), *sizes, kernel.shape[2]), y.dtype)
        (x,) = jax.linear_transpose(lambda x: _plain(x, kernel, stride, padding), images)(y)
        return x

    if stride == 1 and _suits_xla(y.shape[1:3], kernel):
        return plain(y, kernel)

    def products(y, kernel):
        batch, height, width, _ = y.shape
        matrices = _matrices(kernel, stride)
        n_rows, n_columns = (-(-taps // stride) for taps in kernel.shape[:2])
        total = 0
        for row, matrix in enumerate(matrices):
            blocks = (y @ matrix.T).reshape(batch, height, width, n_columns, -1)
            for column in range(n_columns):
                pads = ((0, 0), (row, n_rows - 1 - row), (column, n_columns - 1 - column), (0, 0))
                total += jnp.pad(blocks[:, :, :, column], pads)
        x = total.reshape(*total.shape[:3], stride, stride, -1).swapaxes(2, 3)
        x = x.reshape(batch, stride * total.shape[1], stride * total.shape[2], -1)
        missing = [max(0, padding + size - have) for size, have in zip(sizes, x.shape[1:3], strict=True)]
        x = jnp.pad(x, ((0, 0), *((0, n) for n in missing), (0, 0)))
        return x[:, padding : padding + sizes[0], padding : padding + sizes[1]]

    return lax.platform_dependent(y, kernel, cpu=products, default=plain)


def _kernel_gradient(x, y, kernel_size, stride, padding):
    """W: `[batch, h, w, in]` and `[batch, h', w', out]` -> `[*kernel_size, in, out]`."""

    def plain(x, y):
        kernel = jax.ShapeDtypeStruct((*kernel_size, x.shape[-1], y.shape[-1]), x.dtype)
        (gradient,) = jax.linear_transpose(lambda kernel: _plain(x, kernel, stride, padding), kernel)(y)
        return gradient

    if y.shape[-1] < NARROW:
        return plain(x, y)

    def products(x, y):
        # A product whose first factor is transposed on the fly is a third slower than one that finds it transposed.
        transposed = lax.optimization_barrier(y.reshape(-1, y.shape[-1]).T)
        rows = _rows(x, kernel_size, y.shape[1:3], stride, padding)
        gradients = jnp.stack([transposed @ row.reshape(-1, row.shape[-1]) for row in rows])
        return _kernel(gradients, kernel_size, stride)

    return lax.platform_dependent(x, y, cpu=products, default=plain)


def _suits_xla(positions, kernel):
    return positions[0] * positions[1] > SMALL_MAP and kernel.shape[:2] != (1, 1)


def _plain(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# Strided convolutions as those of stride 1, a row of whose kernel is a matrix. `stride` x `stride` pixels become the
# channels of one, and kernels whose size the stride does not divide get taps of zero.


def _rows(x, kernel_size, positions, stride, padding):
    """For each row of the smaller kernel the pixels that it meets: `[batch, *positions, taps * in]`."""
    rows, columns = (-(-taps // stride) for taps in kernel_size)
    ends = [(count + n - 1) * stride for count, n in zip(positions, (rows, columns), strict=True)]
    pads = [(padding, end - size - padding) for end, size in zip(ends, x.shape[1:3], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // stride, stride, width // stride, stride, channels).swapaxes(2, 3)
    x = x.reshape(batch, height // stride, width // stride, -1)
    x = jnp.concatenate([x[:, :, column : column + positions[1]] for column in range(columns)], axis=-1)
    return [x[:, row : row + positions[0]] for row in range(rows)]


def _matrices(kernel, stride):
    """For each row of the smaller kernel its matrix: `[taps * in, out]`."""
    rows, columns = (-(-taps // stride) for taps in kernel.shape[:2])
    pads = [(0, n * stride - taps) for n, taps in zip((rows, columns), kernel.shape[:2], strict=True)]
    kernel = jnp.pad(kernel, (*pads, (0, 0), (0, 0)))
    kernel = kernel.reshape(rows, stride, columns, stride, *kernel.shape[2:]).swapaxes(1, 2)
    return list(kernel.reshape(rows, -1, kernel.shape[-1]))


def _kernel(matrices, kernel_size, stride):
    """The inverse of `_matrices`, from their transposes `[rows, out, taps * in]`.

    (Transposed one by one, each would be a part of its product, and that the slow kind.)
    """
    rows, columns = (-(-taps // stride) for taps in kernel_size)
    kernel = matrices.reshape(rows, matrices.shape[1], columns, stride, stride, -1).transpose(0, 3, 2, 4, 5, 1)
    kernel = kernel.reshape(rows * stride, columns * stride, *kernel.shape[-2:])
    return kernel[: kernel_size[0], : kernel_size[1]]
