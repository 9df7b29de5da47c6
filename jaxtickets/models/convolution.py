"""Convolutions and transposed convolutions whose forward and backward passes are fast on CPUs too.

They consist of three operations, each linear in two of the images x, the kernel k and the outputs y:
<y, C(x, k)> = <x, T(y, k)> = <k, W(x, y)>. C is the strided convolution, T its transpose, W the kernel's gradient. The
derivatives of C are T and W; the derivatives of T are C and W.

On accelerators all three are XLA's convolutions. XLA's CPU back end runs many convolutions at a fraction of the rate of
the matrix products that they consist of (benchmarks/fast_layers.py). On CPUs these are written as matrix products: one
per row of the kernel; for wide 4x4 kernels of stride 2, 9 products instead of 16; on the smallest maps one per
position, without the taps that meet nothing but padding. The functions are the same up to the order of sums.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

# Kernels with fewer inputs or outputs than this, such as those that read or make images, give products too narrow to be
# faster.
NARROW = 16
# On output maps of more positions than this, XLA's convolutions with several taps are as fast as products.
SMALL_MAP = 64
# On output maps of at most this many positions, each position has a product of its own.
FEW = 4
# How convolutions are computed while this is set, whatever the platform.
_WAY = ContextVar("way", default=None)
WAYS = ("products", "xla")
# 9 products and their sums are faster than 16 products from this number of channels on, inputs and outputs alike, and
# from this number of channels times positions of the output map.
WIDE, LARGE = 128, 4096


@contextlib.contextmanager
def computed_as(way: str | None) -> Iterator[None]:
    """Computes every convolution that is traced within the block in one way, where it has two.

    Args:
      way: "products" of matrices, XLA's convolutions ("xla"), or None: products on CPUs and XLA's elsewhere.
    """
    if way not in (None, *WAYS):
        raise ValueError(f"way {way!r}: allowed are {', '.join(WAYS)} and None")
    before = _WAY.set(way)
    try:
        yield
    finally:
        _WAY.reset(before)


def _computed(products, plain, *operands, cuda=None):
    """One of two functions of the same arrays, as `computed_as` says; on NVIDIA's GPUs `cuda` takes `plain`'s place."""
    if (way := _WAY.get()) is None:
        return lax.platform_dependent(*operands, cpu=products, default=plain, **({"cuda": cuda} if cuda else {}))
    return (products if way == "products" else plain)(*operands)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x, kernel, stride: int = 1, padding: int = 0):
    """The convolution of `x: [batch, h, w, in]` with `kernel: [kh, kw, in, out]`, with `padding` zeros on each side."""
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

    The same function as PyTorch's `ConvTranspose2d`: the transpose of the strided convolution that takes
    `[batch, stride * (h - 1) + kh - 2 * padding, ..., out]` to the shape of `x`.
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
    is_filtered = _can_filter(x, kernel, positions, stride)
    if _is_narrow(kernel.shape[2:]) or (_suits_xla(positions, kernel) and not is_filtered):
        return plain(x, kernel)

    def products(x, kernel):
        if _are_few(positions):
            return _by_position(x, kernel, stride, padding)
        blocks, small = _blocks(x, kernel.shape[:2], positions, stride, padding), _small(kernel, stride)
        if is_filtered:
            return _filtered(blocks, small)
        return sum(
            row @ matrix.reshape(-1, matrix.shape[-1])
            for row, matrix in zip(_rows(blocks, small.shape[:2]), small, strict=True)
        )

    return _computed(products, plain, x, kernel)


def _transposed(y, kernel, sizes, stride, padding):
    """T: `[batch, h', w', out]` and `[kh, kw, in, out]` -> `[batch, *sizes, in]`."""

    def transpose(convolution, y, kernel):
        images = jax.ShapeDtypeStruct((y.shape[0], *sizes, kernel.shape[2]), y.dtype)
        (x,) = jax.linear_transpose(lambda x: convolution(x, kernel, stride, padding), images)(y)
        return x

    plain = partial(transpose, _plain)
    if _is_narrow(kernel.shape[2:]) or (stride == 1 and _suits_xla(y.shape[1:3], kernel)):
        return plain(y, kernel)

    def products(y, kernel):
        if _are_few(y.shape[1:3]):
            return transpose(_by_position, y, kernel)
        small = _small(kernel, stride)
        if _can_filter(y, kernel, y.shape[1:3], stride):
            return _images(_filtered_transposed(y, small), sizes, stride, padding)
        rows, columns = small.shape[:2]
        blocks = 0
        for row, matrix in enumerate(small):
            side_by_side = (y @ matrix.reshape(-1, matrix.shape[-1]).T).reshape(*y.shape[:3], columns, -1)
            for column in range(columns):
                pads = ((0, 0), (row, rows - 1 - row), (column, columns - 1 - column), (0, 0))
                blocks += jnp.pad(side_by_side[:, :, :, column], pads)
        return _images(blocks, sizes, stride, padding)

    def summed(y, kernel):
        # Without the barrier XLA sums up the products again for each reader of the result, such as each pass of a norm.
        return lax.optimization_barrier(products(y, kernel))

    return _computed(summed, plain, y, kernel)


def _kernel_gradient(x, y, kernel_size, stride, padding):
    """W: `[batch, h, w, in]` and `[batch, h', w', out]` -> `[*kernel_size, in, out]`."""

    def transpose(convolution, x, y):
        kernel = jax.ShapeDtypeStruct((*kernel_size, x.shape[-1], y.shape[-1]), x.dtype)
        (gradient,) = jax.linear_transpose(lambda kernel: convolution(x, kernel, stride, padding), kernel)(y)
        return gradient

    plain = partial(transpose, _plain)
    if _is_narrow((x.shape[-1], y.shape[-1])):
        return plain(x, y)

    def products(x, y):
        if _are_few(y.shape[1:3]):
            return transpose(_by_position, x, y)
        # A product is a third slower if it transposes its first factor itself.
        transposed = lax.optimization_barrier(y.reshape(-1, y.shape[-1]).T)
        blocks = _blocks(x, kernel_size, y.shape[1:3], stride, padding)
        rows = _rows(blocks, [-(-taps // stride) for taps in kernel_size])
        gradients = jnp.stack([transposed @ row.reshape(-1, row.shape[-1]) for row in rows])
        return _kernel(gradients, kernel_size, stride)

    # For GPUs, XLA takes this for the convolution of a batch of channels with a dilated kernel of `batch` channels if
    # the map is no larger than the kernel. A product per tap needs no such convolution, and transposes nothing.
    is_mistaken = all(size <= taps for size, taps in zip(y.shape[1:3], kernel_size, strict=True))
    by_tap = partial(_gradient_by_tap, kernel_size=kernel_size, stride=stride, padding=padding)
    return _computed(products, plain, x, y, cuda=by_tap if is_mistaken else None)


def _is_narrow(channels):
    return min(channels) < NARROW


def _suits_xla(positions, kernel):
    return positions[0] * positions[1] > SMALL_MAP and kernel.shape[:2] != (1, 1)


def _are_few(positions):
    return positions[0] * positions[1] <= FEW


def _plain(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_position(x, kernel, stride, padding):
    """C with one product per output position, of the pixels that the kernel meets there and their taps."""

    def seen(size, taps):
        for start in range(-padding, size + padding - taps + 1, stride):
            first, last = max(0, -start), min(taps, size - start)
            yield slice(start + first, start + last), slice(first, last)

    heights, widths = (list(seen(*sizes)) for sizes in zip(x.shape[1:3], kernel.shape[:2], strict=True))

    def output(height, width):
        (rows, row_taps), (columns, column_taps) = height, width
        matrix = kernel[row_taps, column_taps].reshape(-1, kernel.shape[-1])
        return x[:, rows, columns].reshape(len(x), -1) @ matrix

    return jnp.stack([jnp.stack([output(height, width) for width in widths], 1) for height in heights], 1)


def _gradient_by_tap(x, y, kernel_size, stride, padding):
    """W with one product per tap, of the pixels that it meets and the outputs; all products are one batch."""
    ends = [stride * (size - 1) + taps for size, taps in zip(y.shape[1:3], kernel_size, strict=True)]
    pads = [(padding, max(0, end - size - padding)) for end, size in zip(ends, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    (height, width), (rows, columns) = y.shape[1:3], kernel_size
    last = [stride * (size - 1) + 1 for size in (height, width)]
    met = [x[:, i : i + last[0] : stride, j : j + last[1] : stride] for i in range(rows) for j in range(columns)]
    gradients = jnp.einsum("tbhwi,bhwo->tio", jnp.stack(met), y)
    return gradients.reshape(*kernel_size, x.shape[-1], y.shape[-1])


# A strided convolution is a convolution of stride 1 with a smaller kernel: `stride` x `stride` pixels become the
# channels of one block, and a kernel whose size the stride does not divide gets taps of zero.


def _blocks(x, kernel_size, positions, stride, padding):
    """`[batch, h, w, in]` -> `[batch, *(positions + smaller kernel - 1), stride * stride * in]`."""
    ends = [(count - (-taps // stride) - 1) * stride for count, taps in zip(positions, kernel_size, strict=True)]
    pads = [(padding, end - size - padding) for end, size in zip(ends, x.shape[1:3], strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // stride, stride, width // stride, stride, channels).swapaxes(2, 3)
    return x.reshape(batch, height // stride, width // stride, -1)


def _images(blocks, sizes, stride, padding):
    """The transpose of `_blocks`: `[batch, *sizes, in]`."""
    batch, height, width, _ = blocks.shape
    x = blocks.reshape(batch, height, width, stride, stride, -1).swapaxes(2, 3)
    x = x.reshape(batch, height * stride, width * stride, -1)
    missing = [max(0, padding + size - have) for size, have in zip(sizes, x.shape[1:3], strict=True)]
    x = jnp.pad(x, ((0, 0), *((0, n) for n in missing), (0, 0)))
    return x[:, padding : padding + sizes[0], padding : padding + sizes[1]]


def _small(kernel, stride):
    """The smaller kernel, which convolves blocks: `[rows, columns, stride * stride * in, out]`."""
    rows, columns = (-(-taps // stride) for taps in kernel.shape[:2])
    pads = [(0, n * stride - taps) for n, taps in zip((rows, columns), kernel.shape[:2], strict=True)]
    kernel = jnp.pad(kernel, (*pads, (0, 0), (0, 0)))
    kernel = kernel.reshape(rows, stride, columns, stride, *kernel.shape[2:]).swapaxes(1, 2)
    return kernel.reshape(rows, columns, -1, kernel.shape[-1])


def _rows(blocks, kernel_size):
    """For each row of the smaller kernel, the blocks that it meets, side by side: `[batch, h, w, columns * in]`."""
    rows, columns = kernel_size
    height, width = blocks.shape[1] - rows + 1, blocks.shape[2] - columns + 1
    x = jnp.concatenate([blocks[:, :, column : column + width] for column in range(columns)], axis=-1)
    return [x[:, row : row + height] for row in range(rows)]


def _kernel(matrices, kernel_size, stride):
    """The inverse of `_small`: the kernel, from the transposes of its rows, `[rows, out, columns * in]`.

    The rows are transposed together, because XLA would fold the transposition of a single row into its product, which
    makes that product slow.
    """
    rows, columns = (-(-taps // stride) for taps in kernel_size)
    kernel = matrices.reshape(rows, matrices.shape[1], columns, stride, stride, -1).transpose(0, 3, 2, 4, 5, 1)
    kernel = kernel.reshape(rows * stride, columns * stride, *kernel.shape[-2:])
    return kernel[: kernel_size[0], : kernel_size[1]]


# Minimal filtering (Winograd 1980; for convolutions Lavin, Gray 2016). For two taps g, two outputs from three inputs d:
# m = ((d0 - d1) g0, d1 (g0 + g1), (d1 - d2) g1), outputs = (m0 + m1, m1 - m2): three products instead of four, and nine
# instead of sixteen over two axes. Each step is linear, so the transpose consists of the transposes of the steps.


def _can_filter(x, kernel, positions, stride):
    is_two_by_two = all(-(-taps // stride) == 2 for taps in kernel.shape[:2]) and not any(n % 2 for n in positions)
    width = min(kernel.shape[2:])
    is_worth_it = width >= WIDE and width * positions[0] * positions[1] >= LARGE
    return is_two_by_two and is_worth_it and jnp.finfo(x.dtype).bits >= 32


def _over_both_axes(transform, grid):
    """A grid of arrays after `transform`, which takes a sequence to a tuple, of its rows and then of its columns."""
    columns = zip(*map(transform, grid), strict=True)
    return list(zip(*map(transform, columns), strict=True))


def _filters(kernel):
    return _over_both_axes(lambda g: (g[0], g[0] + g[1], g[1]), kernel)


def _multiplied(grid, matrices):
    return [[left @ right for left, right in zip(*rows, strict=True)] for rows in zip(grid, matrices, strict=True)]


def _filtered(blocks, kernel):
    """The convolution of `[batch, h + 1, w + 1, in]` with `[2, 2, in, out]` for even h, w: `[batch, h, w, out]`."""
    batch, height, width = blocks.shape[0], blocks.shape[1] - 1, blocks.shape[2] - 1
    tiles = [[blocks[:, i : i + height - 1 : 2, j : j + width - 1 : 2] for j in range(3)] for i in range(3)]
    tiles = _over_both_axes(lambda d: (d[0] - d[1], d[1], d[1] - d[2]), tiles)
    outputs = _over_both_axes(lambda m: (m[0] + m[1], m[1] - m[2]), _multiplied(tiles, _filters(kernel)))
    return jnp.stack([jnp.stack(row, axis=3) for row in outputs], axis=2).reshape(batch, height, width, -1)


def _filtered_transposed(y, kernel):
    """The transpose of `_filtered`: `[batch, h, w, out]` -> `[batch, h + 1, w + 1, in]`."""
    tiles = [[y[:, i::2, j::2] for j in range(2)] for i in range(2)]
    tiles = _over_both_axes(lambda y: (y[0], y[0] + y[1], -y[1]), tiles)
    matrices = [[matrix.T for matrix in row] for row in _filters(kernel)]
    inputs = _over_both_axes(lambda d: (d[0], d[1] + d[2] - d[0], -d[2]), _multiplied(tiles, matrices))
    zero = jnp.zeros((), y.dtype)
    return sum(
        lax.pad(inputs[i][j], zero, ((0, 0, 0), (i, 2 - i, 1), (j, 2 - j, 1), (0, 0, 0)))
        for i in range(3)
        for j in range(3)
    )
