"""The fast layers against the plain operations, value and gradients, side by side in one run.

    python benchmarks/fast_layers.py [--batch_size=64] [--repeats=9] [--out=FILE.json]

Both compute the same numbers (`tests/test_layers.py`: float64, 1e-10). Each repeat runs the two in turn; the table
gives the median milliseconds of a value and both gradients, and the median ratio with its range.
"""

import argparse
import json
import shlex
import statistics
import sys
import time

import jax
import jax.numpy as jnp
from jax import lax

from jaxtickets.models import layers


def plain_conv_transpose(x, kernel):
    """A convolution of the dilated input, differentiated by XLA."""
    return lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        [(2, 2)] * 2,
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


CASES = {
    "conv_transpose 4x4": (lambda x, k: layers.conv_transpose(x, k, 2, 1), plain_conv_transpose, 4),
    "upsample + conv 3x3": (
        layers.upsample_conv,
        lambda x, k: layers.conv(layers.upsample(x), k, 1, 1),
        3,
    ),
    "conv 3x3 + pool": (layers.conv_pool, lambda x, k: layers.pool(layers.conv(x, k, 1, 1)), 3),
    "conv 1x1 + upsample": (
        lambda x, k: layers.upsample(layers.conv(x, k)),
        lambda x, k: layers.conv(layers.upsample(x), k),
        1,
    ),
    "pool + conv 1x1": (
        lambda x, k: layers.conv(layers.pool(x), k),
        lambda x, k: layers.pool(layers.conv(x, k)),
        1,
    ),
    "1x1 -> 4x4 as a product": (
        lambda x, k: jnp.einsum("bi,hwio->bhwo", x[:, 0, 0], k),
        lambda x, k: layers.conv(jnp.pad(x[:, :1, :1], ((0, 0), (3, 3), (3, 3), (0, 0))), k[::-1, ::-1]),
        4,
    ),
    "4x4 -> 1x1 as a product": (
        lambda x, k: jnp.einsum("bhwi,hwio->bo", x[:, :4, :4], k),
        lambda x, k: layers.conv(x[:, :4, :4], k),
        4,
    ),
}
SHAPES = ((8, 64), (16, 64), (8, 256))  # Resolution and channels of the input.


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", help="a JSON file for the figures")
    options = parser.parse_args()

    results = []
    print(f"{'layer':24} {'input':>10} {'plain ms':>9} {'fast ms':>9} {'plain / fast, median (range)':>30}")
    for name, (*variants, size) in CASES.items():
        for resolution, channels in SHAPES:
            x = jax.random.normal(jax.random.key(0), (options.batch_size, resolution, resolution, channels))
            kernel = jax.random.normal(jax.random.key(1), (size, size, channels, channels))

            def compiled(operation, x=x, kernel=kernel):
                value_and_gradients = jax.value_and_grad(lambda x, k: jnp.square(operation(x, k)).sum(), (0, 1))
                return jax.jit(value_and_gradients).lower(x, kernel).compile()

            times = {"fast": [], "plain": []}
            programs = dict(zip(times, map(compiled, variants), strict=True))
            for _ in range(options.repeats + 1):
                for variant, program in programs.items():
                    started = time.perf_counter()
                    jax.block_until_ready(program(x, kernel))
                    times[variant].append(time.perf_counter() - started)
            times = {variant: values[1:] for variant, values in times.items()}  # Without the first one.
            ratios = [plain / fast for plain, fast in zip(times["plain"], times["fast"], strict=True)]
            fast, plain = (1000 * statistics.median(times[variant]) for variant in ("fast", "plain"))
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            print(f"{name:24} {f'{resolution}, {channels}':>10} {plain:9.2f} {fast:9.2f} {spread:>30}", flush=True)
            results.append({"layer": name, "resolution": resolution, "channels": channels, "seconds": times})
    if options.out:
        about = {
            "command": shlex.join(["python", *sys.argv]),
            "jax": jax.__version__,
            "device": str(jax.devices()[0].device_kind),
            "options": {key: value for key, value in vars(options).items() if key != "out"},
        }
        with open(options.out, "w") as file:
            json.dump({**about, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
