"""Compares one train step per call with several in one program, as a loop and written out one after another.

    python benchmarks/steps_per_call.py [--networks=linear_ae,dcgan_16] [--counts=2,4,8] [--repeats=5] [--out=FILE.json]

All programs do the same steps on the same data (`tests/test_steps_per_call.py`) and run in turn. The table gives the
milliseconds of a step and their ratio to those with one step per call, medians with their range, and the seconds of one
compilation. `STEPS_PER_CALL` in `jaxtickets/config/timeline.py` follows from it. All four networks take about ten
minutes on two CPU cores, most of it to compile the programs that are written out.
"""

import math
import time
from functools import partial

import harness
import jax

from jaxtickets import train
from jaxtickets.data import batches
from jaxtickets.devices import replicate

# The network, its width and its image size.
NETWORKS = {
    "linear_ae": ("linear_ae", 128, 32),
    "dcgan_16": ("dcgan", 32, 16),
    "conv_vae": ("conv_vae", 32, 32),
    "dcgan_32": ("dcgan", 64, 32),
}


def programs(training: harness.Training, counts: list[int], written_out: bool):
    """`{name: (steps per call, program)}`; those without a loop only if `written_out`."""
    make = partial(train.make_step, training.objective, training.optimizers)
    turns = train.period(training.objective)
    found = {"1": (1, make(turns[0]))}
    for count in counts:
        found[f"{count}, loop"] = count, make(turns, steps_per_call=count)
        if written_out:  # A loop with one turn, which XLA compiles as no loop.
            found[f"{count}, written out"] = count, make(turns * count, steps_per_call=count)
    return found


def measure(
    network: str, counts: list[int], batch_size: int, seconds: float, repeats: int, written_out: bool = True
) -> dict:
    """`{program: {"steps": steps per call, "compile_seconds": ..., "seconds": seconds of a step in each repeat}}`."""
    name, width, image_size = NETWORKS[network]
    training = harness.training(name, width, image_size)
    images = harness.random_images(1024, image_size)
    masks, data = replicate(training.masks), replicate((images, None))
    rows = math.lcm(*counts)
    chosen = partial(batches.indices, 0, n=len(images), batch_size=batch_size)
    _, _, indices = next(batches.resident(data, chosen, [range(1)], jax.local_device_count(), rows))

    results, runners, length = {}, {}, rows

    def runner(count, compiled, state):
        def run():
            nonlocal state
            for _ in range(length // count):
                state, _ = compiled(state, masks, data, indices)
            jax.block_until_ready(state)

        return run

    for title, (count, program) in programs(training, counts, written_out).items():
        state = replicate(training.state)
        started = time.perf_counter()
        compiled = program.lower(state, masks, data, indices).compile()
        results[title] = {"steps": count, "compile_seconds": time.perf_counter() - started}
        runners[title] = runner(count, compiled, state)
    runners["1"]()
    started = time.perf_counter()
    runners["1"]()
    length *= math.ceil(seconds / (time.perf_counter() - started))
    for title, values in harness.in_turn(runners, repeats).items():
        results[title]["seconds"] = [value / length for value in values]
    return results


def main():
    parser = harness.parser(__doc__, repeats=5)
    parser.add_argument("--networks", default=",".join(NETWORKS), help=f"some of {', '.join(NETWORKS)}")
    parser.add_argument("--counts", default="2,4,8", help="steps per call")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="the least seconds of a repeat with one step per call"
    )
    options = parser.parse_args()
    counts = [int(count) for count in options.counts.split(",")]

    results = {}
    print(f"{'network':10} {'steps per call':>15} {'ms per step':>26} {'ratio to one':>22} {'compile s':>10}")
    for network in options.networks.split(","):
        results[network] = measure(network, counts, options.batch_size, options.seconds, options.repeats)
        seconds = {title: result["seconds"] for title, result in results[network].items()}
        for title, result in results[network].items():
            ms = harness.spread([1000 * value for value in result["seconds"]], 2)
            share = harness.spread(harness.ratios(seconds, title, "1"))
            print(f"{network:10} {title:>15} {ms:>26} {share:>22} {result['compile_seconds']:10.1f}", flush=True)
    harness.write(options, results)


if __name__ == "__main__":
    main()
