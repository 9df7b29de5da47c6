"""Times the fast layers and the plain operations that they replace, value and gradients, in turn in one run.

    python benchmarks/fast_layers.py [--batch_size=64] [--repeats=9] [--out=FILE.json]

Both compute the same numbers (`tests/test_layers.py`: float64, 1e-10). The table has the median milliseconds of a value
and both gradients, and the ratio of the plain operation's time to the fast layer's: its median and its range.
"""

import statistics
from functools import partial

import harness
import jax
import jax.numpy as jnp
from jax import lax

from jaxtickets.models import convolution, layers


def plain_conv(x, kernel, stride=1, padding=0):
    """XLA's convolution."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def plain_conv_transpose(x, kernel):
    """The transposed convolution as a convolution of the dilated input, differentiated by JAX."""
    return lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        [(2, 2)] * 2,
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


CASES = {
    "conv 4x4, stride 2": (partial(convolution.conv, stride=2, padding=1), partial(plain_conv, stride=2, padding=1), 4),
    "conv 3x3": (partial(convolution.conv, padding=1), partial(plain_conv, padding=1), 3),
    "conv 1x1": (convolution.conv, plain_conv, 1),
    "conv_transpose 4x4": (lambda x, k: convolution.conv_transpose(x, k, 2, 1), plain_conv_transpose, 4),
    "upsample + conv 3x3": (
        layers.upsample_conv,
        lambda x, k: plain_conv(layers.upsample(x), k, 1, 1),
        3,
    ),
    "conv 3x3 + pool": (layers.conv_pool, lambda x, k: layers.pool(plain_conv(x, k, 1, 1)), 3),
    "conv 1x1 + upsample": (
        lambda x, k: layers.upsample(convolution.conv(x, k)),
        lambda x, k: plain_conv(layers.upsample(x), k),
        1,
    ),
    "pool + conv 1x1": (
        lambda x, k: convolution.conv(layers.pool(x), k),
        lambda x, k: layers.pool(plain_conv(x, k)),
        1,
    ),
    "1x1 -> 4x4 as a product": (
        lambda x, k: jnp.einsum("bi,hwio->bhwo", x[:, 0, 0], k),
        lambda x, k: plain_conv(jnp.pad(x[:, :1, :1], ((0, 0), (3, 3), (3, 3), (0, 0))), k[::-1, ::-1]),
        4,
    ),
    "4x4 -> 1x1 as a product": (
        lambda x, k: jnp.einsum("bhwi,hwio->bo", x[:, :4, :4], k),
        lambda x, k: plain_conv(x[:, :4, :4], k),
        4,
    ),
}
SHAPES = ((8, 64), (16, 64), (4, 256), (8, 256))  # The resolution and the number of channels of the input.


def main():
    parser = harness.parser(__doc__, repeats=9)
    parser.add_argument("--batch_size", type=int, default=64)
    options = parser.parse_args()
    results = []
    print(f"{'layer':24} {'input':>8} {'plain ms':>9} {'fast ms':>9} {'plain / fast, median (range)':>30}")
    for name, (*variants, size) in CASES.items():
        for resolution, channels in SHAPES:
            x = jax.random.normal(jax.random.key(0), (options.batch_size, resolution, resolution, channels))
            kernel = jax.random.normal(jax.random.key(1), (size, size, channels, channels))

            def runner(operation, x=x, kernel=kernel):
                value_and_gradients = jax.value_and_grad(lambda x, k: jnp.square(operation(x, k)).sum(), (0, 1))
                program = jax.jit(value_and_gradients).lower(x, kernel).compile()
                return lambda: jax.block_until_ready(program(x, kernel))

            runners = dict(zip(("fast", "plain"), map(runner, variants), strict=True))
            seconds = harness.in_turn(runners, options.repeats)
            fast, plain = (1000 * statistics.median(seconds[variant]) for variant in ("fast", "plain"))
            ratios = harness.spread(harness.ratios(seconds, "plain", "fast"), 2)
            print(f"{name:24} {f'{resolution}, {channels}':>8} {plain:9.2f} {fast:9.2f} {ratios:>30}", flush=True)
            results.append({"layer": name, "resolution": resolution, "channels": channels, "seconds": seconds})
    harness.write(options, results)


if __name__ == "__main__":
    main()
